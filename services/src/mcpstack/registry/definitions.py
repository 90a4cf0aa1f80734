# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server says about a tool: read, cut to size, hashed, compared. All of it is data that strangers wrote.

The hash is taken of the definition as it came, before anything is cut or cleaned: a change that nobody would see is
still a change.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SEPARATOR = "__"
TITLE = 200
DESCRIPTION = 8192
SCHEMA_BYTES = 65536
SCHEMA_DEPTH = 32
ARGUMENTS = 2000
BITS = 1024

#: What a definition consists of, beside its name. `extra` holds the members that are only passed on.
PARTS = ("title", "description", "input_schema", "output_schema", "annotations", "extra")
#: What is made of these for the search.
DERIVED = ("arguments", "content_hash", "trigrams")
_EXTRA = ("icons", "execution")

SERVER_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z", re.ASCII)
TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z", re.ASCII)
_MARK = re.compile(r"[^\x20-\x7e]")
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn"))


_SAY_NOTHING = (
    "a an and any are as at be by can do does for from has have how i if in into is it its me my of on one or our "
    "please should so some than that the their them then there these they this to up was we were what when where which "
    "who will with would you your"
)
_EVERYWHERE = frozenset(_SAY_NOTHING.split())


class DefinitionError(ValueError):
    """This definition cannot be kept; the message says why."""


@dataclass(frozen=True, slots=True)
class Definition:
    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    annotations: dict[str, Any] | None
    extra: dict[str, Any] | None
    arguments: str
    def_hash: str
    content_hash: str
    trigrams: str

    def document(self) -> dict[str, Any]:
        """As it is kept while it waits for approval."""
        return {name: getattr(self, name) for name in (*PARTS, *DERIVED)}


def wire(name: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name}
    if parts["title"]:
        found["title"] = parts["title"]
    found |= {"description": parts["description"], "inputSchema": parts["input_schema"]}
    for key, part in (("outputSchema", "output_schema"), ("annotations", "annotations")):
        if parts[part] is not None:
            found[key] = parts[part]
    return found | (parts["extra"] or {})


def public_name(server: str, tool: str) -> str:
    return f"{server}{SEPARATOR}{tool}"


def split_name(name: str) -> tuple[str, str] | None:
    """The server and the tool of a public name. A server's id holds no underscore, so there is one way to read it."""
    server, found, tool = name.partition(SEPARATOR)
    return (server, tool) if found and SERVER_ID.match(server) and TOOL_NAME.match(tool) else None


def clean(text: str, limit: int) -> str:
    """Without control characters, direction marks and other invisible ones; line ends are kept; cut to `limit`."""
    text = visible(text).strip()
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def visible(text: str) -> str:
    if not _MARK.search(text):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) not in _INVISIBLE)


def read(raw: Mapping[str, Any]) -> Definition:
    """A definition from a tools/list answer (or a body of the same shape)."""
    name = raw.get("name")
    if not isinstance(name, str) or not TOOL_NAME.match(name):
        raise DefinitionError("the name must be 1 to 128 letters, digits, _, . or -")
    kept = {
        key: raw[key]
        for key in ("title", "description", "inputSchema", "outputSchema", "annotations", *_EXTRA)
        if raw.get(key) is not None
    }
    for key in ("title", "description"):
        if not isinstance(kept.get(key, ""), str):
            raise DefinitionError(f"{key} must be a text")
    schema = kept.get("inputSchema")
    if not isinstance(schema, dict):
        raise DefinitionError("inputSchema must be an object")
    extra = {key: kept[key] for key in _EXTRA if key in kept}
    for key in ("inputSchema", "outputSchema", "annotations"):
        _check_json(key, kept.get(key))
    _check_json("icons and execution", extra)
    title = clean(kept.get("title", ""), TITLE)
    description = clean(kept.get("description", ""), DESCRIPTION)
    input_schema = _clean_json(schema)
    arguments = " ".join(dict.fromkeys(_arguments(input_schema)))[:ARGUMENTS]
    return Definition(
        name=name,
        title=title,
        description=description,
        input_schema=input_schema,
        output_schema=_clean_json(kept.get("outputSchema")),
        annotations=_clean_json(kept.get("annotations")),
        extra=_clean_json(extra) or None,
        arguments=arguments,
        def_hash=_hash({"name": name, **kept}),
        content_hash=_hash(embedded_text(name, title, description)),
        trigrams=bits(trigrams(f"{' '.join(split_words(name))} {title} {description[:300]}")),
    )


def embedded_text(name: str, title: str, description: str) -> str:
    """What is turned into a vector for this tool."""
    words = " ".join(split_words(name))
    return ". ".join(part for part in (words, title, description[:1000]) if part)


def split_words(name: str) -> list[str]:
    return re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", re.sub(r"[_./:-]+", " ", name)).lower().split()


def trigrams(text: str) -> frozenset[str]:
    """As pg_trgm makes them: of each word, with two spaces before it and one behind. Words that are everywhere say
    nothing and are left out.
    """
    found: set[str] = set()
    for word in re.findall(r"\w+", text.lower()):
        if word in _EVERYWHERE:
            continue
        padded = f"  {word[:100]} "
        found.update(padded[at : at + 3] for at in range(len(padded) - 2))
    return frozenset(found)


def bits(grams: Iterable[str]) -> str:
    """A set of trigrams as Postgres reads a bit string."""
    value = 0
    for gram in grams:
        value |= 1 << (zlib.crc32(gram.encode()) % BITS)
    return format(value, f"0{BITS}b")


def diff(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[str]:
    """What changed, as lines a person reads: `-` before, `+` now. Without `old` all of it is new."""
    before = [] if old is None else [*_lines(old)]
    lines = difflib.unified_diff(before, [*_lines(new)], f"{name} (approved)", f"{name} (now)", lineterm="", n=2)
    return list(lines) or ["Only characters that are not shown here, or text beyond the length limits, changed."]


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"title: {document['title']}"
    yield "description:"
    yield from (f"  {line}" for line in document["description"].splitlines())
    for key in PARTS[2:]:
        if document.get(key) is not None:
            text = json.dumps(document[key], indent=2, sort_keys=True, ensure_ascii=False)
            yield f"{key}:"
            yield from (f"  {line}" for line in text.splitlines())


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def clean_json(key: str, value: Any, most: int) -> Any:
    """JSON of strangers that is kept: not too deep, not too large, nothing invisible in it."""
    _check_json(key, value, most)
    return _clean_json(value)


def _check_json(key: str, value: Any, most: int = SCHEMA_BYTES) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise DefinitionError(f"{key} must be an object")
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if depth > SCHEMA_DEPTH:
            raise DefinitionError(f"{key} is nested deeper than {SCHEMA_DEPTH} levels")
        if isinstance(item, dict):
            if not all(isinstance(member, str) for member in item):
                raise DefinitionError(f"{key} must hold JSON")
            waiting.extend((member, depth + 1) for member in item.values())
        elif isinstance(item, list):
            waiting.extend((member, depth + 1) for member in item)
        elif not isinstance(item, str | int | float | bool | None):
            raise DefinitionError(f"{key} must hold JSON")
    try:
        size = len(json.dumps(value, separators=(",", ":"), allow_nan=False))
    except ValueError:
        raise DefinitionError(f"{key} holds a number that JSON cannot carry") from None
    if size > most:
        raise DefinitionError(f"{key} is larger than {most} bytes")


def _clean_json(value: Any) -> Any:
    """Texts for people are cut to size; a pattern or an allowed value would no longer be one."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, member in value.items():
            text = isinstance(member, str) and key in ("title", "description")
            # Names that only differ by what cannot be seen: the first one counts.
            found.setdefault(visible(key), clean(member, DESCRIPTION) if text else _clean_json(member))
        return found
    if isinstance(value, list):
        return [_clean_json(member) for member in value]
    return visible(value) if isinstance(value, str) else value


def _arguments(schema: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Names of arguments, outer ones first."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or depth > 3:
        return
    yield from properties
    for member in properties.values():
        if isinstance(member, dict):
            yield from _arguments(member, depth + 1)
            items = member.get("items")
            if isinstance(items, dict):
                yield from _arguments(items, depth + 1)
