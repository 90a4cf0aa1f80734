# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx: where data of the client goes: files, headers, upstreams (NGX-19 to NGX-21).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_nginx_origins as origins
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import (
    PASSES,
    Location,
    parts,
    split_target,
    variables,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_regex import NEWLINE, mask_of
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


def judge(run: Run) -> None:
    run.audit.decide("NGX-19", "NGX-20", "NGX-21")
    _paths(run)
    _splitting(run)
    _targets(run)
    _hosts(run)
    origins.judge(run)
    _upstreams(run)
    _upgrade(run)
    for gap in run.tree.gaps:
        if gap.lua:
            for check in ("NGX-20", "NGX-13"):
                run.unknown(check, f"{gap.where}: {gap.what} holds code, which is not judged")


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
            if breaks and not _rewritten(item, name):
                what = "\\n" if breaks & NEWLINE else "\\r"
                run.find("NGX-20", item, f"{show(item)}: ${name} can hold {what}")
                break


def _raw_path(item: Directive) -> bool:
    """Whether "rewrite ^ $request_uri" has put the path as the client sent it in the place of the decoded one."""
    for level in item.chain():
        for rule in level.find("rewrite") if level is not item else ():
            if (
                rule.args[:2] in (("^", "$request_uri"), (".*", "$request_uri"), ("^.*$", "$request_uri"))
                and rule.line < item.line
            ):
                return True
        if level.name == "location":
            return False
    return False


def _rewritten(item: Directive, name: str) -> bool:
    return (name in ("uri", "document_uri") or name.isdigit()) and _raw_path(item)


# -- NGX-20: targets --------------------------------------------------------------------------------------------------


def _targets(run: Run) -> None:
    """The host of an upstream, as far as the client writes it."""
    for item in run.model.walk(*PASSES):
        if not item.args or "$" not in item.args[0] or not run.model.in_http(item):
            continue
        place = run.model.place(item)
        if isinstance(place, Location) and place.internal and not place.named:
            continue
        for text, at in _written_out(run, item.args[0], item):
            if _named_by_client(run, item, text, at):
                break


def _written_out(run: Run, text: str, at: Directive, depth: int = 0) -> list[tuple[str, Directive]]:
    """What a text is when the variable it begins with is set or mapped to another text."""
    found = parts(text)
    scheme = text.startswith(("http://$", "https://$", "grpc://$", "grpcs://$"))
    first = found[1] if scheme and len(found) > 1 else found[0] if found else (False, "")
    if not first[0] or depth > 4:
        return [(text, at)]
    name = first[1].lower()
    near = run.values.sets_before(name, at)
    options = [(item.args[1], item) for item in near]
    for table in run.values.maps.get(name, ()):
        # A large map is judged as a whole, by what its variable can hold.
        entries = table.entries if len(table.entries) <= 32 else []
        options += [(result, at) for _rest, result, _rest in entries if "/" in result and "$" in result]
    if not options or len(options) > 8:
        return [(text, at)]
    if not near:
        # The other entries of the map are judged by what they can hold.
        return [(text, at), *options]
    written = re.compile(r"\$(?:\{" + re.escape(first[1]) + r"\}|" + re.escape(first[1]) + r"(?![A-Za-z0-9_]))")
    out = []
    for option, where in options:
        whole = written.sub(lambda _match, option=option: option, text, count=1)
        if whole.count("://") > 1 or option == text:
            out.append((option, where))
        elif "$" in option and whole != text:
            out += _written_out(run, whole, where, depth + 1)
    return out


def _named_by_client(run: Run, item: Directive, text: str, at: Directive) -> bool:
    found = parts(text)
    if "://" in text:
        start = next(number for number, (is_variable, word) in enumerate(found) if not is_variable and "://" in word)
        for is_variable, name in found[:start]:
            value = run.values.variable(name, at) if is_variable else Value()
            if value.client and value.free:
                run.find("NGX-20", item, f"{show(item)}: ${name} chooses the protocol")
                return True
        rest = found[start][1].split("://", 1)[1]
        found = ([(False, rest)] if rest else []) + found[start + 1 :]
    return _target(run, item, found, at)


def _target(run: Run, item: Directive, found: list[tuple[bool, str]], at: Directive) -> bool:
    for number, (is_variable, name) in enumerate(found):
        if not is_variable:
            if re.search(r"[/?#]", name):
                return False
            continue
        if name.lower() == "is_args":
            return False
        value = run.values.variable(name, at)
        if value.first and not value.first & ~SLASH and (not value.empty or number):
            return False
        if not (value.client and value.free):
            continue
        suffix = "".join(text for variable, text in found[number + 1 :] if not variable).partition("/")[0]
        if value.mask & DOT:
            run.find("NGX-20", item, f"{show(item)}: ${name} is chosen by the client and names the upstream")
            return True
        if not suffix.strip(":0123456789") and not any(text for variable, text in found[:number] if not variable):
            run.find(
                "NGX-20",
                item,
                f"{show(item)}: ${name} is chosen by the client and can be any short name",
                severity="medium",
            )
            return True
    return False


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


# -- NGX-21 -----------------------------------------------------------------------------------------------------------


def _address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host in ("", "localhost") or host.startswith("unix:")
    return True


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
        host, path = split_target(item.args[0])
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
    before = host.partition("$")[0]
    if item.parent is None or run.model.effective(item.parent, "resolver") is not None:
        return
    literal = re.sub(r":[0-9]*$", "", before).lower()
    if before and (_address(literal) or literal in groups):
        # A whole address or a group stands before the variable, which then holds the path.
        return
    texts = run.values.strings(host)
    for text in texts:
        name = re.sub(r":[0-9]+$", "", split_target(text)[0] if text and "://" in text else text or "").lower()
        if text is None or (name not in groups and not _address(name)):
            evidence = f"{show(item)}: a name in a variable needs a resolver, and none is set"
            run.find("NGX-21", item, evidence, severity="low" if text is None else None)
            return


def _normalised(run: Run, item: Directive, host: str, path: str) -> None:
    place = run.model.place(item)
    if not isinstance(place, Location) or place.modifier == "=":
        return
    if "$" not in host + path:
        if _raw_path(item):
            run.find(
                "NGX-21", item, f"{show(item)} after rewrite ^ $request_uri: the path is encoded twice", severity="low"
            )
        elif path:
            run.find(
                "NGX-21", item, f"{show(item)}: the path of the client is decoded and encoded again", severity="low"
            )
        return
    for name in variables(path):
        if name in ("request_uri", "is_args", "args", "query_string") or name.startswith("arg_"):
            continue
        value = run.values.variable(name, item)
        decoded = name.isdigit() or name in ("uri", "document_uri") or name in run.values.groups
        if decoded and value.client and value.free and value.mask & PERCENT and not _rewritten(item, name):
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
