# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an nginx configuration means: servers, addresses, locations, and the value that applies at each place.

PRIVATE: internal to the collection, may change in any release. Standard library only.

nginx merges levels in two ways, and both are kept here: a simple directive of an inner level replaces the outer one, and
a list (add_header, proxy_set_header, limit_req, allow and deny, access_log...) of an inner level replaces the whole outer
list as soon as it has one entry of its own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive, Tree
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_regex import Budget, Regex, RegexError, TooHard

PASSES = ("proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass")
#: Blocks inside a location that are levels of their own without being a location.
INNER = ("if", "limit_except")

_CODE = re.compile(r"(access|content|rewrite|server_rewrite)_by_lua|js_content$|js_access$|perl$|perl_handler")

REFUSE, REDIRECT, FIXED, STATUS, PASS, STATIC = "refuse", "redirect", "fixed", "status", "pass", "static"


@lru_cache(maxsize=1024)
def reachable(address: str) -> bool:
    """Whether an address is more than loopback or a unix socket."""
    if address == "*":
        return True
    try:
        return not ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address != "localhost" and not address.startswith("unix:")


@dataclass(frozen=True)
class Listen:
    """One address that a server listens on. ``key`` is equal for those that share a socket."""

    directive: Directive
    address: str
    port: int
    ssl: bool = False
    default: bool = False
    quic: bool = False

    @property
    def key(self) -> tuple:
        return (self.address, self.port, self.quic)

    @property
    def unix(self) -> bool:
        return self.address.startswith("unix:")

    @property
    def outside(self) -> bool:
        """Whether somebody on another machine can reach it."""
        return reachable(self.address)

    def __str__(self) -> str:
        return self.address if self.unix else f"{self.address}:{self.port}"


def parse_listen(directive: Directive, plain_port: int = 80) -> Listen:
    """The address as nginx reads it: ``80`` and ``*:80`` are one socket, ``[::]:80`` and ``443 quic`` others."""
    value, options = (directive.args[0] if directive.args else ""), set(directive.args[1:])
    address, port = "*", plain_port
    if value.startswith("unix:"):
        address, port = value, 0
    elif value.isdigit():
        port = int(value[:6])
    elif match := re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]*\]|[^:]*)(?::([0-9]{1,5}))?", value):
        address, port = match[1] or "*", int(match[2] or plain_port)
    if address in ("0.0.0.0", ""):  # noqa: S104 - read, not bound
        address = "*"
    return Listen(directive, address, port, "ssl" in options or "quic" in options,
                  bool(options & {"default_server", "default"}), "quic" in options)  # fmt: skip


@dataclass(eq=False)
class Location:
    """A location block. ``modifier`` is one of "", "=", "^~", "~", "~*", "@"."""

    block: Directive
    server: Server
    modifier: str
    path: str
    children: list[Location] = field(default_factory=list)
    parent: Location | None = None

    @property
    def named(self) -> bool:
        return self.modifier == "@"

    @property
    def pattern(self) -> bool:
        return self.modifier in ("~", "~*")

    @property
    def internal(self) -> bool:
        return self.named or bool(self.block.find("internal"))

    @property
    def label(self) -> str:
        name = f"{self.modifier} {self.path}" if self.modifier and not self.named else self.modifier + self.path
        return f"location {name} of {self.server.label}"


@dataclass(eq=False)
class Server:
    """A server block of http."""

    block: Directive
    listens: list[Listen]
    names: tuple[str, ...]
    locations: list[Location] = field(default_factory=list)
    top: list[Location] = field(default_factory=list)

    @cached_property
    def label(self) -> str:
        name = next((name for name in self.names if name not in ("", "_")), "")
        ports = ",".join(sorted({str(listen.port) if not listen.unix else "unix" for listen in self.listens}))
        return f"server {name} ({ports})" if name else f"server of port {ports}"

    @cached_property
    def tls(self) -> bool:
        return any(listen.ssl for listen in self.listens)

    @cached_property
    def outside(self) -> bool:
        return any(listen.outside for listen in self.listens)

    def fixed_names(self) -> bool:
        """Whether Host can only be one of a few written-out names here (a default server takes any)."""
        return bool(self.names) and not any(
            name in ("", "_") or name.startswith(("~", "*", ".", "$")) or name.endswith(".*") for name in self.names
        )


def split_location(args: tuple[str, ...]) -> tuple[str, str]:
    """Modifier and path; nginx allows both in one word."""
    if len(args) >= 2:
        return args[0], args[1]
    word = args[0] if args else ""
    for modifier in ("=", "^~", "~*", "~", "@"):
        if word.startswith(modifier):
            return modifier, word[len(modifier) :]
    return "", word


def condition(block: Directive) -> list[str]:
    """The words between the parentheses of an if."""
    words = list(block.args)
    if words:
        words[0] = words[0].removeprefix("(")
        words[-1] = words[-1].removesuffix(")")
    return [word for number, word in enumerate(words) if word or 0 < number < len(words) - 1]


_VARIABLE = re.compile(r"\$(?:\{([A-Za-z0-9_]+)\}|([1-9])|([A-Za-z_][A-Za-z0-9_]*))")


def parts(text: str) -> list[tuple[bool, str]]:
    """(True, name of a variable) and (False, literal text), in order."""
    out, at = [], 0
    for match in _VARIABLE.finditer(text):
        if match.start() > at:
            out.append((False, text[at : match.start()]))
        out.append((True, (match[1] or match[2] or match[3])))
        at = match.end()
    if at < len(text):
        out.append((False, text[at:]))
    return out


def variables(text: str) -> list[str]:
    return [name for is_variable, name in parts(text) if is_variable] if "$" in text else []


class Model:
    """Answers questions about one tree."""

    def __init__(self, tree: Tree, plain_port: int = 80):
        self.tree, self.root = tree, tree.root
        self._by_name: dict[str, list[Directive]] = {}
        for item in tree.root.walk():
            self._by_name.setdefault(item.name, []).append(item)
        #: Names that occur at all, so that nobody looks for the others.
        self.present = frozenset(self._by_name)
        self._passes = tuple(name for name in PASSES if name in self.present)
        self.https = tree.root.find("http")
        self.budget = Budget()
        self._regexes: dict[tuple[str, bool], Regex | None] = {}
        self.bad_regexes: dict[tuple[str, bool], str] = {}
        self.hard_regexes: dict[tuple[str, bool], str] = {}
        self._headers: dict[tuple[str, int], tuple[Directive, ...]] = {}
        self._lists: dict[tuple, list[Directive]] = {}
        self._named: dict[tuple[str, int], dict[str, list[Directive]]] = {}
        self._places: dict[int, list[Server | Location]] = {}
        self._code: set[int] | None = None
        self._defaults: dict[tuple, tuple[Server, Listen]] = {}
        self._own_names: dict[int, bool] = {}
        self._closed: dict[int, bool] = {}
        self.servers: list[Server] = []
        self.owner: dict[int, Server | Location] = {}
        for http in self.https:
            for block in http.find("server"):
                if block.block is not None:
                    self._server(block, plain_port)
        self.sockets: dict[tuple, list[tuple[Server, Listen]]] = {}
        for server in self.servers:
            for listen in server.listens:
                self.sockets.setdefault(listen.key, []).append((server, listen))
        self._answers: dict[int, tuple[str, Directive | None]] = {}

    def _server(self, block: Directive, plain_port: int) -> None:
        listens = [parse_listen(item, plain_port) for item in block.find("listen")]
        # "ssl on" was the old way to say it, until 1.25.1.
        old = self.value(block, "ssl") == "on"
        if not listens:
            listens = [Listen(block, "*", plain_port)]
        if old:
            listens = [
                Listen(item.directive, item.address, item.port, True, item.default, item.quic) for item in listens
            ]
        names = tuple(
            name.lower() if not name.startswith("~") else name
            for item in block.find("server_name")
            for name in item.args
        )
        server = Server(block, listens, names or ("",))
        self.servers.append(server)
        self.owner[id(block)] = server
        todo: list[tuple[Directive, Location | None]] = [(block, None)]
        while todo:
            level, parent = todo.pop()
            for child in level.find("location"):
                if child.block is None:
                    continue
                location = Location(child, server, *split_location(child.args), parent=parent)
                self.owner[id(child)] = location
                (parent.children if parent else server.top).append(location)
                server.locations.append(location)
                todo.append((child, location))
        server.locations.sort(key=lambda item: (item.block.file, item.block.line))

    # -- levels --------------------------------------------------------------------------------------------------------

    def place(self, directive: Directive) -> Server | Location | None:
        """The innermost location or server that a directive stands in."""
        level = directive.parent
        while level is not None:
            if id(level) in self.owner:
                return self.owner[id(level)]
            level = level.parent
        return None

    def label(self, directive: Directive) -> str:
        """Whom a finding about this directive concerns: a location, a server, http."""
        owner = self.owner.get(id(directive)) or self.place(directive)
        if owner is not None:
            return owner.label
        levels = [level for level in directive.chain() if level is not directive]
        if not levels:
            return "main"
        inner = levels[0]
        if inner.name in ("upstream", "map", "geo", "split_clients") and inner.args:
            return f"{inner.name} {inner.args[-1]}"
        return f"server of {levels[1].name}" if inner.name == "server" and len(levels) > 1 else inner.name

    def effective(self, block: Directive, name: str) -> Directive | None:
        """The directive whose value applies in a block."""
        if name not in self.present:
            return None
        for level in block.chain():
            found = level.find(name)
            if found:
                return found[-1]
        return None

    def value(self, block: Directive, name: str, default: str = "") -> str:
        found = self.effective(block, name)
        return found.args[0] if found and found.args else default

    def values(self, block: Directive, *names: str) -> list[Directive]:
        """A list that is replaced as a whole: all entries of the innermost level that has any, in their order."""
        if self.present.isdisjoint(names):
            return []
        for level in block.chain():
            found = level.find(names[0]) if len(names) == 1 else self._merged(level, names)
            if found:
                return found
        return []

    def _merged(self, level: Directive, names: tuple[str, ...]) -> list[Directive]:
        """The entries of several names of one level, in their order."""
        key = (names, id(level))
        if key not in self._lists:
            wanted = [name for name in names if level.find(name)]
            self._lists[key] = (
                level.find(wanted[0])
                if len(wanted) == 1
                else [item for item in level.block or () if wanted and item.name in names]
            )
        return self._lists[key]

    def named(self, level: Directive, name: str) -> dict[str, list[Directive]]:
        """The entries of a list of headers on one level, by the name of the header in lower case."""
        key = (name, id(level))
        if key not in self._named:
            out: dict[str, list[Directive]] = {}
            for item in level.find(name):
                if item.args:
                    out.setdefault(item.args[0].lower(), []).append(item)
            self._named[key] = out
        return self._named[key]

    def somewhere(self, block: Directive, name: str, header: str) -> bool:
        """Whether a header is in the list of this level or of one around it."""
        return name in self.present and any(
            header in self.named(level, name) for level in block.chain() if level.find(name)
        )

    def header_levels(self, block: Directive, name: str = "add_header") -> tuple[Directive, ...]:
        """The levels whose add_header lines are sent from here, the outermost first (add_header_inherit since 1.29.3)."""
        missing: list[Directive] = []
        known: tuple[Directive, ...] = ()
        if name not in self.present:
            return known
        for level in block.chain():
            if (name, id(level)) in self._headers:
                known = self._headers[name, id(level)]
                break
            missing.append(level)
        for level in reversed(missing):
            mode = self.value(level, f"{name}_inherit", "on") if name in ("add_header", "add_trailer") else "on"
            own = (level,) if level.find(name) else ()
            if mode == "merge":
                known = known + own
            elif mode == "off":
                known = own
            else:
                known = own or known
            self._headers[name, id(level)] = known
        return known

    # -- patterns ------------------------------------------------------------------------------------------------------

    def regex(self, text: str, caseless: bool = False) -> Regex | None:
        """A pattern, or None when it does not compile or is too hard (both are remembered)."""
        key = (text, caseless)
        if key not in self._regexes:
            try:
                self._regexes[key] = Regex(text, caseless, self.budget)
            except RegexError as error:
                self._regexes[key] = None
                self.bad_regexes[key] = str(error)
            except TooHard as error:
                self._regexes[key] = None
                self.hard_regexes[key] = str(error)
        return self._regexes[key]

    def location_regex(self, location: Location) -> Regex | None:
        return self.regex(location.path, location.modifier == "~*") if location.pattern else None

    # -- what a place answers ------------------------------------------------------------------------------------------

    def passes(self, block: Directive) -> list[Directive]:
        """The directives that hand a request on from this block, also from an if or limit_except in it."""
        out = [item for name in self._passes for item in block.find(name)]
        for kind in INNER:
            for inner in block.find(kind):
                out.extend(item for name in self._passes for item in inner.find(name))
        return out

    def answer(self, place: Server | Location) -> tuple[str, Directive | None]:
        """What a request gets that ends here: the kind, and the directive that says so."""
        key = id(place.block)
        if key not in self._answers:
            self._answers[key] = self._answer(place)
        return self._answers[key]

    def _answer(self, place: Server | Location) -> tuple[str, Directive | None]:
        block = place.block
        if isinstance(place, Location):
            kind = self.answer(place.server)
            # What a server returns comes before any location is looked for.
            if kind[1] is not None and kind[1].parent is place.server.block and kind[1].name in ("return", "rewrite"):
                return kind
        for item in block.block or ():
            if item.name == "break":
                break
            found = _final(item)
            if found:
                return found, item
        rules = self.values(block, "allow", "deny")
        if (
            rules
            and rules[0].name == "deny"
            and rules[0].args == ("all",)
            and self.value(block, "satisfy", "all") == "all"
        ):
            return REFUSE, rules[0]
        if isinstance(place, Server):
            return STATIC, None
        if block.find("stub_status"):
            return STATUS, block.find("stub_status")[0]
        for name in ("status", "api", "check_status", "vhost_traffic_status_display"):
            if block.find(name) and name != "status":
                return STATUS, block.find(name)[0]
        passed = self.passes(block)
        if passed:
            return PASS, passed[0]
        for item in block.block or ():
            if item.name in ("empty_gif",):
                return FIXED, item
        return STATIC, None

    def has_code(self, block: Directive) -> bool:
        """Whether code in Lua, Perl or JavaScript may answer or forbid here."""
        if self._code is None:
            self._code = {id(item.parent) for item in self.root.walk() if _CODE.match(item.name)}
        return bool(self._code) and any(id(level) in self._code for level in block.chain())

    def everything(self, server: Server) -> Location | None:
        """The location that takes what no other does."""
        return next((item for item in server.top if item.modifier in ("", "^~") and item.path == "/"), None)

    def places(self, server: Server) -> list[Server | Location]:
        """Each place where a request can end: all locations, and the server itself when nothing takes the rest."""
        if id(server) not in self._places:
            if self.answer(server)[0] != STATIC:
                self._places[id(server)] = [server]
            else:
                self._places[id(server)] = [*server.locations, *(() if self.everything(server) else (server,))]
        return self._places[id(server)]

    def find_location(self, server: Server, uri: str) -> tuple[Location | None, bool]:
        """The location of a path as nginx chooses it, and whether that is sure (a pattern may be too hard)."""
        sure = True
        candidates, chosen = server.top, None
        while True:
            best: Location | None = None
            for item in candidates:
                if item.modifier == "=" and item.path == uri:
                    return item, sure
                if (
                    item.modifier in ("", "^~")
                    and uri.startswith(item.path)
                    and (best is None or len(item.path) > len(best.path))
                ):
                    best = item
            inner = self._nested(best, uri) if best and best.children else None
            if inner is not None:
                return inner, sure
            if best is None or best.modifier != "^~":
                for item in candidates:
                    if item.pattern:
                        regex = self.location_regex(item)
                        found = regex.matches(uri) if regex else None
                        if found is None:
                            sure = False
                        elif found:
                            best = item
                            break
            if best is None:
                return chosen, sure
            chosen, candidates = best, best.children if best.pattern else []
            if not candidates:
                return chosen, sure

    def _nested(self, outer: Location, uri: str) -> Location | None:
        """The location inside a prefix location that takes the path before the patterns of the outer level do."""
        best, level = None, outer.children
        while level:
            step: Location | None = None
            for item in level:
                if item.modifier == "=" and item.path == uri:
                    return item
                if (
                    item.modifier in ("", "^~")
                    and uri.startswith(item.path)
                    and (step is None or len(item.path) > len(step.path))
                ):
                    step = item
            if step is None or step.modifier != "^~":
                for item in level:
                    regex = self.location_regex(item)
                    if regex and regex.matches(uri):
                        step = item
                        break
            if step is None:
                return best
            best, level = step, step.children
        return best

    def default_of(self, key: tuple) -> tuple[Server, Listen]:
        """The server that gets what no name fits: the marked one, or the first."""
        if key not in self._defaults:
            users = self.sockets[key]
            self._defaults[key] = next((pair for pair in users if pair[1].default), users[0])
        return self._defaults[key]

    def only_own_names(self, server: Server) -> bool:
        """Whether Host can only be one of the written-out names of this server here."""
        if id(server) not in self._own_names:
            default = any(self.default_of(item.key)[0] is server for item in server.listens)
            self._own_names[id(server)] = server.fixed_names() and not default
        return self._own_names[id(server)]

    def access(self, block: Directive) -> list[Directive]:
        return self.values(block, "allow", "deny")

    def closed(self, block: Directive) -> bool:
        """Whether access rules let only some addresses in."""
        rules = self.access(block)
        key = id(rules[0]) if rules else 0
        if key not in self._closed:
            end = next((rule for rule in rules if rule.args == ("all",)), None)
            self._closed[key] = end is not None and end.name == "deny"
        return self._closed[key]

    def walk(self, *names: str) -> Iterator[Directive]:
        """Every directive of these names, in the order of the files."""
        for name in names:
            yield from self._by_name.get(name, ())

    def in_http(self, directive: Directive) -> bool:
        return any(level.name == "http" for level in directive.chain())


def _final(item: Directive) -> str:
    """What return or rewrite ends a request with; empty when it goes on."""
    if item.name == "return" and item.args:
        code = item.args[0]
        if len(item.args) == 1 and not code.isdigit():
            return REDIRECT
        if not code.isdigit():
            return FIXED
        if code in ("301", "302", "303", "307", "308"):
            return REDIRECT
        return REFUSE if int(code[:4]) >= 400 else FIXED
    if (
        item.name == "rewrite"
        and len(item.args) >= 2
        and item.args[0] in ("^", ".*", "^.*", "^(.*)$", "^/(.*)$", "^/(.*)", "^(.*)", "(.*)", "^/")
    ):
        if (len(item.args) > 2 and item.args[2] in ("redirect", "permanent")) or re.match(
            r"https?://|\$scheme", item.args[1]
        ):
            return REDIRECT
    return ""


def target(item: Directive) -> str:
    """Where a return or rewrite redirects to."""
    if item.name == "return":
        return item.args[-1]
    return item.args[1] if len(item.args) > 1 else ""


def split_target(text: str) -> tuple[str, str]:
    """Host (with port) and what follows it, of the target of a pass directive."""
    text = re.sub(r"^[a-z]+://", "", text)
    if text.startswith("unix:"):
        path, _rest, rest = text[5:].partition(":")
        return "unix:" + path, rest
    match = re.match(r"(\[[^\]]*\](?::[^/?#$]*)?|[^/?#]*)(.*)", text, re.DOTALL)
    return (match[1], match[2]) if match else (text, "")
