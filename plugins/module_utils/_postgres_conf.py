# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read postgresql.conf as the server does: includes, quoting, units, the last one wins. PRIVATE: may change at any time."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable

#: Files that one configuration may include, and how deep (the server's own limit is 10).
MOST_FILES, DEEPEST = 200, 10
MOST_PROBLEMS = 20

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.|'')*'", re.DOTALL)
_BARE = re.compile(r"[^\s'#]*")
_SIZE = re.compile(r"([+-]?[0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\Z")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Setting:
    """One setting and where it stands. ``given`` is false for a default."""

    name: str
    value: str
    where: str
    given: bool = True


@dataclass
class Conf:
    """What applies. ``complete`` is false when a part could not be read, so that what is missing may be there."""

    source: str = ""
    found: dict[str, Setting] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        """Keep a problem; one is enough to know that something is missing, so not all of them are kept."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)

    def get(self, name: str, default: str = "") -> Setting:
        """The setting that counts, or its default."""
        return self.found.get(name) or Setting(name, default, self.source, False)

    def text(self, name: str, default: str = "") -> str:
        """Its value in lower case."""
        return self.get(name, default).value.strip().lower()

    def on(self, name: str, default: str = "off") -> bool:
        """Whether a switch is on."""
        return boolean(self.get(name, default).value)

    def seconds(self, name: str, default: str, unit: str) -> float | None:
        """A duration; ``unit`` is that of a bare number."""
        return seconds(self.get(name, default).value, unit)


def boolean(text: str) -> bool:
    """The server takes any beginning that is clear."""
    low = text.strip().lower()
    return low == "1" or low == "on" or bool(low) and ("true".startswith(low) or "yes".startswith(low))


def seconds(text: str, unit: str) -> float | None:
    """Seconds of a duration; None when it is none."""
    match = _SIZE.match(text.strip())
    if not match or len(text) > 40 or (match[2] or unit) not in _SECONDS:
        return None
    return float(match[1]) * _SECONDS[match[2] or unit]


def unquote(text: str) -> str:
    """A value without its quotes."""
    if not text.startswith("'"):
        return text

    def plain(match: re.Match) -> str:
        what = match[0]
        if what == "''":
            return "'"
        simple = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
        if what[1] in "01234567":
            return chr(int(what[1:], 8))
        return simple.get(what[1], what[1])

    return re.sub(r"''|\\[0-7]{1,3}|\\.", plain, text[1:-1], flags=re.DOTALL)


def _pair(line: str) -> tuple[str, str] | None:
    """Name and value of a line; None where the server refuses it."""
    name = _NAME.match(line)
    if not name:
        return None
    rest = line[name.end() :].lstrip()
    rest = rest[1:].lstrip() if rest.startswith("=") else rest
    value = (_QUOTED if rest.startswith("'") else _BARE).match(rest)
    if not value:
        return None
    tail = rest[value.end() :].strip()
    return None if tail and not tail.startswith("#") else (name[0].lower(), unquote(value[0]))


def read_conf(files: Files, path: str) -> Conf:
    """The configuration file and everything it includes."""
    conf = Conf(path)
    _read(files, path, conf, (), [0])
    return conf


def _read(files: Files, path: str, conf: Conf, above: tuple[str, ...], count: list[int]) -> None:
    if path in above or len(above) >= DEEPEST or count[0] >= MOST_FILES:
        conf.note(f"{path} includes itself, or too many files are included")
        return
    count[0] += 1
    try:
        text = files.text(path)
    except Unreadable as error:
        conf.note(str(error))
        return
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped[0] == "#":
            continue
        pair, where = _pair(stripped), f"{path}:{number}"
        if pair is None:
            conf.note(f"{where}: is no setting; the server does not start with this line")
            continue
        name, value = pair
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), value))
        if name == "include" or (name == "include_if_exists" and (not files.knows(target) or files.stat(target))):
            _read(files, target, conf, (*above, path), count)
        elif name == "include_dir":
            if not files.knows(target):
                conf.note(f"{where}: the directory {target} is not at hand")
            for entry in files.names(target):
                if entry.endswith(".conf") and not entry.startswith("."):
                    _read(files, posixpath.join(target, entry), conf, (*above, path), count)
        elif name != "include_if_exists":
            conf.found[name] = Setting(name, value, where)


def from_settings(settings: Mapping[str, str | None]) -> Conf:
    """What the running server says of itself."""
    conf = Conf("pg_settings")
    conf.found = {name: Setting(name, value or "", "pg_settings") for name, value in settings.items()}
    return conf


def add_arguments(conf: Conf, command: Sequence[str], where: str) -> None:
    """Settings on the command line of the server win over every file."""
    words = list(command)
    for place, word in enumerate(words):
        text = ""
        if word == "-c" and place + 1 < len(words):
            text = words[place + 1]
        elif word.startswith("-c") and "=" in word:
            text = word[2:]
        elif word.startswith("--"):
            text = word[2:]
        name, equals, value = text.partition("=")
        name = name.strip().lower().replace("-", "_")
        if equals and _NAME.fullmatch(name):
            conf.found[name] = Setting(name, value, where)


def words_of(value: str) -> Iterable[str]:
    """The entries of a list such as that of libraries."""
    return (part.strip().strip('"') for part in value.split(",") if part.strip())
