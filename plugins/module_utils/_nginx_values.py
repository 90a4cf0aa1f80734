# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the variables of an nginx configuration can hold, and whether a client chooses it.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import (
    Location,
    Model,
    Server,
    condition,
    parts,
    variables,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_regex import ALL, NEWLINE, RETURN, Regex, mask_of

#: What a line of a request can hold: no control characters.
LINE = ALL & ~((1 << 32) - 1) & ~(1 << 127) | 1 << 9
TOKEN = LINE & ~mask_of(" \t")
#: nginx decodes and normalises these, so that %0a has become a line break.
DECODED = frozenset(
    {"uri", "document_uri", "request_filename", "fastcgi_script_name", "fastcgi_path_info", "realpath_root_uri"}
)
RAW = {
    "request_uri": TOKEN, "args": TOKEN, "query_string": TOKEN, "request": LINE, "content_type": LINE,
    "http_host": LINE, "proxy_add_x_forwarded_for": LINE, "ssl_server_name": TOKEN, "request_body": ALL & ~1,
}  # fmt: skip
RAW_PREFIXES = ("http_", "arg_", "cookie_")
#: Never empty and never chosen by the client.
ALWAYS = frozenset(
    {
        "remote_addr",
        "binary_remote_addr",
        "realip_remote_addr",
        "server_port",
        "server_addr",
        "request_id",
        "connection",
        "scheme",
    }
)
MAX_STRINGS = 64
#: How far and how often variables are followed into each other.
MAX_DEPTH, MAX_STEPS = 50, 50000


@dataclass(frozen=True)
class Value:
    """``mask``: bytes that can occur. ``client``: some of it comes from the client. ``free``: the client may choose among
    more than a few written-out texts. ``first``: what it can begin with, ``empty``: whether it can be empty."""

    mask: int = 0
    client: bool = False
    free: bool = False
    first: int = 0
    empty: bool = False

    def __or__(self, other: Value) -> Value:
        return Value(
            self.mask | other.mask, self.client or other.client, self.free or other.free,
            self.first | other.first, self.empty or other.empty,
        )  # fmt: skip

    @property
    def breaks(self) -> int:
        """The line breaks a client can put in."""
        return self.mask & (NEWLINE | RETURN) if self.client else 0


#: Chosen by the server, or by nothing that is known here.
TRUSTED = Value(first=ALL, empty=True)


def literal(text: str) -> Value:
    return Value(mask_of(text), first=mask_of(text[:1]), empty=not text)


@dataclass
class Map:
    """A map block: (key, value, directive), the variable it reads and the one it sets."""

    block: Directive
    source: str
    name: str
    entries: list[tuple[str, str, Directive]]
    default: bool

    @property
    def variable(self) -> str:
        """The single variable the map reads, when it reads nothing else."""
        found = parts(self.source)
        return found[0][1] if len(found) == 1 and found[0][0] else ""


MAP_WORDS = ("default", "hostnames", "volatile", "include")


class Values:
    """The variables of one configuration."""

    def __init__(self, model: Model):
        self.model = model
        self.maps: dict[str, list[Map]] = {}
        self.constants: set[str] = set()
        self.sets: dict[str, list[Directive]] = {}
        self.groups: dict[str, list[tuple[Regex, int, str, Directive]]] = {}
        self._memo: dict[tuple, Value] = {}
        self._active: set[tuple] = set()
        self._indexes: dict[str, tuple[dict[int, list[Directive]], dict[int, list[Directive]]]] = {}
        self._captures: dict[tuple[int, int], Value | None] = {}
        self._cut, self._spent, self._steps = False, 0, 0
        #: Whether something was too long to follow to its end.
        self.tired = False
        for block in model.walk("map"):
            if len(block.args) == 2 and block.block is not None:
                self._map(block)
        for kind in ("geo", "split_clients"):
            for block in model.walk(kind):
                if block.args:
                    self.constants.add(block.args[-1].lstrip("$"))
        for item in model.walk("set"):
            if len(item.args) == 2:
                self.sets.setdefault(item.args[0].lstrip("$").lower(), []).append(item)
        for location in (location for server in model.servers for location in server.locations):
            if location.pattern:
                self._named(model.location_regex(location), "uri", location.block)
        for block in model.walk("if"):
            words = condition(block)
            if len(words) == 3 and words[1].lstrip("!") in ("~", "~*"):
                self._named(model.regex(words[2], words[1].endswith("*")), words[0].lstrip("$"), block)
        for item in model.walk("rewrite"):
            if item.args:
                self._named(model.regex(item.args[0]), "uri", item)
        for server in model.servers:
            for name in server.names:
                if name.startswith("~"):
                    self._named(model.regex(name[1:], True), "host", server.block)

    def _named(self, regex: Regex | None, source: str, directive: Directive) -> None:
        for name, number in (regex.names if regex else {}).items():
            self.groups.setdefault(name.lower(), []).append((regex, number, source, directive))

    def _map(self, block: Directive) -> None:
        entries, default = [], False
        for item in block.block or ():
            if item.name == "default" and item.args:
                default = True
            if item.args and (item.name not in MAP_WORDS or item.name == "default"):
                entries.append((item.name, item.args[0], item))
                if item.name.startswith("~") and "(?" in item.name:
                    self._named(
                        self.model.regex(
                            item.name[2:] if item.name.startswith("~*") else item.name[1:], item.name.startswith("~*")
                        ),
                        block.args[0],
                        item,
                    )
        name = block.args[1].lstrip("$").lower()
        self.maps.setdefault(name, []).append(Map(block, block.args[0], name, entries, default))

    # -- which bytes, and whose ----------------------------------------------------------------------------------------

    def text(self, text: str, at: Directive) -> Value:
        """The value of a text with variables, at a directive."""
        found = parts(text)
        if not found:
            return literal("")
        mask, client, free, first, empty = 0, False, False, 0, True
        for is_variable, name in found:
            value = self.variable(name, at) if is_variable else literal(name)
            mask, client, free = mask | value.mask, client or value.client, free or value.free
            if empty:
                first |= value.first
            empty = empty and value.empty
        return Value(mask, client, free, first, empty)

    def variable(self, name: str, at: Directive) -> Value:
        """The value of a variable, at a directive."""
        name = name.lower()
        if name.isdigit():
            return self._known(("group", name, id(at)), lambda: self._capture(int(name), at))
        if name in self.maps:
            return self._union(
                self._known(("map", id(found.block)), partial(self._of_map, found)) for found in self.maps[name]
            )
        if name in self.sets:
            return self._of_sets(name, at)
        if name in self.groups:
            return self._known(("named", name), lambda: self._of_groups(name))
        return self._builtin(name, at)

    @staticmethod
    def _union(values: Iterable[Value]) -> Value:
        out = Value()
        for value in values:
            out |= value
        return out

    def _known(self, key: tuple, find: Callable[[], Value]) -> Value:
        """A value that is worked out once. What leads back to itself adds nothing; what is too long is given up."""
        if key in self._memo:
            return self._memo[key]
        if key in self._active:
            self._cut = True
            return Value()
        self._spent += 1
        if len(self._active) > MAX_DEPTH or self._spent > MAX_STEPS:
            self.tired = True
            return TRUSTED
        before, self._cut = self._cut, False
        self._active.add(key)
        try:
            value = find()
        finally:
            self._active.discard(key)
        # A value that was cut is complete only for the one who asked first.
        if not self._cut or not self._active:
            self._memo[key] = value
        self._cut = (before or self._cut) and bool(self._active)
        return value

    def _of_groups(self, name: str) -> Value:
        return self._union(
            self._group(regex, number, self._source(source, directive))
            for regex, number, source, directive in self.groups[name]
        )

    def _of_sets(self, name: str, at: Directive) -> Value:
        """What set lines on the way to the directive leave, or else those of the server, or else all."""
        levels = self._set_levels(name, at)
        return self._union(self._known(("set", name, key), partial(self._written, items)) for key, items in levels)

    def _written(self, items: list[Directive]) -> Value:
        return self._union(self.text(item.args[1], item) for item in items)

    def _set_levels(self, name: str, at: Directive) -> list[tuple[int, list[Directive]]]:
        by_level, by_server = self._set_index(name)
        near = [(id(level), by_level[id(level)]) for level in at.chain() if id(level) in by_level]
        if near:
            return near
        server = next((level for level in at.chain() if level.name == "server"), None)
        if server is not None and id(server) in by_server:
            return [(-id(server), by_server[id(server)])]
        return [(0, self.sets[name])]

    def _set_index(self, name: str) -> tuple[dict[int, list[Directive]], dict[int, list[Directive]]]:
        if name not in self._indexes:
            levels: dict[int, list[Directive]] = {}
            servers: dict[int, list[Directive]] = {}
            for item in self.sets[name]:
                level = item.parent
                while level is not None and level.name == "if":
                    level = level.parent
                levels.setdefault(id(level), []).append(item)
                server = next((level for level in item.chain() if level.name == "server"), None)
                servers.setdefault(id(server), []).append(item)
            self._indexes[name] = levels, servers
        return self._indexes[name]

    def _source(self, source: str, directive: Directive) -> Value:
        return self.text(source, directive) if "$" in source else self.variable(source, directive)

    def _builtin(self, name: str, at: Directive) -> Value:
        if name in DECODED:
            return self._uri(at)
        if name == "host":
            return self._host(at)
        if name == "remote_user":
            # Decoded from the header, whoever sent it, unless something here has checked it.
            checked = (
                any(self.model.value(at.parent, key, "off") != "off" for key in ("auth_basic", "auth_request"))
                if at.parent
                else False
            )
            return Value((ALL & ~1) if not checked else TOKEN, True, not checked, ALL, True)
        if name in RAW:
            return Value(RAW[name], True, True, mask_of("/") if name == "request_uri" else ALL, name != "request_uri")
        if name.startswith(RAW_PREFIXES):
            return Value(LINE, True, True, ALL, True)
        if name in ALWAYS:
            return Value(first=ALL)
        if name == "is_args":
            return Value(mask_of("?"), False, False, mask_of("?"), True)
        return TRUSTED

    def _place(self, at: Directive) -> Server | Location | None:
        return self.model.owner.get(id(at)) or self.model.place(at)

    def _uri(self, at: Directive) -> Value:
        place = self._place(at)
        anything = Value(ALL & ~1, True, True, mask_of("/"), False)
        if not isinstance(place, Location) or place.internal:
            return anything
        if place.modifier == "=":
            return literal(place.path)
        regex = self.model.location_regex(place)
        if regex and regex.anchored() and regex.anchored(end=True):
            return Value(regex.mask(), True, not regex.finite(), mask_of("/"), False)
        return anything

    def _host(self, at: Directive) -> Value:
        """$host is lower case and without a slash; where only fixed names lead it is one of them."""
        place = self._place(at)
        server = place.server if isinstance(place, Location) else place
        mask = TOKEN & ~mask_of("/")
        if server is None or not self.model.only_own_names(server):
            return Value(mask, True, True, mask, False)
        return Value(mask_of("abcdefghijklmnopqrstuvwxyz0123456789-."), True, False, mask, False)

    def _group(self, regex: Regex, number: int, source: Value) -> Value:
        mask = regex.mask(number) & (source.mask or (0 if source.client else ALL))
        # A few written-out alternatives are a choice among what the configuration names.
        return Value(
            mask,
            source.client,
            source.client and not regex.finite(number),
            regex.first(number),
            regex.optional(number),
        )

    def _capture(self, number: int, at: Directive) -> Value:
        """$1 at a directive: of its own pattern, of an if around it, of a rewrite beside it, of the location or the name."""
        if at.name == "rewrite" and at.args:
            regex = self.model.regex(at.args[0])
            if regex and regex.groups >= number:
                return self._group(regex, number, self._uri(at))
        for level in at.chain():
            if level is at:
                continue
            value = self._level_capture(number, level)
            if value is not None:
                return value
        return Value(first=ALL, empty=True)

    def _level_capture(self, number: int, level: Directive) -> Value | None:
        key = (number, id(level))
        if key not in self._captures:
            self._captures[key] = self._find_capture(number, level)
        return self._captures[key]

    def _find_capture(self, number: int, level: Directive) -> Value | None:
        if level.name == "if":
            words = condition(level)
            if len(words) == 3 and words[1].lstrip("!") in ("~", "~*"):
                regex = self.model.regex(words[2], words[1].endswith("*"))
                if regex and regex.groups >= number:
                    return self._group(regex, number, self._source(words[0], level))
            return None
        found: Value | None = None
        for item in level.find("rewrite"):
            regex = self.model.regex(item.args[0]) if item.args else None
            if regex and regex.groups >= number:
                value = self._group(regex, number, self._uri(item))
                found = value if found is None else found | value
        owner = self.model.owner.get(id(level))
        if found is None and isinstance(owner, Location) and owner.pattern:
            regex = self.model.location_regex(owner)
            if regex and regex.groups >= number:
                return self._group(regex, number, Value(ALL & ~1, True, True, ALL, False))
        if found is None and isinstance(owner, Server):
            for name in owner.names:
                regex = self.model.regex(name[1:], True) if name.startswith("~") else None
                if regex and regex.groups >= number:
                    return self._group(regex, number, Value(TOKEN & ~mask_of("/"), True, True, ALL, False))
        return found

    def sets_before(self, name: str, at: Directive) -> list[Directive]:
        """The set lines of a variable that can have run before a directive."""
        return [item for _rest, items in self._set_levels(name, at) for item in items] if name in self.sets else []

    def _of_map(self, found: Map) -> Value:
        value = Value()
        source: Value | None = None
        for key, result, item in found.entries:
            if "$" not in result:
                value |= literal(result)
                continue
            own = found.variable and result in (f"${found.variable}", f"${{{found.variable}}}")
            regex = None
            if key.startswith("~"):
                regex = self.model.regex(key.lstrip("~*") if key.startswith("~*") else key[1:], key.startswith("~*"))
            if own and regex and regex.anchored() and regex.anchored(end=True):
                source = source or self._source(found.source, found.block)
                free = source.free and not regex.finite()
                value |= Value(source.mask & regex.mask(), source.client, free, regex.first(), regex.nullable())
                continue
            if own and key != "default" and not key.startswith("~"):
                value |= literal(key)
                continue
            for name in variables(result):
                if name.isdigit() and regex and regex.groups >= int(name):
                    source = source or self._source(found.source, found.block)
                    value |= self._group(regex, int(name), source)
            value |= self.text(re.sub(r"\$[1-9]", "", result), item)
        return value if found.default else value | Value(empty=True)

    # -- the texts themselves ------------------------------------------------------------------------------------------

    def strings(self, text: str, tls: bool | None = None) -> list[str | None]:
        """Every text that a value can be, as far as the configuration writes it out; None stands for any other.

        tls: whether the request came over TLS, so that a map of $https or $scheme is decided.
        """
        self._steps = 0
        return self._strings(text, tls, 0) if "$" in text else [text]

    def _strings(self, text: str, tls: bool | None, depth: int) -> list[str | None]:
        out: list[str | None] = [""]
        for is_variable, name in parts(text):
            self._steps += 1
            options = self._options(name.lower(), tls, depth) if is_variable else [name]
            out = list(dict.fromkeys(None if a is None or b is None else a + b for a in out for b in options))
            if len(out) > MAX_STRINGS or self._steps > 1000:
                return [None]
        return out

    def _options(self, name: str, tls: bool | None, depth: int) -> list[str | None]:
        if depth > 8:
            return [None]
        if tls is not None and name in ("https", "scheme"):
            return [("on" if tls else "") if name == "https" else ("https" if tls else "http")]
        if name in self.maps and len(self.maps[name]) == 1:
            found = self.maps[name][0]
            if len(found.entries) > MAX_STRINGS:
                return [None]
            if tls is not None and found.variable.lower() in ("https", "scheme"):
                given = self._options(found.variable.lower(), tls, depth)[0] or ""
                chosen = [
                    result
                    for key, result, _rest in found.entries
                    if key.lstrip("\\") == given or (key.startswith("~") and self._hit(key, given))
                ]
                chosen = chosen[:1] or [result for key, result, _rest in found.entries if key == "default"]
                return self._strings(chosen[0], tls, depth + 1) if chosen else [""]
            out: list[str | None] = [] if found.default else [""]
            for _rest, result, _rest in found.entries:
                out.extend(self._strings(result, tls, depth + 1))
            return list(dict.fromkeys(out))
        if name in self.sets and len(self.sets[name]) <= 8:
            return list(
                dict.fromkeys(one for item in self.sets[name] for one in self._strings(item.args[1], tls, depth + 1))
            )
        return [None]

    def _hit(self, key: str, text: str) -> bool:
        regex = self.model.regex(key[2:] if key.startswith("~*") else key[1:], key.startswith("~*"))
        return bool(regex and regex.matches(text))

    def comes_from(self, name: str, wanted: str) -> bool:
        """Whether a variable is decided by another one: itself, or a map or set that reads it."""
        todo, seen = [name.lstrip("$").lower()], set()
        while todo and len(seen) < 300:
            now = todo.pop()
            if now == wanted:
                return True
            if now in seen:
                continue
            seen.add(now)
            sources = [found.source for found in self.maps.get(now, ())[:20]]
            for item in self.sets.get(now, ())[:20]:
                sources.append(item.args[1])
                # "if ($request_method = POST) { set $x 1; }" decides $x as well.
                if item.parent is not None and item.parent.name == "if":
                    sources += condition(item.parent)[:1]
            todo += [other.lower() for source in sources for other in variables(source)]
        return False
