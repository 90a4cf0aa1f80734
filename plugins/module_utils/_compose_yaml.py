# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML as Compose reads it (YAML 1.2 words, 1.1 octal, ``<<``, ``!reset``, ``!override``), with the line of every value.

PRIVATE: internal to the collection, may change in any release. Needs PyYAML: it runs on the controller.

Built on parse events and a stack of its own: no depth of nesting overflows, no tag constructs anything, and an alias costs
nothing until something walks through it. How many values that would be is known beforehand and limited.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable

try:
    import yaml
except ImportError:  # on a host; only the controller reads YAML
    yaml = None

#: Deepest nesting that is read. Compose's own model is nine levels deep.
MAX_DEPTH = 64
#: Most values in one file, aliases expanded.
MAX_VALUES = 400_000
#: Most documents in one file.
MAX_DOCUMENTS = 1000

#: A place is one number: the file's position in ``Project.files`` and a line.
LINE_BITS = 24
LINE_MASK = (1 << LINE_BITS) - 1

RESET, OVERRIDE = "!reset", "!override"

Report = Callable[[int, str, str, str], None]  # place, what, fix, kind


class Map(dict):
    """A mapping with the place of every key, of itself, and what ``!reset`` and ``!override`` mark in it."""

    __slots__ = ("lines", "place", "count", "marks")

    def __init__(self, place: int = 0):
        self.lines: dict[str, int] = {}
        self.place = place
        self.count = 1
        self.marks: dict[str, str] | None = None

    def put(self, key: str, value: object, place: int) -> None:
        self[key] = value
        self.lines[key] = place

    def drop(self, key: str) -> None:
        self.pop(key, None)
        self.lines.pop(key, None)


class Seq(list):
    """A sequence with the place of every item and of itself."""

    __slots__ = ("lines", "place", "count")

    def __init__(self, place: int = 0):
        self.lines: list[int] = []
        self.place = place
        self.count = 1

    def put(self, value: object, place: int) -> None:
        self.append(value)
        self.lines.append(place)


def mapping(place: int, **items: object) -> Map:
    """A mapping all of whose values come from one place."""
    made = Map(place)
    made.update(items)
    made.lines = dict.fromkeys(items, place)
    return made


def clone(node: object) -> object:
    """A deep copy; the tree must be one (no aliases left)."""
    if node.__class__ is Map:
        made = Map(node.place)
        made.lines = dict(node.lines)
        made.marks = node.marks
        for key, value in node.items():
            made[key] = clone(value) if value.__class__ is Map or value.__class__ is Seq else value
        return made
    if node.__class__ is Seq:
        made = Seq(node.place)
        made.lines = list(node.lines)
        made.extend(clone(value) if value.__class__ is Map or value.__class__ is Seq else value for value in node)
        return made
    return node


_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), ".Inf": float("inf"), ".INF": float("inf"),
    "+.inf": float("inf"), "+.Inf": float("inf"), "+.INF": float("inf"),
    "-.inf": float("-inf"), "-.Inf": float("-inf"), "-.INF": float("-inf"),
    ".nan": float("nan"), ".NaN": float("nan"), ".NAN": float("nan"),
}  # fmt: skip
_NUMERIC = frozenset("0123456789+-.")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,19})\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_BASED = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]{1,16})|0[bB]([01]{1,64})|0[oO]?([0-7]{1,22}))\Z")
_MISSING = object()


def resolve(text: str) -> object:
    """The value of a plain scalar."""
    if text[:1] not in _NUMERIC:
        return _WORDS.get(text, text)
    found = _WORDS.get(text, _MISSING)
    if found is not _MISSING:
        return found
    plain = text.replace("_", "") if text[0] != "." else text
    if _DECIMAL.match(plain):
        number = int(plain)
        return number if -(1 << 63) <= number < 1 << 64 else float(plain)
    based = _BASED.match(plain)
    if based:
        sign, hexadecimal, binary, octal = based.groups()
        number = int(hexadecimal, 16) if hexadecimal else int(binary, 2) if binary else int(octal, 8)
        number = -number if sign == "-" else number
        if -(1 << 63) <= number < 1 << 64:
            return number
    if _FLOAT.match(plain):
        number = float(plain)
        if number not in (float("inf"), float("-inf")):
            return number
    return text


_CORE = "tag:yaml.org,2002:"
_CONTAINER_TAGS = {None, "!", _CORE + "map", _CORE + "seq", _CORE + "set", _CORE + "omap", RESET, OVERRIDE}
_SCALAR_TAGS = {
    _CORE + "int": (int,), _CORE + "float": (float, int), _CORE + "bool": (bool,), _CORE + "null": (type(None),),
    _CORE + "timestamp": (str,), _CORE + "merge": (str,),
}  # fmt: skip


class _Bad(Exception):
    """A tag that does not fit."""


def _tagged(tag: str, text: str, plain: bool) -> object:
    """The value of a scalar with an explicit tag."""
    if tag in (_CORE + "str", "!"):
        return text
    if tag == _CORE + "binary":
        try:
            return base64.b64decode("".join(text.split()), validate=True).decode("utf-8", "replace")
        except (ValueError, binascii.Error) as error:
            raise _Bad("is no base64") from error
    if tag in _SCALAR_TAGS:
        value = resolve(text)
        if not isinstance(value, _SCALAR_TAGS[tag]):
            raise _Bad(f"is no {tag[len(_CORE) :]}")
        return float(value) if tag == _CORE + "float" and value.__class__ is int else value
    if tag in (RESET, OVERRIDE):
        return resolve(text) if plain else text
    if tag.startswith("!"):
        return text  # Compose takes no notice of tags that are somebody's own
    shown = "!!" + tag[len(_CORE) :] if tag.startswith(_CORE) else tag
    raise _Bad(f"has the tag {shown[:60]}, which makes other programs run code")


class _Frame:
    """A container under construction."""

    __slots__ = ("node", "is_map", "key", "key_place", "merges", "merge_place", "anchor", "tag", "count", "place")

    def __init__(self, node, is_map, anchor, tag, place):
        self.node, self.is_map, self.anchor, self.tag, self.place = node, is_map, anchor, tag, place
        self.key = _MISSING
        self.key_place = 0
        self.merges = None
        self.merge_place = 0
        self.count = 1


_MERGE = object()
_OPEN = object()
_SKIP = object()
_GONE = object()


class _Stop(Exception):
    """The rest of the file is not read; reported already."""


class _Builder:
    """One file's events made into values."""

    def __init__(self, base: int, report: Report):
        self.base, self.report = base, report
        self.anchors: dict[str, tuple] = {}
        self.stack: list[_Frame] = []
        self.total = 0

    def grow(self, count: int, place: int) -> None:
        self.total += count
        if self.total > MAX_VALUES:
            self.report(
                place,
                f"the file holds more than {MAX_VALUES} values once its aliases are expanded",
                "write fewer aliases of aliases, or split the file",
                "limit",
            )
            raise _Stop

    def scalar(self, event) -> tuple[object, str | None, bool]:
        """(value, mark, whether it is the merge key)."""
        text, tag = event.value, event.tag
        plain = not event.style
        if tag is None:
            if not plain:
                return text, None, False
            return resolve(text), None, text == "<<"
        try:
            value = _tagged(tag, text, plain)
        except _Bad as error:
            place = self.base | (event.start_mark.line + 1)
            self.report(place, f"a value {error}", "remove the tag, or write the value as its tag says", "yaml")
            value = text
        return value, tag if tag in (RESET, OVERRIDE) else None, False

    def put(self, value, mark, place, count, merge_key=False, alias=False):
        """One finished node into the container on top. Returns the document when there is none."""
        frame = self.stack[-1]
        frame.count += count
        node = frame.node
        if not frame.is_map:
            if mark != RESET and value is not _GONE:
                node.append(value)
                node.lines.append(place)
            return
        key = frame.key
        if key is _MISSING:
            if merge_key:
                if frame.merges is not None:
                    self.twice("<<", frame.merge_place, place)
                frame.key, frame.merge_place = _MERGE, place
                return
            if value.__class__ is not str:
                value = self.odd_key(None if value is _GONE else value, place)
            frame.key, frame.key_place = value, place
            return
        frame.key = _MISSING
        if key is _MERGE:
            if mark != RESET and value is not _GONE:
                self.merge(frame, value, place, alias)
            elif frame.merges is None:
                frame.merges = []
            return
        if value is _GONE:
            return
        if key in node and mark != RESET:
            self.twice(key, node.lines[key], frame.key_place)
        if mark is not None:
            if node.marks is None:
                node.marks = {}
            node.marks[key] = mark
            if mark == RESET:
                return
        node[key] = value
        node.lines[key] = frame.key_place

    def twice(self, key: str, first: int, place: int) -> None:
        self.report(
            place,
            f"the key {key[:80]!r} is given twice, first in line {first & LINE_MASK}",
            "keep one of them",
            "yaml",
        )

    def odd_key(self, value: object, place: int) -> str:
        if value.__class__ in (Map, Seq):
            shown = "a mapping or list"
        else:
            shown = "null" if value is None else str(value).lower() if value.__class__ is bool else str(value)
        self.report(place, f"a key is {shown[:80]}, not text", "write the key in quotes", "yaml")
        return shown

    def merge(self, frame: _Frame, value, place, alias) -> None:
        if frame.merges is None:
            frame.merges = []
        sources = value if value.__class__ is Seq else [value]
        for source in sources:
            if source.__class__ is Map:
                frame.merges.append((source, alias))
            else:
                self.report(place, "<< merges something that is no mapping", "merge mappings only", "yaml")

    def close(self, frame: _Frame) -> None:
        node = frame.node
        if frame.merges:
            marks = {}
            for source, alias in frame.merges:
                for key, value in source.items():
                    if key not in node and (node.marks is None or key not in node.marks):
                        node[key] = value
                        node.lines[key] = source.lines[key]
                        if source.marks and key in source.marks:
                            marks[key] = source.marks[key]
                if source.marks and not alias:
                    for key, mark in source.marks.items():
                        if mark == RESET and key not in node:
                            marks.setdefault(key, mark)
            if marks:
                node.marks = {**marks, **(node.marks or {})}
        node.count = frame.count

    def document(self, events) -> object:
        """The next document's value, or _SKIP at the end of the file."""
        base, stack, put = self.base, self.stack, self.put
        for event in events:
            kind = event.__class__
            if kind is yaml.ScalarEvent:
                place = base | (event.start_mark.line + 1)
                value, mark, merge_key = self.scalar(event)
                self.total += 1
                if self.total > MAX_VALUES:
                    self.grow(0, place)
                if event.anchor is not None:
                    self.anchors[event.anchor] = (value, mark, 1)
                if not stack:
                    return None if mark == RESET else value
                put(value, mark, place, 1, merge_key)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                place = base | (event.start_mark.line + 1)
                self.grow(1, place)
                if len(stack) >= MAX_DEPTH:
                    self.report(
                        place,
                        f"values are nested deeper than {MAX_DEPTH} levels",
                        "write it with fewer levels",
                        "limit",
                    )
                    raise _Stop
                tag = event.tag
                if tag not in _CONTAINER_TAGS and tag[0] != "!":
                    tag = "!!" + tag[len(_CORE) :] if tag.startswith(_CORE) else tag
                    self.report(
                        place,
                        f"a value has the tag {tag[:60]}, which makes other programs run code",
                        "remove it",
                        "yaml",
                    )
                is_map = kind is yaml.MappingStartEvent
                stack.append(_Frame(Map(place) if is_map else Seq(place), is_map, event.anchor, event.tag, place))
                if event.anchor is not None:
                    self.anchors[event.anchor] = (_OPEN, None, 1)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                frame = stack.pop()
                if frame.is_map:
                    self.close(frame)
                node = frame.node
                node.count = frame.count
                mark = frame.tag if frame.tag in (RESET, OVERRIDE) else None
                if frame.anchor is not None:
                    self.anchors[frame.anchor] = (node, mark, frame.count)
                if not stack:
                    return None if mark == RESET else node
                put(node, mark, frame.place, frame.count)
            elif kind is yaml.AliasEvent:
                place = base | (event.start_mark.line + 1)
                value, mark, count = self.anchors.get(event.anchor, (None, None, 1))
                if event.anchor not in self.anchors:
                    self.report(
                        place,
                        f"the alias *{event.anchor[:80]} has no anchor",
                        "define the anchor before it is used",
                        "yaml",
                    )
                    value = _GONE
                elif value is _OPEN:
                    self.report(place, f"the anchor &{event.anchor[:80]} contains itself", "remove the alias", "cycle")
                    value, count = _GONE, 1
                self.grow(count, place)
                if not stack:
                    return None
                put(value, mark, place, count, alias=True)
        return _SKIP


_FIXES = (
    (
        "mapping values are not allowed",
        "put the value in quotes, or check the indentation of this line and the one above",
    ),
    ("did not find expected key", "check the indentation, and quotes that are not closed"),
    ("could not find expected ':'", "put a colon after the key, or quote the text"),
    ("control characters", "remove the control character"),
    ("unacceptable character", "remove the control character"),
    ("unexpected end of stream", "close the quote or bracket that is open"),
)


def _line(text: str, number: int) -> str:
    start = 0
    for _rest in range(number - 1):
        start = text.find("\n", start) + 1
        if not start:
            return ""
    end = text.find("\n", start)
    return text[start : end if end >= 0 else len(text)]


def documents(text: str, number: int, report: Report) -> list[object]:
    """The values of all documents of one file; what is wrong goes to ``report``. number: the file's position."""
    base = number << LINE_BITS
    builder = _Builder(base, report)
    found: list[object] = []
    loader = None
    try:
        # The constructor already reads the beginning when PyYAML is without its C part.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        events = iter(loader.get_event, None)
        while True:
            builder.anchors = {}
            value = builder.document(events)
            if value is _SKIP:
                break
            if len(found) == MAX_DOCUMENTS:
                report(base | 1, f"the file holds more than {MAX_DOCUMENTS} documents", "split the file", "limit")
                break
            found.append(value)
    except _Stop:
        builder.stack.clear()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = mark.line + 1 if mark is not None else 1
        if mark is None and isinstance(getattr(error, "position", None), int):
            line = text.count("\n", 0, error.position) + 1
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        fix = next((advice for part, advice in _FIXES if part in what), "check the line, and the one above it")
        if "cannot start any token" in what and "\t" in _line(text, line):
            fix = "indent with spaces, not with tabs"
        report(base | line, f"this is not YAML: {what}", fix, "yaml")
    finally:
        if loader is not None:
            loader.dispose()
    return found
