# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the edge is asked to do, checked and completed before a template sees it.

Every value that ends up in nginx.conf passes through here first: the templates print what this module returns and
nothing else, so a name with a semicolon or a newline is refused with its path instead of becoming a directive.
"""

from __future__ import annotations

import ipaddress
import re

# Answered by the services for the inside only; no route may publish them.
PRIVATE_PATHS = ("/metrics", "/health", "/ready", "/live", "/docs", "/redoc", "/openapi.json")
DOCS_PATHS = ("/docs", "/openapi.json")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_BODY = 256 * 1024**2
# What may follow a prefix. Nothing here needs decoding, so the path nginx matched and the path the service sees are one.
REST = "(?<edge_rest>/[A-Za-z0-9._~:@+/-]{0,512})?"

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*{_LABEL}\Z")
_SERVICE = re.compile(r"[a-z][a-z0-9-]{0,62}\Z")
_SIZE = re.compile(r"([1-9][0-9]{0,5})([km])\Z")
_TIME = re.compile(r"([1-9][0-9]{0,4})([sm])\Z")
_PATH = re.compile(r"(?:/[A-Za-z0-9_~.-]+)+\Z")
_MEMORY = re.compile(r"([1-9][0-9]{0,6})([mg])\Z")

# Bodies of at least this many bytes count as large; the template recognises them by the number of digits.
SMALL_BODY = 100_000

_ROUTE_KEYS = (
    "path",
    "match",
    "strip",
    "service",
    "port",
    "methods",
    "streaming",
    "max_body",
    "read_timeout",
    "limit",
)
_OPTION_KEYS = (
    "server_names",
    "bind",
    "http_port",
    "https_port",
    "per_client",
    "max_body",
    "stream_timeout",
    "hsts",
    "trusted_proxies",
    "tls_profile",
    "expose_docs",
    "routes",
    "limits",
)


class EdgeConfigError(Exception):
    """One or more options cannot be used; ``problems`` holds all of them."""

    def __init__(self, problems):
        self.problems = problems
        super().__init__(describe(problems))


def describe(problems):
    """All problems as text, one per line."""
    return "\n".join(f"{p['where']}: {p['what']} Fix: {p['fix']}" for p in problems)


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _loosen(value):
    """Numbers and booleans given on a command line arrive as text; read them as what they say."""
    if isinstance(value, dict):
        return {key: _loosen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_loosen(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,8}", value):
        return int(value)
    if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
        return value.lower() in ("true", "yes")
    return value


def size_bytes(text):
    """Bytes in an nginx size such as 512k or 4m; None when it is not one."""
    match = _SIZE.match(text) if isinstance(text, str) else None
    if match is None:
        return None
    return int(match.group(1)) * (1024 if match.group(2) == "k" else 1024 * 1024)


def seconds(text):
    """Seconds in an nginx time such as 30s or 5m; None when it is not one."""
    match = _TIME.match(text) if isinstance(text, str) else None
    if match is None:
        return None
    return int(match.group(1)) * (1 if match.group(2) == "s" else 60)


def _memory_bytes(text):
    match = _MEMORY.match(text) if isinstance(text, str) else None
    if match is None:
        return None
    return int(match.group(1)) * (1024**2 if match.group(2) == "m" else 1024**3)


class _Check:
    def __init__(self, prefix):
        self.prefix = prefix
        self.problems = []

    def add(self, where, what, fix):
        self.problems.append({"where": self.prefix + where, "what": what, "fix": fix})

    def integer(self, where, value, low, high):
        if not _is_int(value) or not low <= value <= high:
            self.add(
                where, f"{value!r} is not a whole number from {low} to {high}.", f"give a number from {low} to {high}."
            )
            return False
        return True

    def size(self, where, value, most):
        size = size_bytes(value)
        if size is None:
            self.add(where, f"{value!r} is not a size.", "write a whole number with k or m, for example 4m.")
        elif size > most:
            self.add(where, f"{value} is above the {most // 1024**2}m the edge accepts.", "choose a smaller size.")
        return size

    def time(self, where, value, most):
        time = seconds(value)
        if time is None:
            self.add(where, f"{value!r} is not a time.", "write a whole number with s or m, for example 300s.")
        elif time > most:
            self.add(where, f"{value} is above the {most}s the edge accepts.", "choose a shorter time.")
        return time


def _listing(check, where, value):
    if isinstance(value, (list, tuple)):
        return list(value)
    check.add(where, f"{value!r} is not a list.", "write a YAML list.")
    return []


def _mapping(check, where, value, keys):
    if not isinstance(value, dict):
        check.add(where, f"{value!r} is not a dictionary.", f"give {', '.join(keys)}.")
        return {}
    for key in value:
        if key not in keys:
            check.add(f"{where}.{key}", "is not a known option.", f"use one of: {', '.join(keys)}.")
    return value


def _names(check, value):
    names = []
    for index, item in enumerate(_listing(check, "server_names", value)):
        where = f"server_names[{index}]"
        name = item.lower() if isinstance(item, str) else item
        if not isinstance(name, str) or not _NAME.match(name):
            check.add(
                where,
                f"{item!r} is not a host name.",
                "give a plain DNS name such as llm.example.org (no wildcard, port, path or space).",
            )
        elif re.fullmatch(r"[0-9.]+", name):
            check.add(
                where,
                f"{name} is an address, and clients send no server name when they connect to one.",
                "give a DNS name.",
            )
        elif name in names:
            check.add(where, f"{name} is listed twice.", "remove one.")
        else:
            names.append(name)
    if isinstance(value, (list, tuple)) and not value:
        check.add("server_names", "is empty, so every request would be refused.", "list the public DNS names.")
    return names


def _addresses(check, where, value, parse, example):
    found = []
    for index, item in enumerate(_listing(check, where, value)):
        try:
            found.append(parse(item if isinstance(item, str) else ""))
        except ValueError:
            check.add(f"{where}[{index}]", f"{item!r} is not an address.", f"give one such as {example}.")
    return found


def _methods(check, where, value):
    methods = []
    for item in _listing(check, where, value):
        if item not in METHODS:
            check.add(where, f"{item!r} is not a method the edge passes on.", f"use some of {', '.join(METHODS)}.")
        elif item not in methods:
            methods.append(item)
    if not value:
        check.add(where, "is empty, so the route would refuse everything.", "name at least one method.")
    if "GET" in methods and "HEAD" not in methods:
        methods.append("HEAD")
    return methods


def _route(check, index, route, options):
    where = f"routes[{index}]"
    before = len(check.problems)
    route = _mapping(check, where, route, _ROUTE_KEYS)
    path = route.get("path")
    if not isinstance(path, str) or not _PATH.match(path) or re.search(r"/\.{1,2}(/|\Z)", path):
        check.add(
            f"{where}.path",
            f"{path!r} is not a path the edge can serve.",
            "write it from the root without a trailing slash, with letters, digits and . _ ~ - only, for example /v1/models.",
        )
    strip = route.get("strip") or ""
    inside = path
    if len(check.problems) == before:
        if not isinstance(strip, str) or (strip and not path.startswith(strip + "/")):
            check.add(
                f"{where}.strip",
                f"{strip!r} is not how {path} begins.",
                "give the leading parts of the path that the service does not see, without a trailing slash, or nothing.",
            )
        else:
            inside = path[len(strip) :]
        if any(inside == private or inside.startswith(private + "/") for private in PRIVATE_PATHS):
            check.add(
                f"{where}.path",
                f"{inside} is for the inside only.",
                "remove the route (expose_docs opens the API description in development).",
            )
    match = route.get("match", "exact")
    if match not in ("exact", "prefix"):
        check.add(f"{where}.match", f"{match!r} is unknown.", "use exact or prefix.")
    service = route.get("service", "gateway")
    if not isinstance(service, str) or not _SERVICE.match(service):
        check.add(
            f"{where}.service",
            f"{service!r} is not a service name.",
            "give the compose service name, for example gateway.",
        )
    port = route.get("port", 8000)
    check.integer(f"{where}.port", port, 1, 65535)
    streaming = route.get("streaming", False)
    if not isinstance(streaming, bool):
        check.add(f"{where}.streaming", f"{streaming!r} is not true or false.", "write true or false.")
    max_body = route.get("max_body", options["max_body"])
    if "max_body" in route:
        check.size(f"{where}.max_body", max_body, MAX_BODY)
    read_timeout = route.get("read_timeout", options["stream_timeout"] if streaming is True else "60s")
    if "read_timeout" in route:
        check.time(f"{where}.read_timeout", read_timeout, 86400)
    methods = _methods(check, f"{where}.methods", route.get("methods", ["GET"]))
    limit = route.get("limit")
    if limit is not None:
        limit = _mapping(check, f"{where}.limit", limit, ("rate", "burst"))
        check.integer(f"{where}.limit.rate", limit.get("rate"), 1, 100000)
        check.integer(f"{where}.limit.burst", limit.get("burst", 0), 0, 100000)
        limit = {"rate": limit.get("rate"), "burst": limit.get("burst", 0)}
    if len(check.problems) > before:
        return None
    return {
        "path": path,
        "match": match,
        "location": f"= {path}" if match == "exact" else f'~ "^{re.escape(path)}{REST}$"',
        "uri": inside if match == "exact" else f"{inside}$edge_rest",
        "upstream": f"{service}:{port}",
        "methods": methods,
        "streaming": streaming,
        "max_body": max_body,
        "read_timeout": read_timeout,
        "limit": limit,
    }


def plan(options, prefix=""):
    """The complete plan the templates print, or EdgeConfigError with every problem at once.

    ``prefix`` goes before each option name in messages, for example ``mcpstack_edge_``.
    """
    check = _Check(prefix)
    options = _loosen(options)
    for key in options:
        if key not in _OPTION_KEYS:
            check.add(key, "is not a known option.", f"use one of: {', '.join(_OPTION_KEYS)}.")
    for key in _OPTION_KEYS:
        if key not in options:
            check.add(key, "is missing.", "give it a value.")
    if check.problems:
        raise EdgeConfigError(check.problems)

    names = _names(check, options["server_names"])
    bind = _addresses(check, "bind", options["bind"], ipaddress.ip_address, "0.0.0.0")  # noqa: S104
    if isinstance(options["bind"], (list, tuple)) and not options["bind"]:
        check.add("bind", "is empty, so nothing could connect.", "list the host addresses to publish on.")
    http_ok = check.integer("http_port", options["http_port"], 0, 65535)
    https_ok = check.integer("https_port", options["https_port"], 1, 65535)
    if http_ok and https_ok and options["http_port"] == options["https_port"]:
        check.add(
            "http_port",
            f"{options['http_port']} is also the HTTPS port.",
            "choose two ports, or 0 to publish no plain HTTP.",
        )

    per_client = _mapping(check, "per_client", options["per_client"], ("rate", "burst", "connections"))
    for key, low in (("rate", 1), ("burst", 0), ("connections", 1)):
        check.integer(f"per_client.{key}", per_client.get(key), low, 100000)

    hsts = _mapping(check, "hsts", options["hsts"], ("max_age", "include_subdomains", "preload"))
    check.integer("hsts.max_age", hsts.get("max_age"), 0, 315360000)
    if hsts.get("preload") and not (
        hsts.get("include_subdomains") and _is_int(hsts.get("max_age")) and hsts["max_age"] >= 31536000
    ):
        check.add(
            "hsts.preload",
            "the preload list takes only names with include_subdomains and a max_age of a year or more.",
            "set include_subdomains to true and max_age to 63072000, or preload to false.",
        )

    proxies = _addresses(
        check,
        "trusted_proxies",
        options["trusted_proxies"],
        lambda text: ipaddress.ip_network(text, strict=True),
        "192.0.2.10/32",
    )
    for index, network in enumerate(proxies):
        if network.prefixlen < (8 if network.version == 4 else 32):
            check.add(
                f"trusted_proxies[{index}]",
                f"{network} would let almost anybody choose the client address.",
                "list the addresses of your load balancers.",
            )
    if options["tls_profile"] not in ("intermediate", "modern"):
        check.add("tls_profile", f"{options['tls_profile']!r} is unknown.", "use intermediate or modern.")
    if not isinstance(options["expose_docs"], bool):
        check.add("expose_docs", f"{options['expose_docs']!r} is not true or false.", "write true or false.")

    body = check.size("max_body", options["max_body"], MAX_BODY) or 0
    check.time("stream_timeout", options["stream_timeout"], 86400)

    routes, seen = [], set()
    for index, item in enumerate(_listing(check, "routes", options["routes"])):
        route = _route(check, index, item, options)
        if route is None:
            continue
        if route["path"] in seen:
            check.add(f"routes[{index}].path", f"{route['path']} has a route already.", "keep one.")
        seen.add(route["path"])
        route["zone"] = f"edge_route_{index}"
        routes.append(route)

    limits = options["limits"] if isinstance(options["limits"], dict) else {}
    nofile = limits.get("nofile", 16384)
    check.integer("limits.nofile", nofile, 256, 1048576)
    memory = _memory_bytes(limits.get("memory"))
    if memory is None:
        check.add("limits.memory", f"{limits.get('memory')!r} is not a memory size.", "write it like 256m or 1g.")
    largest = max([body] + [size_bytes(r["max_body"]) or 0 for r in routes])
    # Bodies wait in /tmp, which is memory: room for eight of the largest, or for four beside every small one of a client, and
    # never less than 32 MiB. One client may hold as many large ones as leave room for its small ones.
    small = per_client.get("connections", 0) * SMALL_BODY if isinstance(per_client.get("connections"), int) else 0
    tmpfs = max(32, -(-8 * largest // 1024**2), -(-(4 * largest + small) // 1024**2))
    large_bodies = max(1, (tmpfs * 1024**2 - small) // largest) if largest else 1
    if memory is not None and largest <= MAX_BODY and tmpfs * 1024**2 > memory // 2:
        check.add(
            "limits.memory",
            f"{limits['memory']} is too little: bodies of {largest // 1024}k need a {tmpfs}m /tmp, at most half of it.",
            f"set limits.memory to {2 * tmpfs}m or more, or lower max_body or per_client.connections.",
        )
    if check.problems:
        raise EdgeConfigError(check.problems)

    # Longer paths first: nginx takes the first regular expression that matches.
    routes.sort(key=lambda r: (r["match"] == "prefix", -len(r["path"]), r["path"]))
    publish = []
    for address in bind:
        if options["http_port"]:
            publish.append({"host_ip": str(address), "host_port": options["http_port"], "port": 8080})
        publish.append({"host_ip": str(address), "host_port": options["https_port"], "port": 8443})
    sts = ""
    if hsts["max_age"]:
        sts = f"max-age={hsts['max_age']}"
        sts += "; includeSubDomains" if hsts.get("include_subdomains") else ""
        sts += "; preload" if hsts.get("preload") else ""
    return {
        "server_names": names,
        "publish": publish,
        "redirect_port": "" if options["https_port"] == 443 else f":{options['https_port']}",
        "https_port": options["https_port"],
        "rate": per_client["rate"],
        "burst": per_client["burst"],
        "connections": per_client["connections"],
        "large_bodies": large_bodies,
        "max_body": options["max_body"],
        "hsts": sts,
        "trusted_proxies": [str(network) for network in proxies],
        "tls_profile": options["tls_profile"],
        "private_paths": [p for p in PRIVATE_PATHS if not (options["expose_docs"] and p in DOCS_PATHS)],
        "docs_paths": list(DOCS_PATHS) if options["expose_docs"] else [],
        "routes": routes,
        "tmpfs": f"{tmpfs}m",
        "nofile": nofile,
        # A proxied request holds two descriptors.
        "worker_connections": min(4096, nofile // 2),
    }
