# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be said of a Perl-compatible regular expression without running it: which bytes it and its groups can hold,
whether it matches a sample, and whether a backtracking engine can be kept busy by a client.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Python's own engine is not used on patterns of others: it backtracks as well. All work is counted against a budget.
"""

from __future__ import annotations

from collections.abc import Iterator

ALL = (1 << 256) - 1
NEWLINE, RETURN = 1 << 10, 1 << 13
MAX_DEPTH = 40
MAX_STATES = 600


class RegexError(ValueError):
    """The pattern would not compile."""


class TooHard(Exception):
    """The budget is spent, or the pattern uses what is not modelled (recursion, conditions)."""


class Budget:
    """Steps that one audit may spend on patterns."""

    def __init__(self, steps: int = 500_000):
        self.steps = steps

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise TooHard("the patterns of this configuration take too long to analyse")


def _span(first: str, last: str) -> int:
    low, high = ord(first), ord(last)
    return ((1 << (high + 1)) - 1) ^ ((1 << low) - 1)


def mask_of(text: str) -> int:
    """The set of the bytes of a text."""
    mask = 0
    for byte in set(text.encode("utf-8", "surrogateescape")):
        mask |= 1 << byte
    return mask


DIGIT = _span("0", "9")
LOWER, UPPER = _span("a", "z"), _span("A", "Z")
WORD = DIGIT | LOWER | UPPER | mask_of("_")
SPACE = mask_of(" \t\n\r\f\v")
_CLASSES = {
    "d": DIGIT,
    "D": ALL & ~DIGIT,
    "w": WORD,
    "W": ALL & ~WORD,
    "s": SPACE,
    "S": ALL & ~SPACE,
    "N": ALL & ~NEWLINE,
    "h": mask_of(" \t") | 1 << 0xA0,
    "H": ALL & ~(mask_of(" \t") | 1 << 0xA0),
    "v": mask_of("\n\v\f\r") | 1 << 0x85,
    "V": ALL & ~(mask_of("\n\v\f\r") | 1 << 0x85),
    "R": mask_of("\n\v\f\r") | 1 << 0x85,
}
_POSIX = {
    "alpha": LOWER | UPPER,
    "digit": DIGIT,
    "alnum": LOWER | UPPER | DIGIT,
    "lower": LOWER,
    "upper": UPPER,
    "word": WORD,
    "space": SPACE,
    "blank": mask_of(" \t"),
    "xdigit": DIGIT | _span("a", "f") | _span("A", "F"),
    "punct": _span("!", "/") | _span(":", "@") | _span("[", "`") | _span("{", "~"),
    "cntrl": (1 << 32) - 1 | 1 << 127,
    "graph": _span("!", "~"),
    "print": _span(" ", "~"),
    "ascii": (1 << 128) - 1,
}
_CONTROL = {"n": 10, "r": 13, "t": 9, "f": 12, "a": 7, "e": 27}
_EDGES = {"b", "B", "A", "z", "Z", "G", "K"}


def fold(mask: int) -> int:
    """Both cases of every letter."""
    return mask | (mask & LOWER) >> 32 | (mask & UPPER) << 32


# Nodes: ("set", mask) ("cat", nodes) ("alt", nodes) ("rep", node, least, most or None, possessive) ("group", node, number)
#        ("look", node, behind, negative) ("atomic", node) ("at", kind) ("ref", number) ("hard",)


class _Reader:
    """Recursive descent, bounded in depth."""

    def __init__(self, text: str, caseless: bool):
        self.bytes = text.encode("utf-8", "surrogateescape").decode("latin-1")
        self.at = 0
        self.groups = 0
        self.names: dict[str, int] = {}
        self.caseless, self.dotall, self.multiline, self.extended = caseless, False, False, False
        self.refs: list[int | str] = []

    def fail(self, what: str) -> RegexError:
        return RegexError(f"{what} at position {self.at}")

    def peek(self, text: str) -> bool:
        return self.bytes.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if self.peek(text):
            self.at += len(text)
            return True
        return False

    def until(self, end: str) -> str:
        stop = self.bytes.find(end, self.at)
        if stop < 0:
            raise self.fail(f"missing {end}")
        text = self.bytes[self.at : stop]
        self.at = stop + len(end)
        return text

    def read(self) -> tuple:
        while self.take("(*"):
            self.until(")")
        node = self.alternatives(0)
        if self.at < len(self.bytes):
            raise self.fail("unmatched )")
        return node

    def alternatives(self, depth: int) -> tuple:
        if depth > MAX_DEPTH:
            raise TooHard("a pattern is nested too deep")
        flags = (self.caseless, self.dotall, self.multiline, self.extended)
        branches = [self.branch(depth)]
        while self.take("|"):
            branches.append(self.branch(depth))
        self.caseless, self.dotall, self.multiline, self.extended = flags
        return branches[0] if len(branches) == 1 else ("alt", branches)

    def branch(self, depth: int) -> tuple:
        nodes: list[tuple] = []
        while self.at < len(self.bytes) and self.bytes[self.at] not in "|)":
            node = self.atom(depth)
            if node is not None:
                nodes.append(self.quantified(node))
        return nodes[0] if len(nodes) == 1 else ("cat", nodes)

    def quantified(self, node: tuple) -> tuple:
        while self.at < len(self.bytes):
            mark = self.bytes[self.at]
            if mark in "*+?":
                self.at += 1
                least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[mark]
            elif mark == "{" and (bounds := self.bounds()) is not None:
                least, most = bounds
            else:
                return node
            if node[0] == "at" and mark != "{":
                raise self.fail("quantifier does not follow a repeatable item")
            possessive = self.take("+")
            if not possessive:
                self.take("?")
            node = ("rep", node, least, most, possessive)
        return node

    def bounds(self) -> tuple[int, int | None] | None:
        """{2} {2,} {2,5} (and {,5} since PCRE2 10.43); anything else is a plain brace."""
        stop = self.bytes.find("}", self.at, self.at + 16)
        if stop < 0:
            return None
        low, comma, high = self.bytes[self.at + 1 : stop].partition(",")
        if not (low.isdigit() and low.isascii()) or (high and not (high.isdigit() and high.isascii())):
            return None
        least = int(low)
        most = least if not comma else int(high) if high else None
        if least > 65535 or (most or 0) > 65535 or (most is not None and most < least):
            raise self.fail("numbers out of order or too big in {} quantifier")
        self.at = stop + 1
        return least, most

    def letter(self, mask: int) -> tuple:
        return ("set", fold(mask) if self.caseless else mask)

    def atom(self, depth: int) -> tuple | None:
        char = self.bytes[self.at]
        self.at += 1
        if char == "(":
            return self.group(depth)
        if char == "[":
            return self.bracket()
        if char == ".":
            return ("set", ALL if self.dotall else ALL & ~NEWLINE)
        if char == "^":
            return ("at", "m^" if self.multiline else "^")
        if char == "$":
            return ("at", "m$" if self.multiline else "$")
        if char == "\\":
            return self.escape()
        if char in "*+?":
            raise self.fail("quantifier does not follow a repeatable item")
        if self.extended and char in " \t\r\n\f\v":
            return None
        if self.extended and char == "#":
            stop = self.bytes.find("\n", self.at)
            self.at = len(self.bytes) if stop < 0 else stop + 1
            return None
        return self.letter(1 << ord(char))

    def escape(self) -> tuple | None:
        if self.at >= len(self.bytes):
            raise self.fail("\\ at end of pattern")
        char = self.bytes[self.at]
        self.at += 1
        if char in _CLASSES:
            return ("set", _CLASSES[char])
        if char in _EDGES:
            return ("at", "^" if char in "AG" else "$" if char in "zZ" else "word")
        if char == "Q":
            stop = self.bytes.find("\\E", self.at)
            text = self.bytes[self.at :] if stop < 0 else self.bytes[self.at : stop]
            self.at = len(self.bytes) if stop < 0 else stop + 2
            return ("cat", [self.letter(1 << ord(one)) for one in text])
        if char == "E":
            return None
        if char == "X":
            return ("set", ALL)
        if char in "pP":
            return self.property()
        if char == "k" and self.at < len(self.bytes) and self.bytes[self.at] in "<{'":
            close = {"<": ">", "{": "}", "'": "'"}[self.bytes[self.at]]
            self.at += 1
            name = self.until(close)
            self.refs.append(name)
            return ("ref", name)
        if char == "g":
            return ("hard",)
        if char in "123456789":
            stop = self.at
            while stop < len(self.bytes) and self.bytes[stop].isdigit() and stop - self.at < 2:
                stop += 1
            number = int(self.bytes[self.at - 1 : stop])
            if number < 10:
                self.refs.append(number)
                self.at = stop
                return ("ref", number)
        return self.letter(1 << self.character(char))

    def property(self) -> tuple:
        """A Unicode property: what its ASCII members are is not modelled, so every byte is possible."""
        if self.take("{"):
            self.until("}")
        else:
            self.at += 1
        return ("set", ALL)

    def character(self, char: str) -> int:
        """The byte of an escape that stands for one."""
        if char in _CONTROL:
            return _CONTROL[char]
        if char == "x":
            if self.take("{"):
                digits = self.until("}")
            else:
                digits = ""
                while len(digits) < 2 and self.at < len(self.bytes) and self.bytes[self.at] in "0123456789abcdefABCDEF":
                    digits += self.bytes[self.at]
                    self.at += 1
            try:
                return min(int(digits or "0", 16), 255)
            except ValueError as error:
                raise self.fail("bad \\x{}") from error
        if char == "c" and self.at < len(self.bytes):
            self.at += 1
            return ord(self.bytes[self.at - 1].upper()) ^ 64 if self.bytes[self.at - 1].isascii() else 0
        if char in "01234567":
            digits = char
            while len(digits) < 3 and self.at < len(self.bytes) and self.bytes[self.at] in "01234567":
                digits += self.bytes[self.at]
                self.at += 1
            return int(digits, 8) & 255
        if char.isascii() and char.isalpha():
            raise self.fail(f"unrecognized character follows \\ ({char})")
        return ord(char)

    def bracket(self) -> tuple:
        negative = self.take("^")
        mask, first = 0, True
        while True:
            if self.at >= len(self.bytes):
                raise self.fail("missing terminating ] for character class")
            if self.peek("]") and not first:
                self.at += 1
                break
            first = False
            low, single = self.member()
            if single is not None and self.peek("-") and not self.bytes.startswith("]", self.at + 1):
                self.at += 1
                if self.at >= len(self.bytes):
                    raise self.fail("missing terminating ] for character class")
                high, other = self.member()
                if other is None:
                    mask |= low | high | mask_of("-")
                    continue
                if other < single:
                    raise self.fail("range out of order in character class")
                low = ((1 << (other + 1)) - 1) ^ ((1 << single) - 1)
            mask |= low
        if self.caseless:
            mask = fold(mask)
        return ("set", ALL & ~mask if negative else mask)

    def member(self) -> tuple[int, int | None]:
        """Mask, and the byte when it is a single one."""
        char = self.bytes[self.at]
        if char == "[" and self.bytes.startswith("[:", self.at):
            stop = self.bytes.find(":]", self.at + 2)
            name = self.bytes[self.at + 2 : stop] if stop > 0 else ""
            if name.lstrip("^") in _POSIX:
                self.at = stop + 2
                mask = _POSIX[name.lstrip("^")]
                return (ALL & ~mask if name.startswith("^") else mask), None
            if stop > 0 and name.lstrip("^").isalpha():
                raise self.fail("unknown POSIX class name")
        self.at += 1
        if char != "\\":
            return 1 << ord(char), ord(char)
        if self.at >= len(self.bytes):
            raise self.fail("\\ at end of pattern")
        char = self.bytes[self.at]
        self.at += 1
        if char in _CLASSES and char not in "NR":
            return _CLASSES[char], None
        if char == "b":
            return 1 << 8, 8
        if char in "pP":
            return self.property()[1], None
        if char in "89":
            return 1 << ord(char), ord(char)
        if char in "QE":
            return 0, None
        byte = self.character(char)
        return 1 << byte, byte

    def flags(self, text: str) -> None:
        on = True
        for flag in text:
            if flag == "-":
                on = False
            elif flag == "^":
                self.caseless = self.dotall = self.multiline = self.extended = False
            elif flag == "i":
                self.caseless = on
            elif flag == "s":
                self.dotall = on
            elif flag == "m":
                self.multiline = on
            elif flag == "x":
                self.extended = on

    def group(self, depth: int) -> tuple | None:
        if self.take("?#"):
            self.until(")")
            return None
        wrap: tuple = ()
        flags = (self.caseless, self.dotall, self.multiline, self.extended)
        if self.take("?:") or self.take("?|"):
            pass
        elif self.take("?>"):
            wrap = ("atomic",)
        elif self.take("?="):
            wrap = ("look", False, False)
        elif self.take("?!"):
            wrap = ("look", False, True)
        elif self.take("?<="):
            wrap = ("look", True, False)
        elif self.take("?<!"):
            wrap = ("look", True, True)
        elif self.take("?P="):
            name = self.until(")")
            self.refs.append(name)
            return ("ref", name)
        elif self.peek("?P<") or self.peek("?<") or self.peek("?'"):
            self.at += 3 if self.peek("?P<") else 2
            name = self.until("'" if self.bytes[self.at - 1] == "'" else ">")
            if not name.isidentifier() or len(name) > 128:
                raise self.fail("subpattern name expected")
            self.groups += 1
            self.names[name] = self.groups
            wrap = ("group", self.groups)
        elif (
            self.peek("?R")
            or self.peek("?&")
            or self.peek("?P>")
            or self.peek("?(")
            or (self.peek("?") and self.bytes[self.at + 1 : self.at + 2].isdigit())
        ):
            raise TooHard("a pattern uses recursion or conditions")
        elif self.peek("?"):
            start = self.at + 1
            stop = start
            while stop < len(self.bytes) and self.bytes[stop] in "imsxnJU-^":
                stop += 1
            if stop >= len(self.bytes) or self.bytes[stop] not in ":)":
                raise self.fail("unrecognized character after (?")
            self.at = stop + 1
            self.flags(self.bytes[start:stop])
            if self.bytes[stop] == ")":
                # Flags hold to the end of the group they stand in; alternatives() puts the old ones back there.
                return None
        else:
            self.groups += 1
            wrap = ("group", self.groups)
        node = self.alternatives(depth + 1)
        if not self.take(")"):
            raise self.fail("missing closing parenthesis")
        self.caseless, self.dotall, self.multiline, self.extended = flags
        if not wrap:
            return ("cat", [node])
        if wrap[0] == "group":
            return ("group", node, wrap[1])
        if wrap[0] == "look":
            return ("look", node, wrap[1], wrap[2])
        return ("atomic", node)


class Regex:
    """One pattern. Raises RegexError when it does not compile, TooHard when it is not modelled."""

    def __init__(self, text: str, caseless: bool = False, budget: Budget | None = None):
        self.text = text
        self.budget = budget or Budget()
        self.budget.spend(len(text) * 4)
        reader = _Reader(text, caseless)
        self.node = reader.read()
        self.groups, self.names = reader.groups, reader.names
        for ref in reader.refs:
            if (ref not in self.names) if isinstance(ref, str) else ref > self.groups:
                raise RegexError("reference to a group that does not exist")
        self.group_nodes: dict[int, tuple] = {}
        for node in _each(self.node):
            if node[0] == "group":
                self.group_nodes[node[2]] = node
        self._program: _Program | None = None

    def number(self, name: str) -> int | None:
        """The group of a name or of a digit; 0 is the whole match."""
        if name.isdigit():
            return int(name) if int(name) <= self.groups else None
        return self.names.get(name)

    def _node(self, group: int) -> tuple:
        return self.group_nodes[group][1] if group else self.node

    def mask(self, group: int = 0) -> int:
        """Every byte that can stand in what the group holds."""
        mask = 0
        for node in _each(self._node(group), looks=False):
            if node[0] == "set":
                mask |= node[1]
            elif node[0] in ("ref", "hard"):
                mask |= ALL
        return mask

    def first(self, group: int = 0) -> int:
        """Every byte the text can begin with."""
        return _first(self._node(group))[0]

    def nullable(self, group: int = 0) -> bool:
        return _first(self._node(group))[1]

    def optional(self, group: int = 0) -> bool:
        """Whether the group can be empty in a match, or take no part in it."""
        return self.nullable(group) or (group > 0 and not _certain(self.node, group))

    def finite(self, group: int = 0) -> bool:
        """Whether the group holds one of a few written-out texts: nothing repeats and no set has many members."""
        size = 1
        for node in _each(self._node(group), looks=False):
            if node[0] == "rep" and (node[3] is None or node[3] > 1):
                return False
            if node[0] in ("ref", "hard"):
                return False
            if node[0] == "set":
                size *= max(1, len(bin(fold(node[1]) & ~(node[1] & UPPER)).replace("0b", "").replace("0", "")))
            if size > 64:
                return False
        return True

    def anchored(self, end: bool = False) -> bool:
        """Whether every match begins at the start (or ends at the end) of the text."""
        return _anchored(self.node, end)

    def matches(self, text: str) -> bool | None:
        """Whether the pattern is found in the text; None when it uses what the simulation does not know."""
        try:
            return self.program().search(text.encode("utf-8", "surrogateescape"))
        except TooHard:
            return None

    def program(self) -> _Program:
        if self._program is None:
            self._program = _Program(self.node, self.budget)
        return self._program

    def risk(self) -> str:
        """ "exponential", "cubic" (or worse), or "" when a client cannot keep the engine busy with this pattern."""
        nodes = [self.node, *(node[1] for node in _each(self.node) if node[0] == "look")]
        worst = ""
        for node in nodes:
            found = _Program(node, self.budget, loose=True).risk()
            worst = max(worst, found, key=("", "quadratic", "cubic", "exponential").index)
        return worst


def _each(node: tuple, looks: bool = True) -> Iterator[tuple]:
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        kind = node[0]
        if kind in ("cat", "alt"):
            stack.extend(reversed(node[1]))
        elif kind in ("rep", "group", "atomic") or kind == "look" and looks:
            stack.append(node[1])


def _certain(node: tuple, group: int) -> bool:
    """Whether every match goes through the group."""
    kind = node[0]
    if kind == "group":
        return node[2] == group or _certain(node[1], group)
    if kind == "cat":
        return any(_certain(part, group) for part in node[1])
    if kind == "alt":
        return all(_certain(part, group) for part in node[1])
    if kind == "rep":
        return node[2] > 0 and _certain(node[1], group)
    return kind == "atomic" and _certain(node[1], group)


def _first(node: tuple) -> tuple[int, bool]:
    kind = node[0]
    if kind == "set":
        return node[1], False
    if kind in ("group", "atomic"):
        return _first(node[1])
    if kind == "rep":
        mask, empty = _first(node[1])
        return mask, empty or node[2] == 0
    if kind == "alt":
        parts = [_first(part) for part in node[1]]
        mask = 0
        for part, _rest in parts:
            mask |= part
        return mask, any(empty for _rest, empty in parts)
    if kind == "cat":
        mask = 0
        for part in node[1]:
            found, empty = _first(part)
            mask |= found
            if not empty:
                return mask, False
        return mask, True
    return (ALL, True) if kind in ("ref", "hard") else (0, True)


def _anchored(node: tuple, end: bool) -> bool:
    kind = node[0]
    if kind == "at":
        return node[1] == ("$" if end else "^")
    if kind in ("group", "atomic"):
        return _anchored(node[1], end)
    if kind == "alt":
        return all(_anchored(part, end) for part in node[1])
    if kind == "rep":
        return node[2] > 0 and _anchored(node[1], end)
    if kind == "cat":
        for part in reversed(node[1]) if end else node[1]:
            if _anchored(part, end):
                return True
            mask, empty = _first(part)
            # What takes no text, like a look around, may stand before the anchor.
            if mask or not empty:
                return False
    return False


class _Program:
    """Thompson's automaton: states are (mask, [next]) for a byte, (None, [next...]) for a choice, (kind, [next]) for an edge.

    loose: for the search for risks: long counted repetitions become unbounded ones, looks around are left out.
    """

    def __init__(self, node: tuple, budget: Budget, loose: bool = False):
        self.budget, self.loose = budget, loose
        self.kinds: list = []
        self.nexts: list[list[int]] = []
        self.final = self.state("final")
        self.start = self.build(node, self.final)

    def state(self, kind, nexts: list[int] | None = None) -> int:
        if len(self.kinds) >= MAX_STATES * 4:
            raise TooHard("a pattern has too many states")
        self.budget.spend(1)
        self.kinds.append(kind)
        self.nexts.append(nexts or [])
        return len(self.kinds) - 1

    def build(self, node: tuple, after: int) -> int:
        kind = node[0]
        if kind == "set":
            return self.state(node[1], [after])
        if kind == "cat":
            for part in reversed(node[1]):
                after = self.build(part, after)
            return after
        if kind == "alt":
            return self.state(None, [self.build(part, after) for part in node[1]])
        if kind == "group":
            return self.build(node[1], after)
        if kind == "at":
            return self.state(node[1], [after])
        if kind == "atomic":
            if not self.loose:
                return self.build(node[1], after)
            mask, empty = _first(node[1])
            one = self.state(mask or ALL, [after])
            return self.state(None, [one, after]) if empty else one
        if kind == "rep":
            return self.repeat(node, after)
        if kind == "look" and self.loose:
            return after
        if kind == "ref" and self.loose:
            return self.state(ALL, [after])
        raise TooHard(f"a pattern uses {kind}")

    def repeat(self, node: tuple, after: int) -> int:
        _rest, inner, least, most, possessive = node
        if self.loose and possessive:
            return self.build(("atomic", inner), after)
        many = most is None or (self.loose and most - least > 8)
        if self.loose and least > 2:
            least = 2
        if many:
            # The way in and the way round are states of their own, so that ways without a byte stay countable.
            loop = self.state(None)
            body = self.build(inner, loop)
            self.nexts[loop] = [body, after]
            start = self.state(None, [body, after])
            if not least:
                return start
            after, least = body, least - 1
            for _rest in range(least):
                after = self.build(inner, after)
            return after
        for _rest in range((most or 0) - least if not self.loose else min((most or 0) - least, 8)):
            after = self.state(None, [self.build(inner, after), after])
        for _rest in range(least):
            after = self.build(inner, after)
        return after

    def closure(self, states, at: int, size: int, data: bytes) -> set[int]:
        seen: set[int] = set()
        stack = list(states)
        while stack:
            state = stack.pop()
            if state in seen:
                continue
            seen.add(state)
            kind = self.kinds[state]
            if kind is None or (isinstance(kind, str) and self.holds(kind, at, size, data)):
                stack.extend(self.nexts[state])
        self.budget.spend(len(seen))
        return seen

    @staticmethod
    def holds(kind: str, at: int, size: int, data: bytes) -> bool:
        if kind == "^":
            return at == 0
        if kind == "$":
            return at == size or (at == size - 1 and data[at] == 10)
        if kind == "m^":
            return at == 0 or data[at - 1] == 10
        if kind == "m$":
            return at == size or data[at] == 10
        if kind == "word":
            raise TooHard("a pattern uses word boundaries")
        return False

    def search(self, data: bytes) -> bool:
        size = len(data)
        current: set[int] = set()
        for at in range(size + 1):
            current = self.closure([*current, self.start], at, size, data)
            if self.final in current:
                return True
            if at < size:
                bit = 1 << data[at]
                current = {
                    after
                    for state in current
                    if isinstance(self.kinds[state], int) and self.kinds[state] & bit
                    for after in self.nexts[state]
                }
        return False

    # The search for ways that a backtracking engine would try in vain.

    def follow(self, state: int) -> tuple[dict[int, int], bool]:
        """Byte states after one, each with the number of ways there (2 means several), and whether the end can be reached
        without any condition."""
        ways: dict[int, int] = {}
        free = False
        path: set[int] = set()
        # Depth first over simple ways; a state on the current way is not entered again.
        work: list[tuple[int, int]] = [(after, 0) for after in self.nexts[state]]
        trail: list[int] = []
        conditional: set[int] = set()
        while work:
            now, depth = work.pop()
            while len(trail) > depth:
                gone = trail.pop()
                path.discard(gone)
                conditional.discard(gone)
            if now in path:
                continue
            self.budget.spend(1)
            kind = self.kinds[now]
            if isinstance(kind, int):
                ways[now] = min(2, ways.get(now, 0) + 1)
                continue
            if kind == "final":
                free = free or not conditional
                continue
            path.add(now)
            trail.append(now)
            if kind is not None and kind != "word":
                conditional.add(now)
            work.extend((after, len(trail)) for after in self.nexts[now])
        return ways, free

    def risk(self) -> str:
        states = [number for number, kind in enumerate(self.kinds) if isinstance(kind, int)]
        if len(states) > MAX_STATES:
            raise TooHard("a pattern has too many states")
        follow, free = {}, {}
        for state in states:
            follow[state], free[state] = self.follow(state)
        component = _components(states, {state: list(ways) for state, ways in follow.items()}, self.budget)
        members: dict[int, list[int]] = {}
        for state in states:
            members.setdefault(component[state], []).append(state)
        for group in members.values():
            inside = set(group)
            cyclic = len(group) > 1 or group[0] in follow[group[0]]
            if not cyclic or any(free[state] for state in group):
                continue
            for state in group:
                if any(number > 1 and after in inside for after, number in follow[state].items()):
                    return "exponential"
            if self.twofold(group, inside, follow):
                return "exponential"
        if self.degree(states, follow, free) >= 3:
            return "cubic"
        for state in states:
            for after in follow[state]:
                twins = (
                    after != state and after in follow[after] and state in follow[state] and state not in follow[after]
                )
                if twins and self.kinds[after] == self.kinds[state] and not free[after]:
                    return "quadratic"
        return ""

    def twofold(self, group: list[int], inside: set[int], follow: dict[int, dict[int, int]]) -> bool:
        """Whether one text leads from a state back to it on two ways: pairs of states that part and meet again."""
        edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
        todo = [(state, state) for state in group]
        seen = set(todo)
        while todo:
            left, right = pair = todo.pop()
            out = []
            for one in follow[left]:
                if one in inside:
                    for other in follow[right]:
                        if other in inside and self.kinds[one] & self.kinds[other]:
                            out.append((one, other))
            self.budget.spend(len(follow[left]) * len(follow[right]) + 1)
            edges[pair] = out
            for after in out:
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
        component = _components(list(seen), edges, self.budget)
        same = {component[pair] for pair in seen if pair[0] == pair[1]}
        return any(pair[0] != pair[1] and component[pair] in same for pair in seen)

    def degree(self, states: list[int], follow: dict[int, dict[int, int]], free: dict[int, bool]) -> int:
        """The most loops in a row that one repeated byte can go round in, with something behind that can fail."""
        loops = [state for state in states if state in follow[state]]
        if len(loops) < 3:
            return 0
        best = 0
        tried: set[frozenset[int]] = set()
        for byte in range(256):
            bit = 1 << byte
            having = frozenset(state for state in states if self.kinds[state] & bit)
            if len(having) < 3 or having in tried:
                continue
            tried.add(having)
            self.budget.spend(len(having) * 2)
            count: dict[int, int] = {}
            # Deeper states were built first, so numbers fall along the pattern; a loop inside a loop is another matter.
            for state in sorted(having):
                after = max(
                    (count.get(other, 0) for other in follow[state] if other in having and other < state), default=0
                )
                own = 1 if state in follow[state] and not free[state] else 0
                count[state] = after + own
            best = max(best, *count.values())
        return best


def _components(nodes: list, edges: dict, budget: Budget) -> dict:
    """Strongly connected components, by Tarjan's way without recursion."""
    index: dict = {}
    low: dict = {}
    component: dict = {}
    on: set = set()
    stack: list = []
    for root in nodes:
        if root in index:
            continue
        work = [(root, iter(edges.get(root, ())))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on.add(root)
        while work:
            node, following = work[-1]
            budget.spend(1)
            for after in following:
                if after not in index:
                    index[after] = low[after] = len(index)
                    stack.append(after)
                    on.add(after)
                    work.append((after, iter(edges.get(after, ()))))
                    break
                if after in on:
                    low[node] = min(low[node], index[after])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    while True:
                        member = stack.pop()
                        on.discard(member)
                        component[member] = index[node]
                        if member == node:
                            break
    return component
