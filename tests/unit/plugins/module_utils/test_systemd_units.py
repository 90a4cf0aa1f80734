# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd is asked, and what it is told, for every state a unit can be in."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _systemd_units as core

UNIT = "/etc/systemd/system/a.service"


class Systemd:
    """Answers like systemctl; units are (ActiveState, UnitFileState, LoadState, NeedDaemonReload)."""

    def __init__(self, fail="", **units):
        self.units = {name.replace("_", "."): list(state) for name, state in units.items()}
        self.calls, self.fail = [], fail

    def __call__(self, argv):
        verb = argv[1]
        if verb != "show":
            self.calls.append(" ".join(argv[1:]))
        if verb == self.fail:
            return 1, "", "Job for a.service failed."
        if verb == "show":
            blocks = []
            for name in argv[argv.index("--") + 1 :]:
                active, file, load, stale = self.units[name]
                blocks.append(
                    f"Id={name}\nLoadState={load}\nActiveState={active}\nUnitFileState={file}\nNeedDaemonReload={stale}"
                )
            return 0, "\n\n".join(blocks) + "\n", ""
        if verb == "start":
            self.units[argv[-1]][0] = "active"
        if verb == "enable":
            self.units[argv[-1]][1] = "enabled"
        if verb == "daemon-reload":
            for state in self.units.values():
                state[3] = "no"
        return 0, "", ""


RUNS = ("active", "enabled", "loaded", "no")


@pytest.mark.parametrize(
    ("state", "paths", "calls", "started"),
    [
        (RUNS, [], [], []),
        (("active", "static", "loaded", "no"), [], [], []),
        (("active", "generated", "loaded", "no"), ["/etc/other"], [], []),
        (("inactive", "static", "loaded", "no"), [], ["start -- a.service"], ["a.service"]),
        (("failed", "enabled", "loaded", "no"), [], ["start -- a.service"], ["a.service"]),
        (("active", "disabled", "loaded", "no"), [], ["enable -- a.service"], ["a.service"]),
        (("inactive", "disabled", "loaded", "no"), [UNIT],
         ["daemon-reload", "enable -- a.service", "start -- a.service"], ["a.service"]),
        (("active", "enabled", "loaded", "yes"), [], ["daemon-reload"], []),
        (("active", "enabled", "loaded", "yes"), [UNIT], ["daemon-reload"], []),
    ],
)  # fmt: skip
def test_only_what_is_missing_is_done(state, paths, calls, started):
    systemd = Systemd(a_service=state)
    assert core.bring_up(["a.service"], paths, systemd) == started
    assert systemd.calls == calls
    assert core.bring_up(["a.service"], [], systemd) == []


def test_check_mode_tells_and_touches_nothing():
    systemd = Systemd(a_service=("inactive", "", "not-found", "no"), b_service=RUNS)
    assert core.bring_up(["a.service", "b.service"], [UNIT], systemd, check=True) == ["a.service"]
    assert systemd.calls == []


def test_units_come_up_in_the_order_given():
    systemd = Systemd(b_mount=("inactive", "static", "loaded", "no"), a_service=("inactive", "enabled", "loaded", "no"))
    assert core.bring_up(["b.mount", "a.service"], [], systemd) == ["b.mount", "a.service"]
    assert systemd.calls == ["start -- b.mount", "start -- a.service"]


@pytest.mark.parametrize(
    ("systemd", "said"),
    [
        (Systemd(a_service=("inactive", "", "not-found", "no")),
         "a.service: there is no such unit. Write its file below /etc/systemd/system/ first."),
        (Systemd(a_service=("active", "enabled", "bad-setting", "no")),
         "a.service: systemd cannot use its file (bad-setting). See what it says: systemctl status a.service"),
        (Systemd(a_service=("inactive", "enabled", "bad-setting", "no")),
         "a.service: systemd cannot use its file (bad-setting). See what it says: systemctl status a.service"),
        (Systemd(fail="start", a_service=("inactive", "enabled", "loaded", "no")),
         "systemctl start -- a.service failed: Job for a.service failed.. See: journalctl -b -u a.service"),
        (Systemd(fail="show", a_service=RUNS),
         "systemctl show --property=Id,ActiveState,UnitFileState,LoadState,NeedDaemonReload -- a.service failed: "
         "Job for a.service failed.. See: journalctl -b -u a.service"),
    ],
)  # fmt: skip
def test_a_refusal_says_which_unit_and_where_to_look(systemd, said):
    with pytest.raises(core.UnitError) as caught:
        core.bring_up(["a.service"], [], systemd)
    assert str(caught.value) == said
