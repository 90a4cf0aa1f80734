# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What dockerd is told: by daemon.json, by its unit with drop-ins, and by the command line that runs.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Two views are kept apart: what the engine uses when it starts the next time (unit and file), and what it was started
with (command line and file). They differ between a change and the restart, and either may be the weak one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _unit_files
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._daemon_config import BOOLEAN_FLAGS, FLAG_KEYS, PATH
from ansible_collections.mcpstack.platform.plugins.module_utils._host_probe import Daemon

UNIT, SOCKET_UNIT = "docker.service", "docker.socket"
COMMAND_LINE = "dockerd command line"

#: A setting that is not there.
ABSENT = object()

#: Largest daemon.json that is read.
LIMIT = 1 << 20

_BOOLEANS = BOOLEAN_FLAGS - {"D", "validate", "rootless"}
_STRINGS = frozenset(
    """bip bridge cgroup-parent containerd containerd-namespace data-root default-cgroupns-mode default-gateway
    default-ipc-mode default-runtime exec-root fixed-cidr fixed-cidr-v6 group init-path ip log-driver log-format
    log-level metrics-addr pidfile seccomp-profile storage-driver tlscacert tlscert tlskey userland-proxy-path
    userns-remap""".split()
)
_LISTS = frozenset(
    """authorization-plugins default-address-pools dns dns-opts dns-search exec-opts hosts insecure-registries labels
    registry-mirrors storage-opts allow-nondistributable-artifacts node-generic-resources""".split()
)
_TEXT_LISTS = _LISTS - {"default-address-pools"}
_MAPS = frozenset(("log-opts", "default-ulimits", "runtimes", "features", "default-network-opts", "builder"))
_KNOWN = _BOOLEANS | _STRINGS | _LISTS | _MAPS
_SPELLINGS = {name.replace("-", ""): name for name in _KNOWN}
#: Most complaints about one file.
_SHOWN = 20
#: Settings that dockerd accepts in both places.
_MAY_REPEAT = frozenset(("features", "builder", "runtimes"))

#: What strconv.ParseBool of Go accepts.
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


@dataclass
class DaemonFile:
    """daemon.json. ``problems`` are (where, evidence); ``broken`` when the engine could not read any of it."""

    path: str = PATH
    values: dict = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)
    broken: bool = False
    known: bool = True
    text: str = field(default="", repr=False)

    def where(self, key: str) -> str:
        """The last place that names the key, which is the one that counts."""
        places = [match.start() for match in re.finditer(rf'"{re.escape(key)}"\s*:', self.text)]
        return f"{self.path}:{self.text.count(chr(10), 0, places[-1]) + 1}" if places else self.path


@dataclass(frozen=True)
class Seen:
    """A value in effect and where it comes from; ``ABSENT`` for the engine's default."""

    value: object
    where: str


@dataclass
class Flags:
    """What a command line sets, in terms of keys: key -> (value, where). ``problems`` are (where, evidence).

    wrong: keys with a value that dockerd does not read.
    """

    values: dict[str, tuple[object, str]] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    problems: list[tuple[str, str]] = field(default_factory=list)


def boolean(text: str) -> bool | None:
    """As dockerd reads the value of a flag; None when it refuses to start with it."""
    return True if text in _TRUE else False if text in _FALSE else None


def _type_name(value: object) -> str:
    names = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "a number")


def _type_problem(key: str, value: object) -> str:
    """What keeps dockerd from reading the value, or empty."""
    if value is None:
        return ""
    expected = ""
    if key in _BOOLEANS and not isinstance(value, bool):
        expected = "a boolean"
    elif key in _STRINGS and not isinstance(value, str):
        expected = "a string"
    elif key in _LISTS and not isinstance(value, list):
        expected = "a list"
    elif key in _MAPS and not isinstance(value, dict):
        expected = "an object"
    if expected:
        return f"{key} is {_type_name(value)}, the engine reads {expected}"
    if key in _TEXT_LISTS and not all(isinstance(item, str) for item in value):
        return f"{key} holds something that is no string"
    if key == "log-opts":
        for name, option in value.items():
            if not isinstance(option, str):
                return f"log-opts.{name} is {_type_name(option)}, the engine reads a string"
    if key == "default-ulimits":
        for name, limit in value.items():
            if not isinstance(limit, dict):
                return f"default-ulimits.{name} is {_type_name(limit)}, the engine reads an object"
    return ""


#: Where names that stand twice are noted while parsing; no JSON text can hold a name that is no string.
_DOUBLE = ("names that stand twice",)


def _unique(pairs: list[tuple[str, object]]) -> dict:
    found: dict = dict(pairs)
    if len(found) != len(pairs):
        found[_DOUBLE] = [name for name, times in Counter(name for name, _value in pairs).items() if times > 1]
    return found


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _forget_double(value: object) -> list[str]:
    """Take the notes about double names out again, at every depth."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            found += item.pop(_DOUBLE, [])
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return found


def parse_file(data: bytes, path: str = PATH) -> DaemonFile:
    """Judge the bytes of daemon.json as dockerd would."""
    result = DaemonFile(path)
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            result.text = data.decode("utf-16")
        else:
            result.text = data.decode("utf-8-sig")
        if not result.text.strip():
            return result
        values = json.loads(result.text, object_pairs_hook=_unique, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        result.problems.append((path, f"is not UTF-8 text (byte {error.start})"))
        result.broken = True
        return result
    except json.JSONDecodeError as error:
        result.problems.append((f"{path}:{error.lineno}", f"is not JSON: {error.msg} (column {error.colno})"))
        result.broken = True
        return result
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        result.problems.append((path, f"is not JSON: {what}"))
        result.broken = True
        return result
    if not isinstance(values, dict):
        result.problems.append((path, f"is {_type_name(values)}, not an object of settings"))
        result.broken = True
        return result
    found = [(name, f"{name} is set twice; the last one counts") for name in sorted(set(_forget_double(values)))]
    for key, value in values.items():
        what = _type_problem(key, value)
        if what:
            result.wrong.add(key)
            found.append((key, what))
        elif key not in _KNOWN:
            right = _SPELLINGS.get(key.lower().replace("_", "").replace("-", ""))
            if right:
                found.append((key, f"{key} is no setting of the engine; it is spelt {right}"))
    result.problems += [(result.where(key), what) for key, what in found[:_SHOWN]]
    result.values = {key: value for key, value in values.items() if key not in result.wrong and value is not None}
    return result


def read_file(files: Files, path: str, must_exist: bool) -> DaemonFile:
    """daemon.json from the host. must_exist: a flag names it, and then dockerd does not start without."""
    if files.stat(path) is None:
        result = DaemonFile(path, known=files.knows(path))
        if must_exist and result.known:
            result.problems.append((path, "is named by --config-file and does not exist"))
        return result
    try:
        return parse_file(files.read(path, LIMIT), path)
    except Unreadable as error:
        return DaemonFile(path, problems=[(path, error.what)], broken=True)


def _set(flags: Flags, flag: str, value: str, where: str) -> None:
    key = FLAG_KEYS.get(flag, flag)
    if flag in BOOLEAN_FLAGS:
        parsed = boolean(value)
        if parsed is None:
            flags.problems.append((where, f"--{flag}={value} is no boolean that the engine reads"))
            flags.wrong.add(key)
        else:
            flags.values[key] = (parsed, where)
        return
    before = flags.values.get(key, (None, ""))[0]
    if key in _LISTS:
        # in place: a command line may repeat a flag many times
        entries = before if isinstance(before, list) else []
        entries.append(value)
        flags.values[key] = (entries, where)
    elif key in ("log-opts", "default-ulimits"):
        name, _equals, content = value.partition("=")
        options = before if isinstance(before, dict) else {}
        options[name] = content
        if key == "default-ulimits":
            soft, _colon, hard = content.partition(":")
            options[name] = {"Name": name, "Soft": _number(soft), "Hard": _number(hard or soft)}
        flags.values[key] = (options, where)
    else:
        flags.values[key] = (value, where)


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else -1


def parse_flags(line: Iterable[tuple[str, str]]) -> Flags:
    """Flags as dockerd's parser takes them: a boolean takes no separate word, ``-DH x`` is two flags."""
    flags = Flags()
    rest = list(line)
    index = 0
    while index < len(rest):
        word, where = rest[index]
        index += 1
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            continue
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals:
                if name in BOOLEAN_FLAGS:
                    value = "true"
                elif index < len(rest):
                    value = rest[index][0]
                    index += 1
            _set(flags, name, value, where)
            continue
        letters = word[1:]
        while letters:
            name, letters = letters[0], letters[1:]
            if name in BOOLEAN_FLAGS and not letters.startswith("="):
                _set(flags, name, "true", where)
                continue
            value, letters = letters.removeprefix("="), ""
            if not value and index < len(rest):
                value = rest[index][0]
                index += 1
            _set(flags, name, value, where)
    return flags


@dataclass
class Settings:
    """Everything dockerd is told.

    unit: flags of the next start; None when they cannot be told, and ``unit_problem`` says why. running: flags of the
    process that owns the socket; None when it was not found. units: the unit files that were read.
    """

    file: DaemonFile
    unit: Flags | None
    running: Flags | None
    unit_problem: str = ""
    sockets: list[_unit_files.Setting] = field(default_factory=list)

    @property
    def flags_known(self) -> bool:
        """Whether any command line could be read."""
        return self.unit is not None or self.running is not None

    def known(self, key: str) -> bool:
        """Whether the value of a key can be told to the end."""
        if any(flags is not None and key in flags.wrong for flags in (self.unit, self.running)):
            return False
        if self.file.broken or not self.file.known or key in self.file.wrong:
            return any(flags is not None and key in flags.values for flags in (self.unit, self.running))
        return self.flags_known or key in self.file.values

    def reason(self, key: str) -> str:
        """Why it cannot."""
        if any(flags is not None and key in flags.wrong for flags in (self.unit, self.running)):
            return f"the flag for {key} has a value that the engine does not read"
        if self.file.broken or key in self.file.wrong:
            return f"{self.file.path} cannot be read as the engine would"
        if not self.file.known:
            return f"{self.file.path} is not among the files at hand"
        return self.unit_problem or "the engine's command line is not known"

    def seen(self, key: str) -> list[Seen]:
        """The different values in effect: of the next start, and what a flag gave to the one that runs.

        What the running engine once read from the file is not known, so the file counts for the next start only.
        """
        found: list[Seen] = []
        first = self.unit if self.unit is not None else self.running
        for flags in (first, self.running if first is not self.running else None):
            if flags is not None and key in flags.values:
                value, where = flags.values[key]
                item = Seen(value, where)
            elif flags is not first or (flags is not None and key in flags.wrong):
                continue
            elif key in self.file.values:
                item = Seen(self.file.values[key], self.file.where(key))
            elif self.file.broken or not self.file.known or key in self.file.wrong:
                continue
            else:
                item = Seen(ABSENT, self.file.path)
            if not any(item.value is other.value or item.value == other.value for other in found):
                found.append(item)
        return found

    def conflicts(self) -> list[tuple[str, str]]:
        """Settings that stand in the file and on the command line: dockerd refuses to start."""
        flags = self.unit if self.unit is not None else self.running
        found = []
        for key in sorted((set(self.file.values) | self.file.wrong) & set(flags.values if flags else ())):
            if key not in _MAY_REPEAT:
                found.append((flags.values[key][1], f"{key} is set by a flag and in {self.file.path}"))
        return found


def _unit_command(files: Files, unit: _unit_files.Unit) -> tuple[Flags | None, str]:
    line = _unit_files.command(files, unit)
    if unit.problems:
        return None, unit.problems[0]
    for index, (word, _where) in enumerate(line):
        if word.lstrip("-@:+!|").rpartition("/")[2] == "dockerd":
            return parse_flags(line[index + 1 :]), ""
    return None, f"{unit.main} does not start dockerd itself"


def load(files: Files, daemon: Daemon | None = None) -> Settings:
    """Read all of it. daemon: the process that owns the socket, where it is known."""
    running = None if daemon is None else parse_flags((word, COMMAND_LINE) for word in daemon.args)
    unit = _unit_files.load(files, UNIT)
    next_start, problem = (None, f"{UNIT} was not found") if unit is None else _unit_command(files, unit)
    sockets: list[_unit_files.Setting] = []
    socket_unit = _unit_files.load(files, SOCKET_UNIT)
    if socket_unit is not None:
        for item in socket_unit.of("Socket"):
            if item.name in ("ListenStream", "SocketMode", "SocketUser", "SocketGroup"):
                if item.name == "ListenStream" and not item.value:
                    sockets = [other for other in sockets if other.name != "ListenStream"]
                else:
                    sockets.append(item)
    path, must_exist = PATH, False
    for flags in (running, next_start):
        if flags is not None and "config-file" in flags.values:
            path, must_exist = str(flags.values["config-file"][0]), True
    return Settings(read_file(files, path, must_exist), next_start, running, problem, sockets)
