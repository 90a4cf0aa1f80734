# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables as Compose sees them: ``${…}`` in a value, and env files.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Compose's env files are neither shell nor ``docker run --env-file``: single quotes keep everything, double quotes and bare
values are interpolated, a bare name takes its value from the environment, and a value may span lines inside quotes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

#: Deepest ``${A:-${B:-…}}`` that is read.
MAX_NESTING = 10
#: Most braces in one value.
MAX_BRACES = 50_000

Lookup = Callable[[str], "str | None"]
Use = Callable[[str, str, "str | None", bool], None]  # name, kind, text after the operator, has a value


class BadVariable(Exception):
    """``kind`` is "invalid" (cannot be read), "required" (has no value) or "limit"."""

    def __init__(self, kind: str, what: str, name: str = ""):
        super().__init__(what)
        self.kind, self.what, self.name = kind, what, name


_TOKEN = re.compile(r"\$(?:(\$)|([_a-zA-Z][_a-zA-Z0-9]*)|\{)")
_NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_BRACE = re.compile(r"[{}]")
_KINDS = {"-": "default", "?": "required", "+": "alternative"}


def _closing(text: str, start: int, end: int) -> int:
    """The brace that closes ``${`` at ``start``, counted as Compose does; -1 when none before ``end`` does."""
    depth, at = 0, start
    while True:
        found = _BRACE.search(text, at, end)
        if found is None:
            return -1
        if found[0] == "{":
            depth += 1
            at = found.end() + 1  # Compose looks past the character after an opening brace
        else:
            depth -= 1
            if depth == 0:
                return found.start()
            at = found.end()


def substitute(text: str, lookup: Lookup, use: Use | None = None, nesting: int = 0) -> str:
    """The text with its variables replaced. Raises BadVariable.

    use: told of every variable, also of those in a default that is not needed, as Compose evaluates them all.
    """
    if "$" not in text:
        return text
    if nesting > MAX_NESTING:
        raise BadVariable("limit", f"variables are nested deeper than {MAX_NESTING} levels")
    if nesting == 0 and len(text) > MAX_BRACES and text.count("{") > MAX_BRACES:
        raise BadVariable("limit", f"one value holds more than {MAX_BRACES} braces")
    out: list[str] = []
    at = line_end = last_brace = 0
    while True:
        token = _TOKEN.search(text, at)
        if token is None:
            out.append(text[at:])
            return "".join(out)
        start = token.start()
        out.append(text[at:start])
        at = token.end()
        if token[1]:
            out.append("$")
            continue
        name = token[2]
        if name is None:
            named = _NAME.match(text, at)
            if named is None:
                raise BadVariable("invalid", "${ is not followed by a name and a closing brace")
            name, at = named[0], named.end()
            sign = text[at : at + 1]
            if sign != "}":
                colon = sign == ":"
                if colon:
                    at += 1
                    sign = text[at : at + 1]
                at += 1
                # Compose's pattern takes everything up to the last brace of the line.
                if at > line_end or last_brace < at:
                    line_end = text.find("\n", at)
                    line_end = len(text) if line_end < 0 else line_end
                    last_brace = text.rfind("}", at, line_end)
                if sign not in _KINDS or sign == "" or last_brace < at:
                    raise BadVariable("invalid", f"${{{name}… cannot be read", name)
                close = _closing(text, start + 1, last_brace + 1)
                close = last_brace if close < 0 else close
                out.append(_operator(name, sign, colon, text[at:close], lookup, use, nesting))
                at = close + 1
                continue
            at += 1
        value = lookup(name)
        if use is not None:
            use(name, "plain", None, value is not None)
        out.append(value or "")


def _operator(name, sign, colon, argument, lookup, use, nesting) -> str:
    value = lookup(name)
    if use is not None:
        use(name, _KINDS[sign], argument, value is not None)
    # Compose evaluates the argument whether or not it is needed: an error in it counts.
    other = substitute(argument, lookup, use, nesting + 1)
    present = value is not None and not (colon and value == "")
    if sign == "+":
        return other if present else value or ""
    if present:
        return value
    if sign == "?":
        raise BadVariable("required", other, name)
    return other


@dataclass(frozen=True)
class Assignment:
    """One assignment of an env file. value is None for a bare name that has none; quote is "'", '"' or ""."""

    name: str
    value: str | None
    line: int
    quote: str
    raw: str


@dataclass(frozen=True)
class EnvProblem:
    """Why an env file is refused, and where."""

    line: int
    what: str


# The spaces of Compose's parser: those that do not end a line, and what Go calls a space.
_SPACE = "\t\v\f\r \x85\xa0"
_GO_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_NON_SPACE = re.compile(f"[^{_GO_SPACE}]")
_EXPORT = re.compile(r"export[\t\n\f\r ]+")
_ESCAPE = re.compile(r'\\(?:[abcfnrtv$"\\]|0[0-9]{0,3})')
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\", "$": "$$"}


def _unescape(found: re.Match) -> str:
    text = found[0]
    if text[1] != "0":
        return _SIMPLE.get(text[1], text)
    digits = text[2:]
    if len(digits) == 3 and all(digit in "01234567" for digit in digits) and int(digits, 8) < 256:
        return chr(int(digits, 8))
    return "\\" + digits


def parse_env(
    text: str, lookup: Lookup, use: Callable[[int, str, str, str | None, bool], None] | None = None
) -> tuple[list[Assignment], EnvProblem | None]:
    """Every assignment up to the first error, in order, duplicates included.

    lookup: values from outside of the file; they win over what the file assigned further up.
    use: told of every variable: line, name, kind, text after the operator, has a value.
    """
    text = text.removeprefix("\ufeff")
    starts = [match.end() for match in re.finditer("\n", text)]
    found: list[Assignment] = []
    known: dict[str, str] = {}

    def value_of(name: str) -> str | None:
        value = lookup(name)
        return known.get(name) if value is None else value

    def line_of(position: int) -> int:
        return bisect_right(starts, position) + 1

    def expand(value: str, line: int) -> str:
        if "$" not in value:
            return value
        told = None if use is None else (lambda name, kind, rest, is_set: use(line, name, kind, rest, is_set))
        return substitute(value, value_of, told)

    at, end = 0, len(text)
    while True:
        first = _NON_SPACE.search(text, at)
        if first is None:
            return found, None
        at = first.start()
        if text[at] == "#":
            at = text.find("\n", at)
            if at < 0:
                return found, None
            continue
        begin, line = at, line_of(at)
        export = _EXPORT.match(text, at)
        if export:
            at += len("export")
            while at < end and text[at] in _SPACE:
                at += 1
        position, separator = at, ""
        while position < end:
            char = text[position]
            if char in "=:\n":
                separator = char
                break
            if char not in _SPACE and char not in "_.-[]" and not char.isalpha() and not char.isnumeric():
                return found, EnvProblem(line, f"the character {char!r} cannot be part of a name")
            position += 1
        # Without any separator up to the end of the file Compose takes the text for the value of an empty name.
        name = text[at:position].rstrip(_GO_SPACE) if separator else ""
        position = position + 1 if separator else at
        while position < end and text[position] in _SPACE:
            position += 1
        at = position
        if " " in name:
            return found, EnvProblem(line, "a name cannot contain a space")
        if separator == "\n":
            value = lookup(name)
            if value is not None:
                known[name] = value
            found.append(Assignment(name, value, line, "", ""))
            continue
        quote = text[at : at + 1]
        try:
            if quote in ("'", '"') and quote:
                value, raw, at = _quoted(text, at, quote)
                if value is None:
                    return found, EnvProblem(line, "a quote is not closed")
                if quote == '"':
                    value = expand(_ESCAPE.sub(_unescape, value), line)
            else:
                quote = ""
                stop = text.find("\n", at)
                stop = end if stop < 0 else stop
                raw = text[at:stop].partition(" #")[0].rstrip(_GO_SPACE)
                at = min(stop + 1, end)
                value = expand(raw, line)
        except BadVariable as error:
            if error.kind == "required":
                return found, EnvProblem(line, f"the required variable {error.name} has no value: {error.what}")
            return found, EnvProblem(line, error.what)
        known[name] = value
        found.append(Assignment(name, value, line, quote, raw))
        if at <= begin:
            return found, None


_QUOTED = {"'": re.compile(r"[^'\\]+|\\.|\\|'", re.S), '"': re.compile(r'[^"\\]+|\\.|\\|"', re.S)}


def _quoted(text: str, at: int, quote: str) -> tuple[str | None, str, int]:
    """(value, as written, position after the closing quote); value is None when it is not closed."""
    out: list[str] = []
    begin = at + 1
    for piece in _QUOTED[quote].finditer(text, begin):
        found = piece[0]
        if found == quote:
            return "".join(out), text[begin : piece.start()], piece.end()
        # Only the quote itself is unescaped here; a backslash before anything else stays.
        out.append(quote if found == "\\" + quote else found)
    return None, text[begin:], len(text)
