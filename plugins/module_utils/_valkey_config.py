# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read configuration and users of Valkey and Redis as the server does. PRIVATE: may change in any release."""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable

#: Files that one configuration may include, and how deep.
MOST_FILES, DEEPEST = 200, 16
MOST_PROBLEMS, MOST_USERS = 20, 1000
#: Directives that add to what was said before; of all others the last one counts.
_ADDING = frozenset(("user", "save", "client-output-buffer-limit", "rename-command", "loadmodule", "include"))

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a"}


@dataclass(frozen=True)
class Directive:
    """One line: its name in lower case, its arguments, and where it stands."""

    name: str
    words: tuple[str, ...]
    where: str

    @property
    def value(self) -> str:
        """The first argument."""
        return self.words[0] if self.words else ""


class Settings:
    """What applies after everything was read."""

    def __init__(self, directives: Iterable[Directive] = (), source: str = ""):
        self.source = source
        self._found: dict[str, list[Directive]] = {}
        for directive in directives:
            if directive.name in _ADDING:
                self._found.setdefault(directive.name, []).append(directive)
            else:
                self._found[directive.name] = [directive]

    def all(self, name: str) -> list[Directive]:
        """Every line of a directive that adds."""
        return self._found.get(name, [])

    def get(self, name: str, default: str = "") -> Directive:
        """The line that counts, or one that says the default."""
        found = self._found.get(name)
        return found[-1] if found else Directive(name, (default,) if default else (), self.source)

    def has(self, name: str) -> bool:
        """Whether the directive is there."""
        return name in self._found


def split(line: str) -> list[str] | None:
    """Words of a line with the server's quoting; None where it refuses the line."""
    words, position, size = [], 0, len(line)
    while True:
        while position < size and line[position].isspace():
            position += 1
        if position >= size:
            return words
        word, quote = [], ""
        while position < size:
            char = line[position]
            position += 1
            if quote == '"' and char == "\\" and position < size:
                char = line[position]
                position += 1
                code = line[position : position + 2]
                if char == "x" and len(code) == 2 and all(digit in "0123456789abcdefABCDEF" for digit in code):
                    word.append(chr(int(code, 16)))
                    position += 2
                else:
                    word.append(_ESCAPES.get(char, char))
            elif quote == "'" and line[position - 1 : position + 1] == "\\'":
                word.append("'")
                position += 1
            elif quote:
                if char == quote:
                    if position < size and not line[position].isspace():
                        return None
                    quote = ""
                    break
                word.append(char)
            elif char in "\"'":
                quote = char
            elif char.isspace():
                break
            else:
                word.append(char)
        if quote:
            return None
        words.append("".join(word))


@dataclass
class _Reading:
    files: Files
    directives: list[Directive] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    read: int = 0

    def note(self, problem: str) -> None:
        """Keep a problem; one is enough to know that something is missing, so not all of them are kept."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)


def read_config(files: Files, path: str) -> tuple[Settings, list[str]]:
    """The settings of a file with all it includes, and a sentence for each part that could not be read."""
    reading = _Reading(files)
    _read(reading, path, ())
    return Settings(reading.directives, path), reading.problems


def _read(reading: _Reading, path: str, above: tuple[str, ...]) -> None:
    if path in above:
        reading.note(f"{path} includes itself")
        return
    if len(above) >= DEEPEST or reading.read >= MOST_FILES:
        reading.note(f"{path}: more than {MOST_FILES} files, or more than {DEEPEST} levels, are included")
        return
    reading.read += 1
    try:
        text = reading.files.text(path)
    except Unreadable as error:
        reading.note(str(error))
        return
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r\n")
        if not line or line[0] == "#":
            continue
        words = split(line)
        if words is None:
            reading.note(f"{path}:{number}: quotes are not balanced; the server does not start with this line")
            continue
        directive = Directive(words[0].lower(), tuple(words[1:]), f"{path}:{number}")
        if directive.name == "include" and directive.words:
            for target in _targets(reading.files, path, directive.value):
                _read(reading, target, (*above, path))
        else:
            reading.directives.append(directive)


def _targets(files: Files, path: str, pattern: str) -> list[str]:
    """Relative to the directory that the server starts in, which is taken to be that of the file."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), pattern))
    if not any(char in pattern for char in "*?["):
        return [target]
    directory, name = posixpath.split(target)
    return [posixpath.join(directory, found) for found in files.names(directory) if fnmatch.fnmatchcase(found, name)]


def from_pairs(pairs: dict[str, str], source: str) -> Settings:
    """What CONFIG GET answered. Values that the file repeats on lines come as one."""
    directives = []
    for name, value in pairs.items():
        words = split(value) or ()
        if name == "client-output-buffer-limit":
            directives += [Directive(name, tuple(words[n : n + 4]), source) for n in range(0, len(words), 4)]
        else:
            directives.append(Directive(name, tuple(words), source))
    return Settings(directives, source)


_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 10**6, "mb": 1 << 20, "g": 10**9, "gb": 1 << 30}


def memory(text: str) -> int | None:
    """Bytes, with the server's units; None for what is none."""
    digits = text.rstrip("bBkKmMgG")
    unit = _UNITS.get(text[len(digits) :].lower())
    return int(digits) * unit if unit and digits.isascii() and digits.isdigit() and len(digits) < 20 else None


# -- users ------------------------------------------------------------------------------------------------------------

#: Categories of the commands that matter here.
_COMMANDS = {
    "config|set": "admin slow dangerous", "config|get": "admin slow dangerous", "config|rewrite": "admin slow dangerous",
    "debug": "admin slow dangerous", "module|load": "admin slow dangerous", "shutdown": "admin slow dangerous",
    "replicaof": "admin slow dangerous", "slaveof": "admin slow dangerous", "acl|setuser": "admin slow dangerous",
    "monitor": "admin slow dangerous", "save": "admin slow dangerous", "bgsave": "admin slow dangerous",
    "failover": "admin slow dangerous", "psync": "admin slow dangerous", "cluster|reset": "admin slow dangerous",
    "client|kill": "admin slow dangerous connection", "flushall": "keyspace write slow dangerous",
    "flushdb": "keyspace write slow dangerous", "swapdb": "keyspace write fast dangerous",
    "migrate": "keyspace write slow dangerous", "restore": "keyspace write slow dangerous",
    "keys": "keyspace read slow dangerous", "script|flush": "slow scripting", "function|flush": "write slow scripting",
}  # fmt: skip
#: What can empty, stop or take over the server.
DANGEROUS = (
    "config|set", "debug", "module|load", "flushall", "flushdb", "keys", "script|flush", "function|flush", "shutdown",
    "replicaof", "config|rewrite",
)  # fmt: skip
#: What administers it, or hands data to somebody else.
ADMINISTRATIVE = (
    "acl|setuser", "monitor", "migrate", "restore", "save", "failover", "psync", "client|kill",
    "cluster|reset", "swapdb",
)  # fmt: skip
#: What a user without password may have.
HARMLESS = frozenset(("ping", "hello", "auth", "quit", "reset", "echo"))


@dataclass
class User:
    """One user as the rules leave it. ``plain`` are passwords that stand in clear, never to be shown."""

    name: str
    where: str
    on: bool = False
    nopass: bool = False
    hashes: int = 0
    plain: list[str] = field(default_factory=list, repr=False)
    keys: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    selectors: list[User] = field(default_factory=list)

    @property
    def parts(self) -> list[User]:
        """The user's own rules and each of its selectors."""
        return [self, *self.selectors]

    def allows(self, command: str) -> bool:
        """Whether a command of the table may be run, with its subcommand after a bar."""
        return any(part._allows(command) for part in self.parts)

    def _allows(self, command: str) -> bool:
        base, categories, allowed = command.partition("|")[0], _COMMANDS[command].split(), False
        for rule in self.commands:
            what = rule[1:].lower()
            if what in ("@all", base, command) or what[:1] == "@" and what[1:] in categories:
                allowed = rule[0] == "+"
        return allowed

    @property
    def all_keys(self) -> bool:
        """Whether no pattern bounds the keys."""
        return any("*" in part.keys for part in self.parts)

    @property
    def all_channels(self) -> bool:
        """Whether no pattern bounds the channels."""
        return any("*" in part.channels for part in self.parts)

    @property
    def harmless(self) -> bool:
        """Whether there is nothing it could do to data."""
        if any(part.keys for part in self.parts):
            return False
        granted: set[str] = set()
        for part in self.parts:
            mine: set[str] = set()
            for rule in part.commands:
                what = rule[1:].lower()
                if rule[0] == "+":
                    mine.add(what)
                elif what == "@all":
                    mine.clear()
                else:
                    mine.discard(what)
            granted |= mine
        return granted <= HARMLESS

    def apply(self, rule: str, channels: bool = False) -> None:
        """One rule of an ACL, in the order of the line."""
        low = rule.lower()
        if low in ("on", "off"):
            self.on = low == "on"
        elif low == "nopass":
            self.nopass, self.hashes, self.plain = True, 0, []
        elif low == "resetpass":
            self.nopass, self.hashes, self.plain = False, 0, []
        elif low == "allkeys":
            self.keys.append("*")
        elif low == "resetkeys":
            self.keys.clear()
        elif low == "allchannels":
            self.channels.append("*")
        elif low == "resetchannels":
            self.channels.clear()
        elif low == "allcommands":
            self.commands.append("+@all")
        elif low == "nocommands":
            self.commands.append("-@all")
        elif low == "clearselectors":
            self.selectors.clear()
        elif low == "reset":
            self.on, self.nopass, self.hashes, self.plain = False, False, 0, []
            self.keys, self.channels, self.commands, self.selectors = [], ["*"] if channels else [], [], []
        elif rule[0] == ">":
            self.plain.append(rule[1:])
            self.nopass = False
        elif rule[0] == "#":
            self.hashes += 1
            self.nopass = False
        elif rule[0] == "~":
            self.keys.append(rule[1:])
        elif rule[0] == "%" and "~" in rule:
            self.keys.append(rule.partition("~")[2])
        elif rule[0] == "&":
            self.channels.append(rule[1:])
        elif rule[0] in "+-":
            self.commands.append(rule)


def default_user(where: str) -> User:
    """The user default before anybody says something about it."""
    return User("default", where, True, True, keys=["*"], channels=["*"], commands=["+@all"])


def parse_user(words: Sequence[str], where: str, channels: bool = False) -> User:
    """A user from its name and rules. Rules in brackets are a selector of their own."""
    user = User(words[0], where, channels=["*"] if channels else [])
    inside: list[str] | None = None
    for word in words[1:]:
        if inside is None and word.startswith("("):
            inside, word = [], word[1:]
        if inside is None:
            if word:
                user.apply(word, channels)
            continue
        closes = word.endswith(")")
        inside.append(word.rstrip(")"))
        if closes:
            selector = User(user.name, where)
            for rule in inside:
                if rule:
                    selector.apply(rule)
            user.selectors.append(selector)
            inside = None
    return user


def parse_acl(text: str, path: str, channels: bool = False) -> tuple[list[User], list[str]]:
    """The users of an ACL file or of ACL LIST, and a sentence for each line that is none."""
    users, problems = [], []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words:
            continue
        if words[0].lower() != "user" or len(words) < 2:
            if len(problems) < MOST_PROBLEMS:
                problems.append(f"{path}:{number}: is no line of a user; the server does not start with it")
            continue
        if len(users) >= MOST_USERS:
            problems.append(f"{path}: holds more than {MOST_USERS} users")
            break
        users.append(parse_user(words[1:], f"{path}:{number}", channels))
    return users, problems
