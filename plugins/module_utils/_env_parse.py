# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Env files as four programs read them. PRIVATE: internal to the collection, may change in any release.

- ``compose``: the .env of a project and ``env_file`` (compose-go's dotenv);
- ``docker``: ``docker run --env-file`` and ``env_file`` with ``format: raw``;
- ``systemd``: ``EnvironmentFile=``;
- ``shell``: ``source FILE`` or ``. FILE`` in a POSIX shell.

Each reader gives the same kind of items. Where a reader puts in something from elsewhere (a variable, the output of a
command), the value holds a mark, so that two readers that do the same there agree. No reader ever runs anything, and
each goes through the text once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

#: Stands in a value where a reader would put in a variable or the output of a command.
MARK = "\x00"
UNCLOSED = "a quote that is never closed"
#: Traps that are reported of one file; more tell nothing new.
TRAPS = 200
#: Lines that are read; no env file that people write has as many.
LINES = 20_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_COMPOSE_NAME = re.compile(r"[^\W]?[\w.\-\[\]]*\Z")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+?])([^{}]*))?\})")


class Item(NamedTuple):
    """What a reader makes of the statement that begins on ``line`` and ends on ``last``.

    value: None when the name is only mentioned and the reader takes the value from its own environment.
    error: why the reader refuses the statement or does something else with it; empty when it does not.
    """

    line: int
    last: int
    name: str
    value: str | None
    error: str = ""

    def __repr__(self) -> str:
        return f"Item(line={self.line}, name={self.name!r})"  # the value is nobody's business


def _lines(text: str) -> list[str]:
    return text.split("\n")


# -- docker -----------------------------------------------------------------------------------------------------------


def read_docker(text: str) -> list[Item]:
    """One line is one variable, everything behind the first equals sign is the value, quotes and all."""
    items = []
    for number, raw in enumerate(_lines(text), 1):
        line = raw.lstrip(" \t\v\f")
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        error = ""
        if not name:
            error = "no name before the equals sign"
        elif re.search(r"\s", name):
            error = "a space in the name"
        items.append(Item(number, number, name, value if equals else None, error))
    return items


# -- systemd ----------------------------------------------------------------------------------------------------------


def read_systemd(text: str) -> list[Item]:
    """The state machine of systemd's parse_env_file: comments only at the start of a line, backslashes, both quotes."""
    items: list[Item] = []
    size, at, line = len(text), 0, 1
    while at < size:
        char = text[at]
        if char in " \t\r\n":
            line += char == "\n"
            at += 1
            continue
        if char in "#;":
            while at < size and text[at] != "\n":
                if text[at] == "\\" and at + 1 < size:
                    at += 1
                    line += text[at] == "\n"
                at += 1
            continue
        start = line
        end = at
        while end < size and text[end] not in "=\n":
            end += 1
        name = text[at:end].rstrip(" \t\r")
        if end >= size or text[end] == "\n":
            items.append(Item(start, start, name, None, "no equals sign"))
            at = end
            continue
        value, at, line, closed = _systemd_value(text, end + 1, line)
        error = "" if _NAME.match(name) else "not a valid name"
        items.append(Item(start, line, name, value, error or ("" if closed else UNCLOSED)))
    return items


def _systemd_value(text: str, at: int, line: int) -> tuple[str, int, int, bool]:
    out: list[str] = []
    size = len(text)
    kept = 0  # length of the value without the spaces that end it
    fresh = True  # before the first character, or right behind a closing quote
    while at < size:
        char = text[at]
        if char == "\n" or (char == "\r" and not fresh):
            break
        if char in "'\"" and fresh:
            at, line, closed = _systemd_quoted(text, at, line, out)
            if not closed:
                return "".join(out), at, line, False
            kept = len(out)
            continue
        if char == "\\":
            at += 1
            if at < size:
                if text[at] == "\n":
                    line += 1
                else:
                    out.append(text[at])
                at += 1
            fresh, kept = False, len(out)
            continue
        if fresh and char in " \t\r":
            at += 1
            continue
        fresh = False
        out.append(char)
        if char not in " \t":
            kept = len(out)
        at += 1
    return "".join(out[:kept]), at, line, True


def _systemd_quoted(text: str, at: int, line: int, out: list[str]) -> tuple[int, int, bool]:
    quote = text[at]
    at += 1
    while at < len(text):
        char = text[at]
        line += char == "\n"
        if char == quote:
            return at + 1, line, True
        if char == "\\" and quote == '"' and at + 1 < len(text):
            at += 1
            line += text[at] == "\n"
            if text[at] in '"\\`$':
                out.append(text[at])
            elif text[at] != "\n":
                out += ["\\", text[at]]
        else:
            out.append(char)
        at += 1
    return at, line, False


# -- Compose ----------------------------------------------------------------------------------------------------------

_ESCAPES = {
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "\\": "\\",
    '"': '"',
    "$": "$$",
}


def _interpolate(value: str) -> tuple[str, str]:
    """(value with a mark for each variable, error)."""
    if "$" not in value:
        return value, ""
    out: list[str] = []
    at = 0
    while True:
        sign = value.find("$", at)
        if sign < 0:
            out.append(value[at:])
            return "".join(out), ""
        out.append(value[at:sign])
        if value.startswith("$$", sign):
            out.append("$")
            at = sign + 2
            continue
        match = _VARIABLE.match(value, sign)
        if not match:
            return value, "a dollar sign that begins no variable"
        out.append(MARK + (match[1] or match[2]) + (match[3] or "") + (match[4] or "") + MARK)
        at = match.end()


def read_compose(text: str) -> list[Item]:
    """compose-go's dotenv. It stops at the first mistake; here the reading goes on with the next line."""
    items: list[Item] = []
    size, at, line = len(text), 0, 1
    while at < size:
        char = text[at]
        if char.isspace():
            line += char == "\n"
            at += 1
            continue
        end = text.find("\n", at)
        end = size if end < 0 else end
        if char == "#":
            at = end
            continue
        start = line
        statement = text[at:end]
        offset = len(export[0]) if (export := re.match(r"export\s+", statement)) else 0
        sign = re.search(r"[=:]", statement[offset:])
        name = (statement[offset : offset + sign.start()] if sign else statement[offset:]).strip()
        if not _COMPOSE_NAME.match(name) or not name:
            items.append(Item(start, start, name, None, "a character that is not allowed in a name"))
            at = end
            continue
        if not sign:
            items.append(Item(start, start, name, None))
            at = end
            continue
        first = at + offset + sign.end()
        while first < size and text[first] in " \t\v\f\r":
            first += 1
        quote = text[first] if first < size and text[first] in "'\"" else ""
        if not quote:
            # " #" begins a comment only when something stands before it.
            value = text[first:end].split(" #", 1)[0].rstrip() if first < end else ""
            value, error = _interpolate(value)
            items.append(Item(start, start, name, value, error))
            at = end
            continue
        raw, after = _compose_quoted(text, first, quote)
        if after < 0:
            items.append(Item(start, start, name, "", UNCLOSED))
            at = end
            continue
        line += text.count("\n", at, after)
        value, error = (raw, "") if quote == "'" else _interpolate(_unescape(raw))
        end = text.find("\n", after)
        end = size if end < 0 else end
        rest = text[after:end].strip()
        if rest and not rest.startswith("#"):
            error = error or "characters behind the closing quote"
        items.append(Item(start, line, name, value, error))
        at = end
    return items


def _compose_quoted(text: str, at: int, quote: str) -> tuple[str, int]:
    out: list[str] = []
    at += 1
    while at < len(text):
        char = text[at]
        if char == "\\" and at + 1 < len(text):
            out.append(text[at + 1] if text[at + 1] == quote else char + text[at + 1])
            at += 2
            continue
        if char == quote:
            return "".join(out), at + 1
        out.append(char)
        at += 1
    return "", -1


def _unescape(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), value, flags=re.DOTALL)


# -- shell ------------------------------------------------------------------------------------------------------------


def read_shell(text: str) -> list[Item]:
    """A POSIX shell that sources the file. Everything that would run something is an error of its line."""
    items: list[Item] = []
    size, at, line = len(text), 0, 1
    pattern = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=")
    while at < size:
        char = text[at]
        if char in " \t\n":
            line += char == "\n"
            at += 1
            continue
        end = text.find("\n", at)
        end = size if end < 0 else end
        if char == "#":
            at = end
            continue
        match = pattern.match(text, at)
        if not match:
            bare = re.fullmatch(r"(?:export[ \t]+([A-Za-z_]\w*)|set[ \t]+[-+]\w+|:)\s*", text[at:end])
            if not bare:
                items.append(Item(line, line, "", None, "a command that would be run"))
            at = end
            continue
        start = line
        value, at, line, error = _shell_word(text, match.end(), line)
        if not error:
            end = text.find("\n", at)
            end = size if end < 0 else end
            rest = text[at:end].strip()
            if rest and not rest.startswith("#") and not (rest[0] == ";" and not rest.strip(" ;")):
                error = "what follows the value would be run as a command"
        end = text.find("\n", at)
        at = size if end < 0 else end
        items.append(Item(start, line, match[1], value, error))
    return items


def _shell_word(text: str, at: int, line: int) -> tuple[str, int, int, str]:
    out: list[str] = []
    size, quote, error = len(text), "", ""
    if text.startswith("~", at):
        error = "a tilde that becomes a directory"
    while at < size:
        char = text[at]
        if char == "\n" and not quote:
            break
        line += char == "\n"
        if quote == "'":
            if char == "'":
                quote = ""
            else:
                out.append(char)
            at += 1
            continue
        if char == "\\" and at + 1 < size:
            following = text[at + 1]
            line += following == "\n"
            if following != "\n":
                out.append(following if not quote or following in '$`"\\' else char + following)
            at += 2
            continue
        if char == "$":
            match = _VARIABLE.match(text, at)
            if match:
                out.append(MARK + (match[1] or match[2]) + (match[3] or "") + (match[4] or "") + MARK)
                at = match.end()
                continue
            if at + 1 < size and (text[at + 1] in "({$!?#*@-" or text[at + 1].isdigit()):
                out.append(MARK + text[at + 1] + MARK)
                error = error or (
                    "a command that would be run" if text[at + 1] == "(" else "a dollar sign with a meaning"
                )
                at += 2
                continue
        elif char == "`":
            error = error or "a command that would be run"
        elif char == '"' or (char == "'" and not quote):
            quote = "" if quote else char
            at += 1
            continue
        elif not quote and char in " \t":
            break
        elif not quote and char in ";&|<>()":
            error = error or "a character that ends the command"
        out.append(char)
        at += 1
    if quote:
        error = UNCLOSED
    return "".join(out), at, line, error


READERS: dict[str, Callable[[str], list[Item]]] = {
    "compose": read_compose,
    "docker": read_docker,
    "systemd": read_systemd,
    "shell": read_shell,
}


# -- where they disagree ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trap:
    """A line that is not read alike. ``what`` names no value; ``name`` is empty when the name cannot be trusted."""

    line: int
    name: str
    what: str


@dataclass(frozen=True)
class EnvFile:
    """An env file: what Compose reads, the last one of each name counting, and where programs disagree."""

    items: tuple[Item, ...]
    traps: tuple[Trap, ...]
    complete: bool = True  # False when the file has more lines than are read


_SHOWN = re.compile(r"(?:[A-Z_][A-Z0-9_]{0,63}|[a-z][a-z]*(?:[_.-][a-z]+)*[0-9]?)\Z")


def shown(name: str) -> str:
    """The name, when it is one for certain: a line of a key that lost its quotes may look like an assignment."""
    return name if _SHOWN.match(name) and len(name) <= 64 and not re.search(r"[0-9A-F]{16}|[A-Z0-9]{25}", name) else ""


def parse(
    data: str, readers: Iterable[str] = ("compose",), sensitive: Callable[[str, str], bool] | None = None
) -> EnvFile:
    """Read a whole file; ``data`` still has its byte order mark and its line ends.

    readers: the programs that read the file; lines on which they disagree are traps. ``sensitive(name, value)`` says for
    which variables Compose, systemd and a shell also have to agree, whoever reads the file today.
    """
    traps: list[Trap] = []
    text = data
    if text.startswith("\ufeff"):
        traps.append(Trap(1, "", "a byte order mark: a shell and systemd take it for a part of the first name"))
        text = text[1:]
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        traps.append(Trap(line, "", "line ends of Windows (CR LF): a shell keeps the carriage return in the value"))
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    complete = text.count("\n") <= LINES
    if not complete:
        text = "\n".join(text.split("\n", LINES)[:LINES])
    own = [name for name in READERS if name in set(readers)]
    items = read_compose(text)
    strict = {item.line for item in items if item.value and sensitive and sensitive(item.name, item.value)}
    wide = [name for name in READERS if name in {*own, "compose", *(("systemd", "shell") if strict else ())}]
    read = {name: items if name == "compose" else READERS[name](text) for name in wide}
    starts = {name: {item.line: item for item in found} for name, found in read.items()}
    inner = {number for item in items for number in range(item.line + 1, item.last + 1)}
    lines = _lines(text)
    primary = starts["compose"]
    for number in sorted({line for name in own for line in starts[name]} | set(primary)):
        if number in inner:
            continue
        item = primary.get(number)
        wanted = wide if number in strict else own
        trap = _compare(number, item, {name: starts[name].get(number) for name in wanted}, lines[number - 1])
        if trap:
            traps.append(trap)
        unclosed = any(view and view.error == UNCLOSED for view in (starts[name].get(number) for name in wanted))
        if unclosed or len(traps) >= TRAPS:
            break  # what follows an open quote is a part of it for some and not for others
    traps += _duplicates(items)
    return EnvFile(tuple(items), tuple(sorted(traps, key=lambda trap: (trap.line, trap.what))), complete)


def _compare(number: int, item: Item | None, views: dict[str, Item | None], line: str) -> Trap | None:
    groups: dict[tuple, list[str]] = {}
    for reader, view in views.items():
        if view is None:
            key: tuple = ("nothing",)
        elif view.error:
            key = ("refused", view.error)
        else:
            key = ("value", view.name, view.value)
        groups.setdefault(key, []).append(reader)
    refused = {key[1]: names for key, names in groups.items() if key[0] == "refused"}
    if len(groups) == 1 and not refused:
        return None
    name = shown(item.name) if item else ""
    cause = _cause(line, item)
    tell = [f"{_list(names)}: {error}" for error, names in refused.items()]
    apart = [_list(names) for key, names in groups.items() if key[0] != "refused"]
    if len(apart) > 1:
        tell.append("not the same for " + " as for ".join(apart))
    return Trap(number, name, f"{cause} ({'; '.join(tell)})")


def _list(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _cause(line: str, item: Item | None) -> str:
    name, _equals, value = line.partition("=")
    value = value.strip()
    if item and item.last > item.line:
        return "a value over several lines"
    if not _equals:
        return "a line without an equals sign"
    if name.strip().startswith("export "):
        return "export before the name"
    if name != name.rstrip() or line.partition("=")[2] != line.partition("=")[2].lstrip():
        return "a space beside the equals sign"
    if re.search(r"\s#", value):
        return "a comment behind the value"
    if "$" in value:
        return "a dollar sign"
    if "`" in value:
        return "a backtick"
    if "\\" in value:
        return "a backslash"
    if "'" in value or '"' in value:
        return "quotes"
    if re.search(r"\s", value):
        return "a space in the value"
    if re.search(r"[;&|<>()~]", value):
        return "a character with a meaning in a shell"
    return "a name or value with unusual characters"


def _duplicates(items: list[Item]) -> list[Trap]:
    seen: dict[str, Item] = {}
    traps = []
    for item in items:
        if item.error or item.value is None:
            continue
        before = seen.get(item.name)
        if len(traps) >= TRAPS:
            break
        if before is not None and before.value != item.value:
            traps.append(
                Trap(item.line, shown(item.name), f"the name is on line {before.line} already, with another value")
            )
        seen[item.name] = item
    return traps
