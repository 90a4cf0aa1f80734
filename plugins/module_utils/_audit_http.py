# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a web server answers, over TLS and without: headers by class of answer, foreign names, open pages.

PRIVATE: internal to the collection, may change in any release. Standard library only. Part of tls_audit.

Every request has a connection of its own and is harmless: nothing is posted, and bodies are announced but not sent.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_probe as probe
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_session as session
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit

HSTS_SECONDS = 63072000
HEAD_LIMIT, BODY_LIMIT = 1 << 16, 1 << 16
FOREIGN = "unknown-host.invalid"
ABSENT = "/mcpstack-audit-absent-3f9c"
HUGE = 1 << 40

#: Pages that are for the inside, with what proves that it is really them.
INSIDE = {
    "/metrics": rb"(?m)^# (HELP|TYPE) ",
    "/nginx_status": rb"Active connections:",
    "/server-status": rb"Apache Server Status|Total Accesses:",
    "/debug/pprof/": rb"(?i)full goroutine stack dump|Types of profiles",
    "/.git/config": rb"\[core\]",
    "/.env": rb"(?m)^[A-Z][A-Z0-9_]*=",
}


@dataclass(frozen=True)
class Ask:
    """One request. ``host`` replaces the name in Host; ``length`` announces a body that is never sent."""

    method: str
    path: str
    host: str | None = None
    length: int | None = None

    def __str__(self) -> str:
        if self.length:
            return f"{self.method} {self.path} with a huge body"
        return f"{self.method} {self.path}" if self.host is None or self.host else f"{self.method} without Host"


@dataclass
class Reply:
    """What came back; ``status`` 0 means that the connection was closed without an answer."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    failed: str = ""

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        """The first value of a header, or nothing."""
        return next(iter(self.all(name)), "")


def parse_reply(data: bytes) -> Reply:
    """Read the head of an answer. What is none has status 0 and says why."""
    head, _sep, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    match = re.fullmatch(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?", lines[0])
    if not match:
        return Reply(failed="it does not answer with HTTP/1.1" if data else "")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.append((name.strip().lower(), value.strip()))
    return Reply(int(match[1]), headers, body[:BODY_LIMIT])


def _request(ask: Ask, name: str) -> bytes:
    host = name if ask.host is None else ask.host
    lines = [f"{ask.method} {ask.path} HTTP/1.1"]
    if host:
        lines.append(f"Host: {host}")
    lines += ["User-Agent: mcpstack-audit", "Accept: */*", "Connection: close"]
    if ask.length:
        lines.append(f"Content-Length: {ask.length}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


def _exchange(channel, data: bytes) -> Reply:
    """Send, and read until the head and as much of the body as is wanted is there."""
    channel.send(data)
    received = b""
    while len(received) < HEAD_LIMIT + BODY_LIMIT:
        try:
            more = channel.receive(1 << 14)
        except probe.Stop as stop:
            if stop.kind == probe.CLOSED or b"\r\n\r\n" in received:
                break
            raise
        if not more:
            break
        received += more
        head, end, body = received.partition(b"\r\n\r\n")
        if end:
            size = re.search(rb"(?im)^content-length: *([0-9]{1,9})\r?$", head)
            if size and len(body) >= int(size[1]):
                break
        elif len(received) > HEAD_LIMIT:
            return Reply(failed="its headers do not come to an end")
    return parse_reply(received)


def fetch(endpoint: probe.Endpoint, name: str, ask: Ask, port: int | None = None, sni: str | None = None) -> Reply:
    """One request; over TLS unless ``port`` names one without. Never raises: what fails is in the reply."""
    try:
        with endpoint.open(port, starttls=False) as connection:
            if port is not None:
                return _exchange(connection, _request(ask, name))
            shake = session.Shake(connection, session.lenient_context(), name if sni is None else sni)
            return _exchange(shake, _request(ask, name))
    except probe.Stop as stop:
        return Reply() if stop.kind == probe.CLOSED else Reply(failed=stop.why)
    except (ssl.SSLError, ValueError) as error:
        return Reply(failed=f"the handshake fails: {session.why(error)}")
    except OSError as error:
        return Reply(failed=str(error))


# -- over TLS ---------------------------------------------------------------------------------------------------------


def judge_https(
    audit: Audit, endpoint: probe.Endpoint, name: str, requests: Sequence[tuple[str, str]], protected: Sequence[str]
) -> None:
    """TLS-07, NGX-02, NGX-11, NGX-13, NGX-16 and NGX-17 for one name."""
    asks = [
        Ask("GET", "/"), Ask("GET", ABSENT), Ask("TRACE", "/"), Ask("GET", "/", host=""),
        Ask("POST", "/", length=HUGE), *(Ask(method, path) for method, path in requests),
    ]  # fmt: skip
    inside, secret = [Ask("GET", path) for path in INSIDE], [Ask("GET", path) for path in protected]
    every = list(dict.fromkeys([*asks, *inside, *secret]))
    with ThreadPoolExecutor(4) as pool:
        replies = dict(zip(every, pool.map(lambda ask: fetch(endpoint, name, ask), every)))
    answered = {ask: reply for ask, reply in replies.items() if reply.status}
    checks = ("TLS-07", "NGX-02", "NGX-11", "NGX-16", "NGX-17")
    if not answered:
        reasons = sorted({reply.failed for reply in replies.values() if reply.failed}) or ["it answers nothing"]
        for check in (*checks, *(("NGX-13",) if protected else ())):
            audit.unknown(check, f"{name}: {reasons[0]}")
        return
    audit.decide(*checks)
    for ask in asks:
        if replies[ask].failed:
            for check in checks:
                audit.unknown(check, f"{name}: {ask}: {replies[ask].failed}")
    place = str(endpoint)
    _hsts(audit, name, place, answered)
    _versions_told(audit, name, place, answered)
    _security_headers(audit, name, place, answered)
    _policy(audit, name, place, answered)
    _open_pages(audit, name, place, replies)
    if protected:
        _protected(audit, name, place, {ask.path: replies[ask] for ask in secret})
    else:
        audit.not_applicable("NGX-13", "no protected paths were named")


def _list(items: Sequence[tuple[Ask, Reply]]) -> str:
    shown = [f"{ask} ({reply.status})" for ask, reply in items[:4]]
    return ", ".join(shown) + (f" and {len(items) - 4} more" if len(items) > 4 else "")


def hsts_problem(values: Sequence[str]) -> str:
    """What is wrong with the Strict-Transport-Security headers of one answer; empty when nothing is."""
    if not values:
        return "is missing"
    if len(values) > 1:
        return "is sent twice"
    parts = [part.strip().lower() for part in values[0].split(";")]
    ages = [part.partition("=")[2].strip().strip('"') for part in parts if part.partition("=")[0].strip() == "max-age"]
    if len(ages) != 1 or not re.fullmatch("[0-9]{1,12}", ages[0]):
        return "has no max-age that counts"
    if int(ages[0]) < HSTS_SECONDS:
        return f"has max-age={int(ages[0])}, less than {HSTS_SECONDS}"
    if "preload" in parts and "includesubdomains" not in parts:
        return "has preload without includeSubDomains"
    return ""


def _hsts(audit: Audit, name: str, place: str, answered: dict[Ask, Reply]) -> None:
    problems: dict[str, list[tuple[Ask, Reply]]] = {}
    for ask, reply in answered.items():
        problem = hsts_problem(reply.all("strict-transport-security"))
        if problem:
            problems.setdefault(problem, []).append((ask, reply))
    for problem, where in problems.items():
        audit.find("TLS-07", name, place, f"Strict-Transport-Security {problem}: {_list(where)}")


def _versions_told(audit: Audit, name: str, place: str, answered: dict[Ask, Reply]) -> None:
    told: dict[str, list[tuple[Ask, Reply]]] = {}
    for ask, reply in answered.items():
        for header in ("server", "x-powered-by", "x-aspnet-version", "x-aspnetmvc-version", "x-generator"):
            for value in reply.all(header):
                if header != "server" or re.search("[0-9]", value) or "(" in value:
                    told.setdefault(f"{header.title()}: {value}", []).append((ask, reply))
        page = re.search(rb"<(?:center|address)>((?:nginx|openresty|Apache)/[0-9][0-9.]*)", reply.body)
        if page:
            told.setdefault(f"page says {page[1].decode()}", []).append((ask, reply))
    for what, where in told.items():
        audit.find("NGX-02", name, place, f"{what}: {_list(where)}")


def _documents(answered: dict[Ask, Reply]) -> list[tuple[Ask, Reply]]:
    return [(ask, reply) for ask, reply in answered.items() if not 300 <= reply.status < 400]


def _security_headers(audit: Audit, name: str, place: str, answered: dict[Ask, Reply]) -> None:
    problems: dict[str, list[tuple[Ask, Reply]]] = {}
    for ask, reply in _documents(answered):
        csp = " ".join(reply.all("content-security-policy")).lower()
        frames = reply.one("x-frame-options").upper()
        for bad, what in (
            (reply.one("x-content-type-options").lower() != "nosniff", "X-Content-Type-Options nosniff is missing"),
            (frames not in ("DENY", "SAMEORIGIN") and "frame-ancestors" not in csp, "nothing forbids framing"),
            (not reply.one("referrer-policy"), "Referrer-Policy is missing"),
            (reply.one("referrer-policy").lower() == "unsafe-url", "Referrer-Policy is unsafe-url"),
            (not reply.one("permissions-policy"), "Permissions-Policy is missing"),
            (reply.one("x-xss-protection").startswith("1"), "X-XSS-Protection is switched on"),
        ):
            if bad:
                problems.setdefault(what, []).append((ask, reply))
    for what, where in problems.items():
        audit.find("NGX-16", name, place, f"{what}: {_list(where)}")


def csp_problems(values: Sequence[str]) -> list[str]:
    """What is weak in the policies of one answer. Several policies all hold, so one strong one is enough."""
    policies = [policy for value in values for policy in value.split(",") if policy.strip()]
    if not policies:
        return ["is missing"]
    found = [_policy_problems(policy) for policy in policies]
    return min(found, key=len)


def _policy_problems(policy: str) -> list[str]:
    directives: dict[str, list[str]] = {}
    for part in policy.split(";"):
        words = part.strip().lower().split()
        if words:
            directives.setdefault(words[0], words[1:])
    default, problems = directives.get("default-src"), []
    for directive in ("script-src", "object-src"):
        sources = directives.get(directive, default)
        if sources is None:
            problems.append(f"bounds neither {directive} nor default-src")
            continue
        bound = any(source.startswith(("'nonce-", "'sha256-", "'sha384-", "'sha512-")) for source in sources)
        strict = bound or "'strict-dynamic'" in sources
        for source in sources:
            if source == "'unsafe-eval'" or (source == "'unsafe-inline'" and not strict):
                problems.append(f"{directive} allows {source}")
            elif (
                source in ("*", "http:", "https:", "data:", "http://*", "https://*")
                and "'strict-dynamic'" not in sources
            ):
                problems.append(f"{directive} allows {source}")
    if "base-uri" not in directives and default != ["'none'"]:
        problems.append("does not bound base-uri")
    return list(dict.fromkeys(problems))


def _policy(audit: Audit, name: str, place: str, answered: dict[Ask, Reply]) -> None:
    problems: dict[str, list[tuple[Ask, Reply]]] = {}
    for ask, reply in _documents(answered):
        for problem in csp_problems(reply.all("content-security-policy")):
            problems.setdefault(problem, []).append((ask, reply))
    for problem, where in problems.items():
        audit.find("NGX-17", name, place, f"Content-Security-Policy {problem}: {_list(where)}")


def _open_pages(audit: Audit, name: str, place: str, replies: dict[Ask, Reply]) -> None:
    for path, proof in INSIDE.items():
        reply = replies[Ask("GET", path)]
        if reply.status == 200 and re.search(proof, reply.body):
            severity = "high" if path.startswith("/.") else None
            audit.find("NGX-11", name, place, f"GET {path} is answered for everybody", severity=severity)
    trace = replies[Ask("TRACE", "/")]
    if trace.status == 200 and b"TRACE / HTTP/1.1" in trace.body:
        audit.find("NGX-11", name, place, "TRACE is answered")
    for ask, reply in replies.items():
        if reply.status == 200 and re.search(rb"<title>(Index of|Directory listing for) /", reply.body):
            audit.find("NGX-11", name, place, f"{ask} lists a directory")


def _protected(audit: Audit, name: str, place: str, replies: dict[str, Reply]) -> None:
    audit.decide("NGX-13")
    for path, reply in replies.items():
        if reply.failed:
            audit.unknown("NGX-13", f"{name}: GET {path}: {reply.failed}")
        elif 200 <= reply.status < 300:
            audit.find("NGX-13", name, place, f"GET {path} is answered with {reply.status} without credentials")


# -- names that are not served, and the port without TLS --------------------------------------------------------------


def _refuses(reply: Reply, same: Reply | None) -> bool | None:
    """Whether a foreign name is turned away; None when the answer is the one that the real name gets as well."""
    if not reply.status or reply.status == 421:
        return True
    if 400 <= reply.status < 500:
        return None if same is not None and same.status == reply.status else True
    return False


def judge_unknown_name(audit: Audit, endpoint: probe.Endpoint, name: str) -> None:
    """NGX-05 over TLS: a foreign Host inside a good connection, and a foreign name in the handshake."""
    known = fetch(endpoint, name, Ask("GET", "/"))
    for how, sni in (("inside a connection for " + name, name), ("in handshake and Host", FOREIGN)):
        reply = fetch(endpoint, name, Ask("GET", "/", host=FOREIGN), sni=sni)
        if reply.failed.startswith("the handshake fails"):
            verdict: bool | None = True
        elif reply.failed:
            audit.unknown("NGX-05", f"foreign name {how}: {reply.failed}")
            continue
        else:
            verdict = _refuses(reply, known)
        if verdict is False:
            audit.find("NGX-05", name, str(endpoint), f"a foreign name {how} is answered with {reply.status}")
        elif verdict is None:
            audit.unknown("NGX-05", f"a foreign name {how} gets {reply.status}, and so does {name}")
        else:
            audit.decide("NGX-05")


def _plain_problem(reply: Reply, name: str) -> str:
    """Why an answer without TLS is more than a redirect to https; empty when it is not."""
    if not reply.status or 400 <= reply.status < 500:
        return ""
    if reply.status not in (301, 302, 303, 307, 308):
        return f"is answered with {reply.status}"
    try:
        target = urlsplit(reply.one("location"))
        host = target.hostname or ""
    except ValueError:
        return f"is sent to {reply.one('location')}, which is no address"
    if target.scheme != "https":
        return f"is sent to {reply.one('location') or 'nowhere'}"
    if host != name.lower().strip("[]") and host != f"www.{name}" and f"www.{host}" != name:
        return f"is sent to another host, {host}"
    return ""


def judge_plain(audit: Audit, endpoint: probe.Endpoint, port: int, name: str, protected: Sequence[str]) -> None:
    """TLS-01, and what the port without TLS tells about TLS-07 and NGX-05."""
    place = f"[{endpoint.host}]:{port}" if ":" in endpoint.host else f"{endpoint.host}:{port}"
    asks = [Ask("GET", "/"), Ask("GET", f"{ABSENT}?a=b"), Ask("HEAD", "/"), *(Ask("GET", path) for path in protected)]
    problems: dict[str, list[str]] = {}
    for ask in asks:
        reply = fetch(endpoint, name, ask, port=port)
        if reply.failed.startswith("no connection"):
            audit.decide("TLS-01")
            return
        if reply.failed:
            audit.unknown("TLS-01", f"port {port}: {reply.failed}")
            return
        problem = _plain_problem(reply, name)
        if problem:
            problems.setdefault(problem, []).append(str(ask))
        if reply.all("strict-transport-security"):
            audit.find("TLS-07", name, place, "Strict-Transport-Security is sent without TLS", severity="low")
    audit.decide("TLS-01")
    for problem, which in problems.items():
        audit.find("TLS-01", name, place, f"without TLS {', '.join(which)} {problem}")
    reply = fetch(endpoint, name, Ask("GET", "/", host=FOREIGN), port=port)
    if reply.failed:
        audit.unknown("NGX-05", f"port {port}: {reply.failed}")
    elif reply.status and not 400 <= reply.status < 500:
        target = reply.one("location")
        if not 300 <= reply.status < 400 or FOREIGN in target:
            sent = f" and sent to {target}" if FOREIGN in target else ""
            audit.find("NGX-05", name, place, f"a foreign name is answered with {reply.status}{sent}")
        else:
            audit.decide("NGX-05")
    else:
        audit.decide("NGX-05")
