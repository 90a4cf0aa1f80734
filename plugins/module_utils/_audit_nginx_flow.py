# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx: where data of the client goes: files, headers, upstreams, patterns (NGX-19 to NGX-22).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re

from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import (
    PASSES,
    Location,
    condition,
    parts,
    variables,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_regex import NEWLINE, Regex, TooHard, mask_of
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Run, show
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_values import Value

#: Directories whose content nobody means to publish as a whole.
SYSTEM = (
    "/",
    "/etc",
    "/root",
    "/home",
    "/var",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/usr",
    "/opt",
    "/boot",
    "/lib",
    "/srv/..",
    "/etc/nginx",
    "/etc/ssl",
    "/var/log",
    "/var/lib",
)
DOT, SLASH, PERCENT = mask_of("."), mask_of("/"), mask_of("% ?#")
REWRITES = ("return", "rewrite", "set", "break")


def judge(run: Run) -> None:
    run.audit.decide("NGX-19", "NGX-20", "NGX-21", "NGX-22")
    _paths(run)
    _splitting(run)
    _targets(run)
    _hosts(run)
    _origins(run)
    _upstreams(run)
    _upgrade(run)
    _conditions(run)
    _tables(run)
    _patterns(run)
    for gap in run.tree.gaps:
        if gap.lua:
            for check in ("NGX-20", "NGX-13"):
                run.audit.unknown(check, f"{gap.where}: {gap.what} holds code, which is not judged")


# -- NGX-19 -----------------------------------------------------------------------------------------------------------


def _paths(run: Run) -> None:
    model = run.model
    for item in model.walk("root", "alias"):
        if not item.args or not model.in_http(item):
            continue
        path = item.args[0]
        if "$" not in path and path.startswith("/"):
            normal = "/" + posixpath.normpath(path).strip("/")
            config = run.tree.path.rpartition("/")[0]
            if normal in SYSTEM or normal == config:
                run.find(
                    "NGX-19",
                    item,
                    f"{show(item)} publishes a directory of the system",
                    severity=None if normal == "/" or normal in ("/etc", "/root", config) else "medium",
                )
        if item.parent is not None and model.value(item.parent, "merge_slashes") == "off":
            run.find("NGX-19", item, f"{show(item)} under merge_slashes off", severity="medium")
        if item.name == "root":
            _rooted(run, item)
    for item in model.walk("alias"):
        location = model.owner.get(id(item.parent)) if item.parent else None
        if not item.args or not isinstance(location, Location):
            continue
        if location.modifier in ("", "^~"):
            if not location.path.endswith("/"):
                severity = None if item.args[0].endswith("/") else "medium"
                run.find(
                    "NGX-19",
                    item,
                    f"{show(item)} in location {location.path}: {location.path}../ leads one directory up",
                    severity=severity,
                )
        elif location.pattern:
            _captured(run, item, location)


def _captured(run: Run, item: Directive, location: Location) -> None:
    """alias /files/$1 in a location with a pattern: the captured part must not climb."""
    regex = run.model.location_regex(location)
    if regex is None:
        return
    before = ""
    for is_variable, name in parts(item.args[0]):
        number = regex.number(name) if is_variable else None
        if not is_variable or number is None:
            before = name if not is_variable else ""
            continue
        boundary = before.endswith("/") or regex.first(number) == SLASH
        free = not regex.finite(number)
        slash_before = _slash_before(location.path, number)
        if not before and free:
            run.find("NGX-19", item, f"{show(item)} begins with what the client sends")
        elif (
            free
            and boundary
            and not slash_before
            and regex.first(number) != SLASH
            and regex.first(number) & DOT
            and regex.mask(number) & DOT
        ):
            severity = None if regex.mask(number) & SLASH else "medium"
            run.find(
                "NGX-19",
                item,
                f"{show(item)} in location {location.modifier} {location.path}: the captured part can begin with ..",
                severity=severity,
            )
        elif free and not boundary and regex.first(number) != SLASH:
            run.find(
                "NGX-19",
                item,
                f"{show(item)}: the captured part continues the name of the directory",
                severity="medium",
            )
        before = ""


def _slash_before(pattern: str, number: int) -> bool:
    """Whether a slash stands right before a group, so that nginx has resolved dots behind it."""
    count, escaped, inside = 0, False, False
    for at, char in enumerate(pattern):
        if escaped:
            escaped = False
            continue
        if char == "\\":
            escaped = True
        elif char == "[":
            inside = True
        elif char == "]":
            inside = False
        elif (
            char == "("
            and not inside
            and (not pattern.startswith("(?", at) or re.match(r"\(\?(P?<\w|')", pattern[at:]))
        ):
            count += 1
            if count == number:
                return pattern[:at].rstrip("(?:").endswith("/")
    return False


def _rooted(run: Run, item: Directive) -> None:
    """root with a variable of the client."""
    for name in variables(item.args[0]):
        value = run.values.variable(name, item)
        if value.client and value.free and value.mask & DOT and name not in ("host", "uri", "document_uri"):
            if value.mask & SLASH or not name.isdigit():
                run.find("NGX-19", item, f"{show(item)}: ${name} is chosen by the client")
                return


# -- NGX-20: line breaks ----------------------------------------------------------------------------------------------


def _header_value(item: Directive) -> tuple[str, bool] | None:
    """The part of a directive that becomes a line of a header, and whether it goes to the upstream."""
    if item.name == "return":
        if len(item.args) == 1 and not item.args[0].isdigit():
            return item.args[0], False
        if len(item.args) == 2 and item.args[0] in ("301", "302", "303", "307", "308"):
            return item.args[1], False
        return None
    if item.name == "rewrite":
        if len(item.args) >= 2 and (
            (len(item.args) > 2 and item.args[2] in ("redirect", "permanent"))
            or re.match(r"https?://|\$scheme", item.args[1])
        ):
            return item.args[1], False
        return None
    if item.name in ("add_header", "add_trailer", "proxy_set_header", "grpc_set_header"):
        return (item.args[1], item.name.endswith("_set_header")) if len(item.args) > 1 else None
    if item.name == "proxy_pass":
        return (item.args[0], True) if item.args else None
    return None


def _splitting(run: Run) -> None:
    for item in run.model.walk(
        "return", "rewrite", "add_header", "add_trailer", "proxy_set_header", "grpc_set_header", "proxy_pass"
    ):
        found = _header_value(item)
        if found is None or "$" not in found[0] or not run.model.in_http(item):
            continue
        text, upstream = found
        for name in variables(text):
            # nginx encodes the groups of a rewrite itself when it redirects, and the path when proxy_pass has no variable in it.
            if item.name == "rewrite" and name.isdigit():
                continue
            breaks = run.values.variable(name, item).breaks
            if upstream:
                breaks &= NEWLINE
            if breaks and not _rewritten(run, item, name):
                what = "\\n" if breaks & NEWLINE else "\\r"
                run.find("NGX-20", item, f"{show(item)}: ${name} can hold {what}")
                break


def _rewritten(run: Run, item: Directive, name: str) -> bool:
    """$uri after "rewrite ^ $request_uri" is what the client sent, not decoded."""
    if name not in ("uri", "document_uri") or item.parent is None:
        return False
    return any(
        rule.args[:2] in (("^", "$request_uri"), (".*", "$request_uri"), ("^.*$", "$request_uri"))
        and rule.line < item.line
        for rule in item.parent.find("rewrite")
    )


# -- NGX-20: targets --------------------------------------------------------------------------------------------------


def _targets(run: Run) -> None:
    """The host of an upstream, as far as the client writes it."""
    for item in run.model.walk(*PASSES):
        if not item.args or "$" not in item.args[0] or not run.model.in_http(item):
            continue
        place = run.model.place(item)
        if isinstance(place, Location) and place.internal and not place.named:
            continue
        found = parts(item.args[0])
        text = item.args[0]
        at = 0
        if "://" in text:
            while at < len(found) and (found[at][0] or "://" not in found[at][1]):
                at += 1
            scheme = found[:at]
            for is_variable, name in scheme:
                value = run.values.variable(name, item) if is_variable else Value()
                if value.client and value.free:
                    run.find("NGX-20", item, f"{show(item)}: ${name} chooses the protocol")
            rest = found[at][1].split("://", 1)[1]
            found = ([(False, rest)] if rest else []) + found[at + 1 :]
        _target(run, item, found)


def _target(run: Run, item: Directive, found: list[tuple[bool, str]]) -> None:
    for number, (is_variable, name) in enumerate(found):
        if not is_variable:
            if re.search(r"[/?#]", name):
                return
            continue
        if name.lower() == "is_args":
            return
        value = run.values.variable(name, item)
        if value.first and not value.first & ~SLASH and (not value.empty or number):
            return
        if not (value.client and value.free):
            continue
        suffix = "".join(text for variable, text in found[number + 1 :] if not variable).partition("/")[0]
        if value.mask & DOT:
            run.find("NGX-20", item, f"{show(item)}: ${name} is chosen by the client and names the upstream")
        elif not suffix.strip(":0123456789") and not any(text for variable, text in found[:number] if not variable):
            run.find(
                "NGX-20",
                item,
                f"{show(item)}: ${name} is chosen by the client and can be any short name",
                severity="medium",
            )
        else:
            continue
        return


# -- NGX-20: names and origins ----------------------------------------------------------------------------------------


def _hosts(run: Run) -> None:
    for item in run.model.walk("proxy_set_header", "grpc_set_header"):
        if len(item.args) == 2 and item.args[0].lower() in ("host", "x-forwarded-host"):
            for name in variables(item.args[1]):
                trusted = name == "http_x_forwarded_host" and (
                    run.policy.behind_proxy or (item.parent and run.model.values(item.parent, "set_real_ip_from"))
                )
                if name.startswith(("http_", "arg_", "cookie_")) and not trusted:
                    run.find("NGX-20", item, show(item), severity="medium")
    for item in run.model.walk("fastcgi_param", "uwsgi_param", "scgi_param"):
        if (
            len(item.args) > 1
            and item.args[0] in ("HTTP_HOST", "SERVER_NAME")
            and any(name == "http_host" or name.startswith("arg_") for name in variables(item.args[1]))
        ):
            run.find("NGX-20", item, show(item), severity="low")


def _origins(run: Run) -> None:
    model = run.model
    for block in model.walk("if"):
        words = condition(block)
        if len(words) == 3 and words[1].lstrip("!") in ("~", "~*"):
            _origin(run, block, words[0], words[2], words[1].endswith("*"))
    for block in model.walk("map"):
        if len(block.args) == 2:
            for item in block.block or ():
                if item.name.startswith("~"):
                    _origin(run, item, block.args[0], item.name.lstrip("~*"), item.name.startswith("~*"))
    for item in model.walk("valid_referers"):
        if "none" in item.args:
            run.find("NGX-20", item, show(item), severity="medium")
    for item in model.walk("add_header", "more_set_headers"):
        name, value = item.args[0] if item.args else "", item.args[1] if len(item.args) > 1 else ""
        if item.name == "more_set_headers":
            name, _, value = name.partition(":")
        if name.lower() != "access-control-allow-origin":
            continue
        given = _with_credentials(item)
        for word in variables(value):
            # What a pattern let through was judged with the pattern; only a free value is an echo.
            if run.values.comes_from(word, "http_origin") and _echoes(run, word, item):
                run.find(
                    "NGX-20",
                    item,
                    f"{show(item)}: every origin is allowed{' with credentials' if given else ''}",
                    severity=None if given else "medium",
                )
                break
        if value.strip() == "*" and given:
            run.find("NGX-20", item, f"{show(item)} with credentials", severity="low")


def _echoes(run: Run, word: str, item: Directive) -> bool:
    """Whether the variable can be any origin at all: itself, or the default of a map."""
    if word.lower() == "http_origin":
        level = item.parent
        # Inside "if ($http_origin ~ ...)" the pattern has let it through.
        return not (level is not None and level.name == "if" and condition(level)[:1] == ["$http_origin"])
    for found in run.values.maps.get(word.lower(), ()):
        for key, result, _ in found.entries:
            if key in ("default", "~.*", "~.", "~^.*$", "~.+", "~^") and "http_origin" in [
                name.lower() for name in variables(result)
            ]:
                return True
    return any(
        _echoes(run, name, one) for one in run.values.sets.get(word.lower(), ())[:8] for name in variables(one.args[1])
    )


def _with_credentials(item: Directive) -> bool:
    level = item.parent
    return level is not None and any(
        other.args[:1] and other.args[0].lower() == "access-control-allow-credentials" and other.args[1:2] == ("true",)
        for other in level.find("add_header")
    )


def _origin(run: Run, at: Directive, source: str, pattern: str, caseless: bool) -> None:
    """A pattern for Origin or Referer: texts that it lets through are tried for a foreign host."""
    names = [name.lower() for name in variables(source)]
    kind = next((name for name in names if name in ("http_origin", "http_referer", "http_referrer")), "")
    if not kind:
        return
    if kind == "http_referrer":
        run.find("NGX-20", at, "$http_referrer: the header is called Referer, so this is never set", severity="low")
        return
    regex = run.model.regex(pattern, caseless)
    if regex is None or "://" not in pattern.replace("\\", ""):
        if regex is not None and not regex.anchored() and re.search(r"[a-z]{2}", pattern):
            run.find("NGX-20", at, f"the pattern for ${kind} is not anchored at the start", severity="medium")
        return
    severity = None if kind == "http_origin" else "medium"
    for sample in _samples(regex):
        if not regex.anchored():
            run.find("NGX-20", at, f"the pattern for ${kind} is not anchored at the start", severity=severity)
            return
        host = re.split(r"[/:?#]", sample.partition("://")[2], maxsplit=1)[0]
        closed = regex.anchored(end=True)
        if not closed and len(host) == len(sample.partition("://")[2]):
            run.find("NGX-20", at, f"the pattern for ${kind} does not end after the host", severity=severity)
            return
        if any("`" in label for label in host.split(".")[-2:]) and host not in ("`",):
            run.find(
                "NGX-20",
                at,
                f"the pattern for ${kind} lets foreign hosts through: a dot or a part of the name is open",
                severity=severity,
            )
            return
        if kind == "http_origin" and "/" in sample.partition("://")[2]:
            run.find("NGX-20", at, "an origin has no path, so the pattern never matches", severity="low")
            return


def _samples(regex: Regex, most: int = 64) -> list[str]:
    """Texts a pattern lets through; "`" stands for a byte that is open."""

    def texts(node: tuple, depth: int) -> list[str]:
        kind = node[0]
        if depth > 30:
            return [""]
        if kind == "set":
            bits = bin(node[1]).count("1")
            if bits <= 2:
                return [chr(node[1].bit_length() - 1).lower()]
            # An open set is a problem where it can stand for letters; digits of a port cannot.
            return (
                ["`"]
                if node[1] & mask_of("abcdefghijklmnopqrstuvwxyz")
                else [chr((node[1] & -node[1]).bit_length() - 1)]
            )
        if kind == "cat":
            out = [""]
            for part in node[1]:
                out = [left + right for left in out for right in texts(part, depth + 1)][:most]
            return out
        if kind == "alt":
            return [text for part in node[1] for text in texts(part, depth + 1)][:most]
        if kind == "rep":
            inner = texts(node[1], depth + 1)
            return ([""] if node[2] == 0 else []) + inner
        if kind in ("group", "atomic"):
            return texts(node[1], depth + 1)
        return [""]

    return texts(regex.node, 0)[:most]


# -- NGX-21 -----------------------------------------------------------------------------------------------------------


def _address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host in ("", "localhost") or host.startswith("unix:")
    return True


def _split(text: str) -> tuple[str, str]:
    """Host (with port) and what follows it, of the target of a pass directive."""
    text = re.sub(r"^[a-z]+://", "", text)
    if text.startswith("unix:"):
        path, _, rest = text[5:].partition(":")
        return "unix:" + path, rest
    match = re.match(r"(\[[^\]]*\](?::[^/?#$]*)?|[^/?#]*)(.*)", text, re.DOTALL)
    return (match[1], match[2]) if match else (text, "")


_INTERNAL = re.compile(
    r"\.(local|internal|intranet|private|corp|home|lan|localdomain|svc|consul|docker|test|example|invalid|localhost|arpa|onion)\.?$"
)


def _upstreams(run: Run) -> None:
    model = run.model
    groups = {block.args[0].lower(): block for block in model.walk("upstream") if block.args}
    used: set[str] = set()
    for item in model.walk(*PASSES):
        if not item.args or not model.in_http(item):
            continue
        host, path = _split(item.args[0])
        name = re.sub(r":[0-9]+$", "", host).lower()
        used.add(name)
        if "$" in host:
            _resolved(run, item, host, groups)
        elif name not in groups and not _address(name):
            public = "." in name.strip(".") and not _INTERNAL.search(name)
            run.find(
                "NGX-21",
                item,
                f"{show(item)}: {name} is looked up once, when nginx starts",
                severity=None if public else "low",
            )
        if item.name == "proxy_pass":
            _normalised(run, item, host, path)
    for name, block in groups.items():
        for server in block.find("server"):
            host = re.sub(r":[0-9]+$", "", server.args[0]) if server.args else ""
            if host and not _address(host) and "resolve" not in server.args and not host.startswith("unix:"):
                public = "." in host.strip(".") and not _INTERNAL.search(host)
                run.find(
                    "NGX-21",
                    server,
                    f"{show(server)}: {host} is looked up once, when nginx starts",
                    severity=None if public else "low",
                )
        if (
            any("resolve" in server.args for server in block.find("server"))
            and model.effective(block, "resolver") is None
        ):
            run.find("NGX-21", block, f"upstream {name} has resolve but no resolver")
    for item in model.walk("resolver"):
        for word in item.args:
            if "=" in word:
                continue
            bare = (
                re.sub(r"(?<=[\]0-9a-z]):[0-9]+$", "", word) if word.count(":") == 1 or word.startswith("[") else word
            )
            try:
                address = ipaddress.ip_address(bare.strip("[]"))
            except ValueError:
                continue
            if not (address.is_private or address.is_loopback or address.is_link_local):
                run.find("NGX-21", item, f"{show(item)}: {address} is a public resolver")


def _resolved(run: Run, item: Directive, host: str, groups: dict[str, Directive]) -> None:
    """A name in a variable is looked up while serving, which needs a resolver."""
    if item.parent is None or run.model.effective(item.parent, "resolver") is not None:
        return
    for text in run.values.strings(host):
        name = re.sub(r":[0-9]+$", "", _split(text)[0] if text and "://" in text else text or "").lower()
        if text is None or (name not in groups and not _address(name)):
            run.find("NGX-21", item, f"{show(item)}: a name in a variable needs a resolver, and none is set")
            return


def _normalised(run: Run, item: Directive, host: str, path: str) -> None:
    place = run.model.place(item)
    if not isinstance(place, Location) or place.modifier == "=" or not path:
        return
    if "$" not in host + path:
        if not any(
            rule.args[:2] == ("^", "$request_uri") for rule in (item.parent.find("rewrite") if item.parent else ())
        ):
            run.find(
                "NGX-21", item, f"{show(item)}: the path of the client is decoded and encoded again", severity="low"
            )
        return
    for name in variables(path):
        if name in ("request_uri", "is_args", "args", "query_string") or name.startswith("arg_"):
            continue
        value = run.values.variable(name, item)
        decoded = name.isdigit() or name in ("uri", "document_uri") or name in run.values.groups
        if decoded and value.client and value.free and value.mask & PERCENT and not _rewritten(run, item, name):
            run.find("NGX-21", item, f"{show(item)}: ${name} is sent on decoded, so %3F becomes ?", severity="low")
            return


def _upgrade(run: Run) -> None:
    """Upgrade of the client handed on as it came: also h2c, and with it a connection past every rule."""
    for item in run.model.walk("proxy_set_header"):
        if len(item.args) != 2 or item.args[0].lower() != "upgrade" or item.parent is None:
            continue
        texts = run.values.strings(item.args[1])
        free = any(text is None for text in texts) and any(
            run.values.comes_from(name, "http_upgrade") for name in variables(item.args[1])
        )
        if not (free or any(text and text.lower() == "h2c" for text in texts)):
            continue
        version = run.model.value(
            item.parent, "proxy_http_version", "1.1" if run.version and run.version >= (1, 29, 7) else "1.0"
        )
        if version == "1.0":
            continue
        connection = [
            rule.args[1]
            for rule in run.model.values(item.parent, "proxy_set_header")
            if len(rule.args) == 2 and rule.args[0].lower() == "connection"
        ]
        live = any(
            text is None or text.strip().lower() not in ("", "close", "keep-alive")
            for value in connection
            for text in run.values.strings(value)
        )
        run.find("NGX-21", item, f"{show(item)} lets h2c through", severity=None if live else "low")


# -- NGX-22 -----------------------------------------------------------------------------------------------------------


def _conditions(run: Run) -> None:
    model = run.model
    for block in model.walk("if"):
        location = model.owner.get(id(block.parent)) if block.parent else None
        if not isinstance(location, Location):
            continue
        for item in block.block or ():
            if item.name not in REWRITES:
                run.find("NGX-22", item, f"{show(item)} inside if inside a location")
        inner = block.block or []
        if any(
            item.name == "return"
            or (item.name == "rewrite" and item.args[-1:] and item.args[-1] in ("last", "redirect", "permanent"))
            for item in inner
        ):
            continue
        outer = location.block
        trap = next((name for name in ("try_files", "alias") if outer.find(name)), "")
        passed = outer.one("proxy_pass")
        if not trap and passed and passed.args and "$" not in passed.args[0] and _split(passed.args[0])[1]:
            trap = "the path of proxy_pass"
        if trap:
            run.find("NGX-22", block, f"if in {location.label} does not return, and then {trap} no longer works")
    for item in model.walk("try_files"):
        level = item.parent
        if level is None:
            continue
        if level.find("proxy_pass"):
            run.find(
                "NGX-22",
                item,
                "try_files beside proxy_pass: files that exist are asked of the upstream too",
                severity="low",
            )
        cache = model.effective(level, "open_file_cache")
        if cache is None or cache.args[:1] == ("off",):
            run.find(
                "NGX-22", item, "try_files without open_file_cache looks at the disk for every request", severity="info"
            )
    for names in _twice(run):
        run.find(
            "NGX-22",
            names[1],
            f"server_name {names[0]} stands in two servers of one address; this one never gets a request",
            severity="low",
        )


def _twice(run: Run) -> list[tuple[str, Directive]]:
    out, seen = [], {}
    for key, users in run.model.sockets.items():
        for server, _ in users:
            for name in dict.fromkeys(server.names):
                first = seen.setdefault((key, name), server)
                if first is not server and name not in ("",):
                    at = next(
                        (
                            item
                            for item in server.block.find("server_name")
                            if name in [word.lower() for word in item.args]
                        ),
                        server.block,
                    )
                    out.append((name, at))
    return list(dict.fromkeys(out))


def _tables(run: Run) -> None:
    """map and geo without a default give an empty value for what nobody thought of."""
    model = run.model
    decides: set[str] | None = None
    for block in model.walk("map", "geo"):
        if block.block is None or not block.args:
            continue
        entries = [item for item in block.block if item.args]
        if any(item.name == "default" for item in entries):
            continue
        real = [
            item for item in entries if item.name not in ("include", "proxy", "delete", "ranges", "proxy_recursive")
        ]
        if block.name == "map" and len(real) <= 1:
            continue
        if any(item.name in ("0.0.0.0/0", "::/0") for item in real) and block.name == "geo":
            continue
        decides = decides if decides is not None else _deciding(run)
        name = block.args[-1].lstrip("$").lower()
        run.find("NGX-22", block, f"{block.name} ${name} has no default", severity=None if name in decides else "low")


def _deciding(run: Run) -> set[str]:
    """Variables that something is decided by: conditions, keys of limits, targets."""
    out: set[str] = set()
    for item in run.model.walk(
        "if", "limit_req_zone", "limit_conn_zone", *PASSES, "auth_basic", "proxy_cache_bypass", "proxy_no_cache"
    ):
        words = condition(item) if item.name == "if" else item.args
        out.update(name.lower() for word in words for name in variables(word))
    for _ in range(3):
        out |= {
            name.lower()
            for found in list(out)
            for one in run.values.maps.get(found, ())
            for name in variables(one.source)
        }
    return out


def _all_patterns(run: Run) -> list[tuple[Directive, str, bool, bool]]:
    """Every pattern with its place: (directive, text, caseless, whether the client writes what it is matched against)."""
    model = run.model
    out: list[tuple[Directive, str, bool, bool]] = []
    for server in model.servers:
        for location in server.locations:
            if location.pattern:
                out.append((location.block, location.path, location.modifier == "~*", True))
        for item in server.block.find("server_name"):
            out += [(item, name[1:], True, True) for name in item.args if name.startswith("~")]
    for block in model.walk("if"):
        words = condition(block)
        if len(words) == 3 and words[1].lstrip("!") in ("~", "~*"):
            out.append((block, words[2], words[1].endswith("*"), _from_client(run, words[0], block)))
    for item in model.walk("rewrite"):
        if item.args:
            out.append((item, item.args[0], False, True))
    for block in model.walk("map"):
        if len(block.args) == 2:
            client = None
            for item in block.block or ():
                if item.name.startswith("~") and item.args:
                    client = _from_client(run, block.args[0], block) if client is None else client
                    out.append(
                        (
                            item,
                            item.name.lstrip("~*") if item.name.startswith("~*") else item.name[1:],
                            item.name.startswith("~*"),
                            client,
                        )
                    )
    for item in model.walk("valid_referers"):
        out += [(item, word[1:], True, True) for word in item.args if word.startswith("~")]
    return out


def _from_client(run: Run, source: str, at: Directive) -> bool:
    return run.values.text(source, at).client


def _patterns(run: Run) -> None:
    model = run.model
    risks: dict[tuple[str, bool], str] = {}
    for item, text, caseless, client in _all_patterns(run):
        regex = model.regex(text, caseless)
        key = (text, caseless)
        if regex is None:
            if key in model.bad_regexes:
                run.find("NGX-22", item, f"the pattern does not compile: {model.bad_regexes[key]}")
            else:
                run.audit.unknown("NGX-22", model.hard_regexes.get(key, "a pattern could not be read"))
            continue
        if client:
            if key not in risks:
                try:
                    risks[key] = regex.risk()
                except TooHard as error:
                    risks[key] = ""
                    run.audit.unknown("NGX-22", str(error))
            if risks[key]:
                run.find("NGX-22", item, f"the pattern takes {risks[key]} time on what a client can send: {text[:80]}")
        if (
            item.name == "location"
            and not regex.anchored(end=True)
            and re.search(r"\\\.(\(?[A-Za-z0-9|?:]+\)?|\[[^\]]*\]\+)$", text)
        ):
            run.find(
                "NGX-22", item, f"the pattern for a file ending is not anchored at its end: {text[:80]}", severity="low"
            )
    _groups(run)


def _groups(run: Run) -> None:
    """$1 where no pattern has such a group."""
    model = run.model
    for item in model.walk("rewrite"):
        if len(item.args) < 2:
            continue
        regex = model.regex(item.args[0])
        numbers = sorted({int(name) for name in variables(item.args[1]) if name.isdigit()})
        if regex and numbers and numbers[-1] > regex.groups:
            run.find("NGX-22", item, f"{show(item)}: the pattern has {regex.groups} groups, ${numbers[-1]} is empty")
    for item in model.walk("set", "return"):
        level = item.parent
        if level is None or level.name != "if" or not item.args:
            continue
        words = condition(level)
        if len(words) != 3 or words[1].lstrip("!") not in ("~", "~*"):
            continue
        regex = model.regex(words[2], words[1].endswith("*"))
        numbers = sorted({int(name) for name in variables(item.args[-1]) if name.isdigit()})
        if regex and numbers and numbers[-1] > regex.groups:
            run.find(
                "NGX-22",
                item,
                f"{show(item)}: the pattern of the condition has {regex.groups} groups, ${numbers[-1]} is not its",
            )
