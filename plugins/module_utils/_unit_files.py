# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Units of systemd with their drop-ins, read through ``Files``, every setting with its file and line.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable

#: Highest precedence first.
DIRECTORIES = (
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
#: Longest unit or environment file; real ones have a few kilobytes.
LIMIT = 1 << 16


@dataclass(frozen=True)
class Setting:
    """One assignment of a unit."""

    section: str
    name: str
    value: str
    where: str


@dataclass
class Unit:
    """A unit as systemd puts it together. ``problems`` names files that could not be read."""

    main: str
    files: list[str]
    settings: list[Setting]
    problems: list[str]

    def of(self, section: str, *names: str) -> list[Setting]:
        """The assignments of a section, in order; of all names, or of some."""
        return [item for item in self.settings if item.section == section and (not names or item.name in names)]


def directories(files: Files) -> list[str]:
    """Where systemd looks; /lib only where it is not /usr/lib."""
    link = files.stat("/lib", follow=False)
    merged = link is not None and link.kind == "link"
    return [path for path in DIRECTORIES if not (merged and path.startswith("/lib/"))]


def drop_in_directories(files: Files, unit: str) -> list[str]:
    """The directories of drop-ins that exist: those of the unit, then those for all units of its type."""
    kind = unit.rpartition(".")[2]
    paths = [f"{folder}/{name}.d" for name in (unit, kind) for folder in directories(files)]
    return [path for path in paths if (info := files.stat(path)) is not None and info.kind == "directory"]


def drop_ins(files: Files, unit: str) -> list[str]:
    """The drop-ins that count, in the order in which they are applied."""
    found: dict[str, str] = {}
    for folder in drop_in_directories(files, unit):
        for name in files.names(folder):
            if name.endswith(".conf"):
                found.setdefault(name, f"{folder}/{name}")
    return [found[name] for name in sorted(found)]


def parse(text: str, path: str) -> list[Setting]:
    """The assignments of one file. Lines that are none are passed over, as systemd does."""
    found: list[Setting] = []
    section, pending, start = "", "", 0
    for number, raw in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        line = raw.strip() if not pending else raw.rstrip()
        if line.lstrip()[:1] in ("#", ";"):
            continue  # also inside a continued line
        if not pending:
            start = number
        if line.endswith("\\") and not line.endswith("\\\\"):
            pending += line[:-1] + " "
            continue
        line, pending = (pending + line).strip(), ""
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" in line:
            name, _equals, value = line.partition("=")
            found.append(Setting(section, name.strip(), value.strip(), f"{path}:{start}"))
    if "=" in pending:
        name, _equals, value = pending.partition("=")
        found.append(Setting(section, name.strip(), value.strip(), f"{path}:{start}"))
    return found


def load(files: Files, unit: str) -> Unit | None:
    """The unit with its drop-ins; None when there is none."""
    main = next((f"{folder}/{unit}" for folder in directories(files) if files.stat(f"{folder}/{unit}")), None)
    if main is None:
        return None
    loaded = Unit(main, [main, *drop_ins(files, unit)], [], [])
    for path in loaded.files:
        info = files.stat(path)
        if info is not None and info.kind == "other":
            continue  # /dev/null: masked
        try:
            loaded.settings += parse(files.read(path, LIMIT).decode("utf-8", "replace"), path)
        except Unreadable as error:
            loaded.problems.append(str(error))
    return loaded


def words(text: str) -> list[str]:
    """Split a command line; one with an unbalanced quote at its spaces."""
    try:
        return shlex.split(text, comments=False)
    except ValueError:
        return text.split()


def _environment(files: Files, unit: Unit) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    from_files: dict[str, tuple[str, str]] = {}
    for item in unit.of("Service", "Environment", "EnvironmentFile"):
        if item.name == "Environment":
            if not item.value:
                found.clear()
            for word in words(item.value):
                name, equals, value = word.partition("=")
                if equals:
                    found[name] = (value, item.where)
            continue
        path = item.value.removeprefix("-")
        if not path:
            from_files.clear()
        elif path.startswith("/") and files.stat(path) is not None:
            try:
                text = files.read(path, LIMIT).decode("utf-8", "replace")
            except Unreadable as error:
                unit.problems.append(str(error))
                continue
            for number, line in enumerate(text.splitlines(), 1):
                name, equals, value = line.strip().partition("=")
                if equals and name[:1] not in "#;":
                    from_files[name.strip()] = (" ".join(words(value)), f"{path}:{number}")
        elif path.startswith("/") and not files.knows(path):
            unit.problems.append(f"{path}: is not among the files at hand")
    return {**found, **from_files}  # a file wins over Environment=


def command(files: Files, unit: Unit) -> list[tuple[str, str]]:
    """The last ExecStart as (word, where it is written), variables of the unit's environment put in."""
    chosen: Setting | None = None
    for item in unit.of("Service", "ExecStart"):
        chosen = item if item.value else None
    if chosen is None:
        return []
    environment = _environment(files, unit)
    out: list[tuple[str, str]] = []
    for word in words(chosen.value):
        whole = re.fullmatch(r"\$([A-Za-z_][A-Za-z0-9_]*)", word)
        if whole:
            value, where = environment.get(whole.group(1), ("", chosen.where))
            out += [(part, where) for part in words(value)]
            continue
        where = chosen.where
        for name in re.findall(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", word):
            where = environment.get(name, ("", where))[1]
        word = re.sub(
            r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", lambda match: environment.get(match.group(1), ("", ""))[0], word
        )
        out.append((word, where))
    return out
