# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx: who is served, where, and within which bounds (NGX-02, 03, 05 to 10, 14, 15).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import ipaddress
import re

from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import (
    PASS,
    REDIRECT,
    REFUSE,
    STATIC,
    STATUS,
    Listen,
    Location,
    Server,
    condition,
    parse_listen,
    target,
    variables,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Run, seconds, show, size

ACME = "/.well-known/acme-challenge"
#: A client that may do this much is not limited.
MOST_RATE, MOST_CONNECTIONS, BURST_SECONDS = 1000, 1000, 60
_QUIET = re.compile(r"favicon|robots\.txt|health|ping|ready|live|status|metrics|apple-touch|well-known", re.IGNORECASE)


def judge(run: Run) -> None:
    _version_told(run)
    account(run)
    _default_servers(run)
    _ports(run)
    _waiting(run)
    _sizes(run)
    _limits(run, "NGX-09", "limit_req")
    _limits(run, "NGX-10", "limit_conn")
    _sockets(run)
    _logs(run)
    errors(run)
    _addresses(run)


def _version_told(run: Run) -> None:
    run.audit.decide("NGX-02")
    model = run.model
    for server in run.outside():
        for place in (server, *server.locations):
            found = model.effective(place.block, "server_tokens")
            if found is None:
                run.find("NGX-02", server, "server_tokens is not set, so nginx tells its version")
            elif found.args[:1] in (("on",), ("build",)):
                run.find("NGX-02", found, show(found))
    for item in model.walk("proxy_pass_header"):
        if item.args and item.args[0].lower() in ("server", "x-powered-by"):
            run.find("NGX-02", item, show(item), severity="low")
    for item in model.walk("add_header", "return", "more_set_headers"):
        if any("nginx_version" in variables(word) for word in item.args):
            run.find("NGX-02", item, f"{show(item)} tells the version")
    told: set[int] = set()
    for server in run.outside():
        for place in model.places(server):
            if model.answer(place)[0] != PASS:
                continue
            kind = (model.answer(place)[1] or place.block).name.removesuffix("_pass")
            if kind == "memcached":
                continue
            # What an outer level hides and this one does not is NGX-18.
            if model.somewhere(place.block, f"{kind}_hide_header", "x-powered-by"):
                continue
            # Clearing it on the way out does as well.
            if any(
                "x-powered-by" in " ".join(item.args).lower()
                for level in place.block.chain()
                for item in level.find("more_clear_headers")[:50]
            ):
                continue
            if id(server) not in told:
                told.add(id(server))
                run.find(
                    "NGX-02", server, f"{kind}_hide_header X-Powered-By is not set for {place.label}", severity="low"
                )


def account(run: Run) -> None:
    user = run.tree.root.one("user")
    master = run.policy.run_as_user
    run.audit.decide("NGX-03")
    if user is not None and user.args and user.args[0] in ("root", "0") and master in (None, "root", "0"):
        run.find("NGX-03", user, f"{show(user)}: workers are root", severity="high")
    if master in (None, "root", "0"):
        return
    root = run.tree.root
    pid = root.one("pid")
    if pid is None or re.match(r"(/var)?/run/[^/]+$", pid.args[0] if pid.args else ""):
        run.find(
            "NGX-03",
            pid or root,
            f"{show(pid) if pid else 'pid is not set'}: {master} cannot write there",
            severity="low",
        )
    for http in run.model.https:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        lacking = [f"{kind}_temp_path" for kind in kinds if not http.find(f"{kind}_temp_path")]
        if lacking:
            run.find(
                "NGX-03",
                http,
                f"not set, and {master} cannot write to the default: {', '.join(lacking)}",
                severity="low",
            )


# -- names and ports --------------------------------------------------------------------------------------------------


def _host_guard(run: Run, server: Server) -> bool:
    """if ($host ...) { return 444; } on the level of the server."""
    for block in server.block.find("if"):
        words = condition(block)
        if words and words[0] in ("$host", "$http_host", "$ssl_server_name", "$server_name") and _refuses(block):
            return True
    return False


def _refuses(block: Directive) -> bool:
    found = block.one("return")
    return bool(found and found.args and found.args[0].isdigit() and int(found.args[0][:4]) >= 400)


def _acme(location: object) -> bool:
    return isinstance(location, Location) and "well-known" in location.path


def _serves_any_name(run: Run, server: Server, listen: Listen) -> tuple[str, str]:
    """What a default server does besides refusing: evidence and severity; nothing when it refuses."""
    model = run.model
    if (listen.ssl and model.value(server.block, "ssl_reject_handshake") == "on") or _host_guard(run, server):
        return "", ""
    mild = ""
    for place in model.places(server):
        if isinstance(place, Location) and (place.internal or _acme(place)):
            continue
        kind, item = model.answer(place)
        if kind == REFUSE or (kind == STATUS and model.closed(place.block)):
            continue
        if kind == REDIRECT and item is not None and not listen.ssl:
            host = re.sub(r"^(https?|\$scheme)://", "", target(item)).partition("/")[0]
            if (
                not set(variables(host)) & {"host", "http_host"}
                and "://" in target(item)
                and not host.startswith("$request")
            ):
                continue
            mild = mild or f"{show(item)} for every name"
            continue
        return f"{place.label} answers every name", "medium"
    return mild, "low" if mild else ""


def _default_servers(run: Run) -> None:
    run.audit.decide("NGX-05")
    for key, users in run.model.sockets.items():
        server, listen = run.model.default_of(key)
        if not listen.outside:
            if len({id(user) for user, _rest in users}) > 1 and not listen.default:
                run.find(
                    "NGX-05", listen.directive, f"{listen}: several servers, none is default_server", severity="low"
                )
            continue
        evidence, severity = _serves_any_name(run, server, listen)
        if listen.default and not evidence:
            continue
        if not listen.default:
            first = f"no server of {listen} is default_server, so the first one is: {server.label}"
            evidence, severity = (f"{first}; {evidence}", severity) if evidence else (first, "low")
        run.find("NGX-05", listen.directive, evidence, severity=severity)


def _ports(run: Run) -> None:
    if run.policy.ports is None:
        run.unknown("NGX-06", "no ports were declared")
        return
    run.audit.decide("NGX-06")
    listens = [(server.block, listen) for server in run.model.servers for listen in server.listens]
    for kind in ("stream", "mail"):
        for outer in run.tree.root.find(kind):
            for block in outer.find("server"):
                listens += [(block, parse_listen(item)) for item in block.find("listen")]
    for _rest, listen in listens:
        if listen.outside and listen.port not in run.policy.ports:
            declared = ", ".join(str(port) for port in sorted(run.policy.ports)) or "none"
            run.find("NGX-06", listen.directive, f"listen {listen}; declared: {declared}")


# -- bounds -----------------------------------------------------------------------------------------------------------

_TIMES = {"client_header_timeout": 60, "client_body_timeout": 60, "send_timeout": 60, "keepalive_timeout": 75}


def _waiting(run: Run) -> None:
    run.audit.decide("NGX-07")
    for name, most in _TIMES.items():
        for item in run.model.walk(name):
            time = seconds(item.args[0]) if item.args else None
            if time is not None and (time > most or (time == 0 and name != "keepalive_timeout")):
                run.find("NGX-07", item, f"{show(item)}, more than {most}s" if time else f"{show(item)}: no limit")
    for item in run.model.walk("keepalive_requests"):
        if item.args and item.args[0].isdigit() and int(item.args[0][:9]) < 100:
            run.find("NGX-07", item, show(item))
    if run.policy.streaming is None:
        return
    for item in run.model.walk(
        "proxy_read_timeout", "grpc_read_timeout", "fastcgi_read_timeout", "uwsgi_read_timeout", "scgi_read_timeout"
    ):
        time = seconds(item.args[0]) if item.args else None
        place = run.model.owner.get(id(item.parent))
        streams = isinstance(place, Location) and any(_takes(run, place, path) for path in run.policy.streaming)
        if time is not None and time > 120 and not streams:
            run.find("NGX-07", item, f"{show(item)} outside the declared streaming paths")


def _takes(run: Run, location: Location, path: str) -> bool:
    """Whether a location is the one for a declared path."""
    if location.pattern:
        regex = run.model.location_regex(location)
        return bool(regex and regex.matches(path))
    return path == location.path or (
        location.modifier in ("", "^~") and location.path != "/" and path.startswith(location.path)
    )


_SIZES = {"client_header_buffer_size": 64 << 10, "client_body_buffer_size": 16 << 20}


def _sizes(run: Run) -> None:
    run.audit.decide("NGX-08")
    for item in run.model.walk("client_max_body_size"):
        most = size(item.args[0]) if item.args else None
        if most == 0:
            run.find("NGX-08", item, f"{show(item)}: no limit")
        elif most is not None and most > run.policy.max_body:
            run.find("NGX-08", item, f"{show(item)}, more than {run.policy.max_body} bytes")
    for name, bound in _SIZES.items():
        for item in run.model.walk(name):
            if item.args and (size(item.args[0]) or 0) > bound:
                run.find("NGX-08", item, show(item))
    for item in run.model.walk("large_client_header_buffers"):
        if len(item.args) == 2 and item.args[0].isdigit():
            if int(item.args[0][:9]) > 16 or (size(item.args[1]) or 0) > 64 << 10:
                run.find("NGX-08", item, show(item))


def _zones(run: Run, name: str) -> dict[str, tuple[str, float, Directive]]:
    """Zone -> what it counts by, its rate per second, and its directive."""
    out = {}
    for item in run.model.walk(f"{name}_zone"):
        words = dict(word.partition("=")[::2] for word in item.args[1:])
        zone = words.get("zone", "").partition(":")[0]
        number, _rest, unit = words.get("rate", "").partition("r/")
        rate = (float(number) / (60 if unit == "m" else 1)) if number.isdigit() and len(number) < 10 else 0.0
        if zone:
            out[zone] = (item.args[0], rate, item)
    return out


def _limit(run: Run, rule: Directive, name: str, zones: dict) -> str:
    """Why a limit_req or limit_conn limits nothing; empty when it does limit."""
    words = dict(word.partition("=")[::2] for word in rule.args)
    zone = _zone(rule, name)
    if zone not in zones:
        return ""
    key, rate, _rest = zones[zone]
    value = run.values.text(key, rule)
    if value.client:
        return f"zone {zone} counts by {key}, which the client chooses"
    # What may be empty is not counted then: such a zone limits some requests only.
    if value.empty and any(found.name for word in variables(key) for found in run.values.maps.get(word.lower(), ())):
        return f"zone {zone} does not count requests for which {key} is empty"
    if not variables(key):
        return ""
    if name == "limit_req":
        burst = words.get("burst", "0")
        if rate > MOST_RATE:
            return f"zone {zone} allows {rate:.0f} requests a second"
        if burst.isdigit() and rate and int(burst[:9]) > max(BURST_SECONDS * rate, 20):
            return f"{show(rule)} allows more at once than {BURST_SECONDS} s of its rate"
    elif len(rule.args) > 1 and rule.args[1].isdigit() and int(rule.args[1][:9]) > MOST_CONNECTIONS:
        return f"{show(rule)}"
    return ""


def _limits(run: Run, check: str, name: str) -> None:
    model = run.model
    zones = _zones(run, name)
    run.audit.decide(check)
    used: set[str] = set()
    for rule in model.walk(name):
        for word in rule.args:
            used.add(word.removeprefix("zone="))
    reasons: dict[int, str] = {}
    referred = _referred(run)
    for server in run.outside():
        open_places: list[Location | Server] = []
        limited = 0
        for place in model.places(server):
            if model.answer(place)[0] != PASS or (isinstance(place, Location) and place.internal and not place.named):
                continue
            blocks = [place.block]
            if isinstance(place, Location) and place.named:
                # A request that try_files or error_page sends here was counted where it came from.
                origins = referred.get((id(server), place.path), [])
                if origins and all(_good(run, origin, name, zones, reasons) for origin in origins):
                    limited += 1
                    continue
            if _good(run, blocks[0], name, zones, reasons):
                limited += 1
                continue
            if model.has_code(place.block):
                run.unknown(check, f"{place.label}: code may limit there")
                continue
            rules = model.values(place.block, name)
            dry = model.effective(place.block, f"{name}_dry_run")
            if dry is not None and dry.args == ("on",) and rules:
                run.find(check, dry, f"{show(dry)}: nothing is refused")
            elif rules:
                # A rule for a zone that nobody defines keeps nginx from starting: NGX-01.
                bad = next((rule for rule in rules if reasons.get(id(rule))), None)
                if bad is not None:
                    run.find(check, bad, reasons[id(bad)])
            else:
                open_places.append(place)
        if open_places and not limited and len(open_places) > 1:
            run.find(check, server, f"no {name} applies to any of {len(open_places)} locations that hand requests on")
        else:
            for place in open_places:
                run.find(check, place, f"no {name} applies")
    if used and not used & set(zones):
        return
    for zone, (_rest, _rest, item) in zones.items():
        if zone not in used:
            run.find(check, item, f"zone {zone} is not used by any {name}", severity="low")


def _good(run: Run, block: Directive, name: str, zones: dict, reasons: dict[int, str]) -> bool:
    """Whether one rule that applies in the block really limits."""
    if run.model.value(block, f"{name}_dry_run") == "on":
        return False
    rules = run.model.values(block, name)
    if not rules:
        return False
    key = -id(rules[0].parent)
    if key not in reasons:
        good = False
        for rule in rules:
            reasons[id(rule)] = _limit(run, rule, name, zones)
            good = good or (not reasons[id(rule)] and _zone(rule, name) in zones)
        reasons[key] = "good" if good else ""
    return bool(reasons[key])


def _zone(rule: Directive, name: str) -> str:
    if name == "limit_req":
        return next((word[5:] for word in rule.args if word.startswith("zone=")), "")
    return rule.args[0] if rule.args else ""


def _referred(run: Run) -> dict[tuple[int, str], list[Directive]]:
    """(server, name of a named location) -> the blocks whose try_files or error_page leads there."""
    out: dict[tuple[int, str], list[Directive]] = {}
    for item in run.model.walk("try_files", "error_page"):
        if item.args and item.args[-1].startswith("@") and item.parent is not None:
            place = run.model.owner.get(id(item.parent)) or run.model.place(item)
            server = place.server if isinstance(place, Location) else place
            if server is not None:
                out.setdefault((id(server), item.args[-1][1:]), []).append(item.parent)
    return out


def _sockets(run: Run) -> None:
    events = run.tree.root.one("events")
    connections = events.one("worker_connections") if events else None
    files = run.tree.root.one("worker_rlimit_nofile")
    if (
        connections
        and files
        and connections.args
        and files.args
        and connections.args[0].isdigit()
        and files.args[0].isdigit()
    ):
        if int(files.args[0][:12]) < 2 * int(connections.args[0][:12]):
            run.find("NGX-10", files, f"{show(files)} is less than twice {show(connections)}", severity="low")


# -- logs and addresses -----------------------------------------------------------------------------------------------


def _unlogged(run: Run, place: Server | Location, known: dict[int, bool]) -> Directive | None:
    """The access_log that switches logging off here."""
    logs = run.model.values(place.block, "access_log")
    if logs and id(logs[0]) not in known:
        known[id(logs[0])] = all(item.args and item.args[0] in ("off", "/dev/null") for item in logs)
    return logs[0] if logs and known[id(logs[0])] else None


def _only_shows_counters(run: Run, server: Server) -> bool:
    """Whether a server has status pages and refuses the rest, so that there is nothing to log."""
    model = run.model
    kinds = {STATUS if model.closed(place.block) else model.answer(place)[0] for place in model.places(server)}
    return STATUS in kinds and kinds <= {STATUS, REFUSE}


def _logs(run: Run) -> None:
    run.audit.decide("NGX-14")
    model = run.model
    known: dict[int, bool] = {}
    counters = {id(server) for server in model.servers if _only_shows_counters(run, server)}
    beside = {key for key, users in model.sockets.items() if any(id(server) in counters for server, _rest in users)}
    for server in run.outside():
        if id(server) in counters:
            continue
        refusing = all(model.answer(place)[0] == REFUSE for place in model.places(server))
        if refusing and any(listen.key in beside for listen in server.listens):
            # The default server of a socket that is for counters only.
            continue
        for place in (*model.places(server), server):
            off = _unlogged(run, place, known)
            if off is None:
                continue
            kind, _rest = model.answer(place)
            name = place.path if isinstance(place, Location) else ""
            inside = isinstance(place, Location) and place.internal
            if kind == STATUS or model.closed(place.block) or (name and _QUIET.search(name)) or inside:
                continue
            if kind == REFUSE and off.parent is not place.block:
                continue
            if place is server and kind == STATIC and model.everything(server):
                continue
            # Pictures and style sheets without a line each are common, and lose little.
            assets = kind == STATIC and isinstance(place, Location) and place.pattern and off.parent is place.block
            run.find("NGX-14", off, show(off), severity="low" if assets else None)
    formats = {item.args[0]: item for item in model.walk("log_format") if item.args}
    for name in sorted({item.args[1] for item in model.walk("access_log") if len(item.args) > 1}):
        if name in formats:
            inside = {word for arg in formats[name].args[1:] for word in variables(arg)}
            secret = sorted(
                word
                for word in inside
                if word
                in ("http_authorization", "http_cookie", "request_body", "http_x_api_key", "http_proxy_authorization")
                or word.startswith("cookie_")
            )
            if secret:
                run.find("NGX-14", formats[name], f"log_format {name} writes ${', $'.join(secret)}")


def errors(run: Run) -> None:
    """NGX-14: where errors are written."""
    for item in run.model.walk("error_log"):
        if not item.args:
            continue
        if item.args[0] == "off":
            run.find("NGX-14", item, "error_log off writes to a file named off")
        elif item.args[0] == "/dev/null" or item.args[1:] in (("emerg",), ("alert",)):
            run.find("NGX-14", item, f"{show(item)}: errors are lost")


def _wide(text: str) -> bool:
    if text == "all":
        return True
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return network.prefixlen < (8 if network.version == 4 else 32) and not (
        network.version == 6 and network.is_private and network.prefixlen >= 7
    )


def _addresses(run: Run) -> None:
    run.audit.decide("NGX-15")
    model = run.model
    for item in model.walk("set_real_ip_from"):
        if item.args and _wide(item.args[0]):
            run.find("NGX-15", item, f"{show(item)}: everybody may say who he is", severity="high")
    # A list below the header's level makes use of it as well.
    using = {id(level) for item in model.walk("set_real_ip_from") for level in item.chain()}
    for item in model.walk("real_ip_header"):
        if (
            item.parent is not None
            and id(item.parent) not in using
            and not model.values(item.parent, "set_real_ip_from")
        ):
            run.find("NGX-15", item, f"{show(item)} does nothing without set_real_ip_from", severity="low")
    told: set[tuple] = set()
    for server in run.outside():
        for place in model.places(server):
            kind, item = model.answer(place)
            if kind != PASS or item is None or item.name != "proxy_pass":
                continue
            trusted = run.policy.behind_proxy or bool(model.values(place.block, "set_real_ip_from"))
            own = model.values(place.block, "proxy_set_header")
            lacking = []
            for header in ("X-Forwarded-For", "X-Real-IP"):
                rules = (
                    model.named(own[0].parent, "proxy_set_header").get(header.lower())
                    if own and own[0].parent
                    else None
                )
                rule = next((one for one in reversed(rules or ()) if len(one.args) == 2), None)
                if rule is None:
                    # What an outer level sets and this one lost is NGX-18.
                    if not model.somewhere(place.block, "proxy_set_header", header.lower()):
                        lacking.append(header)
                    continue
                chosen = [
                    word
                    for word in variables(rule.args[1])
                    if word == "proxy_add_x_forwarded_for"
                    or (word.startswith(("http_", "arg_", "cookie_")) and not trusted)
                ]
                if chosen and not (trusted and chosen == ["proxy_add_x_forwarded_for"]):
                    run.find("NGX-15", rule, f"{show(rule)} keeps what the client wrote")
            key = (id(own[0].parent) if own else id(server), tuple(lacking))
            if lacking and key not in told:
                told.add(key)
                severity = None if "X-Forwarded-For" in lacking else "low"
                where = own[0] if own else place
                run.find(
                    "NGX-15",
                    where,
                    f"{' and '.join(lacking)} of the client passed on unchanged by {place.label}",
                    severity=severity,
                )
