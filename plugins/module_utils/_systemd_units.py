# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units of systemd that must run. PRIVATE: internal to the collection, may change in any release."""

from __future__ import annotations

from collections.abc import Callable

UNIT_DIR = "/etc/systemd/system/"
PROPERTIES = ("Id", "ActiveState", "UnitFileState", "LoadState", "NeedDaemonReload")


class UnitError(Exception):
    """systemd could not do what was wanted."""


def _systemctl(run: Callable, *arguments: str) -> str:
    status, out, err = run(["systemctl", *arguments])
    if status:
        raise UnitError(
            f"systemctl {' '.join(arguments)} failed: {(err or out).strip()}. See: journalctl -b -u {arguments[-1]}"
        )
    return out


def states(units: list[str], run: Callable) -> dict[str, dict[str, str]]:
    """Properties of each unit, by its name; a unit without a file has the LoadState not-found."""
    out = _systemctl(run, "show", f"--property={','.join(PROPERTIES)}", "--", *units)
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in out.strip().split("\n\n")]
    if len(blocks) != len(units):
        raise UnitError(f"systemctl told of {len(blocks)} units instead of {len(units)}: {out.strip()}")
    return dict(zip(units, blocks))


def _lacks(state: dict[str, str]) -> bool:
    return state["ActiveState"] != "active" or state["UnitFileState"] == "disabled"


def bring_up(units: list[str], changed_paths: list[str], run: Callable, check: bool = False) -> list[str]:
    """Start and enable what is not, and return the units that needed it.

    changed_paths: files that were just written; systemd reads its units anew when one of them is a unit.
    run: called with a command line, returns (exit status, output, errors).
    check: change nothing. A unit whose file would only be written now is one that would be started.
    """
    written = [path for path in changed_paths if path.startswith(UNIT_DIR)]
    if written and not check:
        _systemctl(run, "daemon-reload")
    found = states(units, run)
    if not written and not check and any(state["NeedDaemonReload"] == "yes" for state in found.values()):
        _systemctl(run, "daemon-reload")  # a run that was killed after the files had landed
        found = states(units, run)
    needy = [name for name in units if _lacks(found[name])]
    if check:
        return needy
    for name in units:  # a timer stays active with a file that systemd refuses, and never fires again
        load = found[name]["LoadState"]
        if load == "not-found":
            raise UnitError(f"{name}: there is no such unit. Write its file below {UNIT_DIR} first.")
        if load != "loaded":
            raise UnitError(f"{name}: systemd cannot use its file ({load}). See what it says: systemctl status {name}")
    for name in needy:
        if found[name]["UnitFileState"] == "disabled":
            _systemctl(run, "enable", "--", name)
        if found[name]["ActiveState"] != "active":
            _systemctl(run, "start", "--", name)
    return needy
