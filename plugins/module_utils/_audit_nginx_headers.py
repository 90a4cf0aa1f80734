# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx: what is sent with every answer (NGX-16, NGX-17, NGX-18, TLS-07).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_http import csp_problems, hsts_problem
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import (
    REDIRECT,
    REFUSE,
    STATUS,
    Location,
    Server,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Run, show

CSP, HSTS = "content-security-policy", "strict-transport-security"
SECURITY = frozenset({
    CSP, HSTS, "x-content-type-options", "x-frame-options", "referrer-policy", "permissions-policy", "cross-origin-opener-policy",
    "cross-origin-embedder-policy", "cross-origin-resource-policy", "content-security-policy-report-only", "x-permitted-cross-domain-policies",
    "x-xss-protection", "clear-site-data",
})  # fmt: skip
#: Request headers whose loss lets a client speak for somebody else.
IDENTITY = frozenset({"host", "x-forwarded-for", "x-real-ip", "x-forwarded-host", "x-forwarded-proto", "forwarded", "proxy", "authorization",
                      "x-remote-user", "remote-user", "x-forwarded-user", "connection", "upgrade", "x-original-url", "x-rewrite-url"})  # fmt: skip
#: Lists that an inner level replaces as a whole.
REPLACED = (
    "add_header",
    "add_trailer",
    "proxy_set_header",
    "grpc_set_header",
    "proxy_hide_header",
    "fastcgi_hide_header",
    "uwsgi_hide_header",
    "grpc_hide_header",
)
SECURITY_HEADERS = {"x-content-type-options": "nosniff", "x-frame-options": "SAMEORIGIN", "referrer-policy": "strict-origin-when-cross-origin",
                    HSTS: "max-age=31536000; includeSubDomains; preload"}  # fmt: skip
CONDITIONAL = {"cache-control": ("no-store", "no-cache", "private", "must-revalidate"), "pragma": ("no-cache",), "content-disposition": ("attachment",),
               "x-download-options": ("noopen",), "expires": ("0", "-1")}  # fmt: skip


def judge(run: Run) -> None:
    run.audit.decide("NGX-16", "NGX-17", "NGX-18")
    _replaced(run)
    _written(run)
    _sent(run)


# -- NGX-18: what a level silences ------------------------------------------------------------------------------------


def _replaced(run: Run) -> None:
    model = run.model
    for name in REPLACED:
        levels: dict[int, Directive] = {}
        for item in model.walk(name):
            if item.parent is not None:
                levels[id(item.parent)] = item.parent
        grave: dict[int, set[str]] = {}
        for level in levels.values():
            mode = model.value(level, f"{name}_inherit", "on") if name in ("add_header", "add_trailer") else "on"
            if mode != "merge":
                outer = next((upper for upper in level.chain() if upper is not level and id(upper) in levels), None)
                if outer is not None and not (name == "add_header" and level.find("more_set_headers")):
                    _report(run, name, level, outer, level.find(name)[0], grave)
        if name in ("add_header", "add_trailer"):
            for item in model.walk(f"{name}_inherit"):
                # off without a line of its own loses everything.
                if item.args == ("off",) and item.parent is not None and id(item.parent) not in levels:
                    outer = next((upper for upper in item.parent.chain() if id(upper) in levels), None)
                    if outer is not None:
                        _report(run, name, item.parent, outer, item, grave)


def _report(run: Run, name: str, level: Directive, outer: Directive, at: Directive, grave: dict[int, set[str]]) -> None:
    theirs, kept = run.model.named(outer, name), run.model.named(level, name)
    both = theirs.keys() & kept.keys()
    count = len(theirs) - len(both)
    if not count:
        return
    if id(outer) not in grave:
        grave[id(outer)] = {header for header, items in theirs.items() if any(_matters(name, item) for item in items)}
    lost = (items[0].args[0] for header, items in theirs.items() if header not in both)
    shown = ", ".join(word for word, _rest in zip(lost, range(6))) + (f" and {count - 6} more" if count > 6 else "")
    severity = None if grave[id(outer)] - both else "low"
    run.find("NGX-18", at, f"{name} here silences those of {outer.name} at {outer.where}: {shown}", severity=severity)


def _matters(name: str, item: Directive) -> bool:
    header = item.args[0].lower()
    if name in ("add_header", "add_trailer"):
        value = item.args[1].lower() if len(item.args) > 1 else ""
        return header in SECURITY or any(word in value for word in CONDITIONAL.get(header, ()))
    return header in IDENTITY if name.endswith("_set_header") else header in ("x-powered-by", *SECURITY)


def _written(run: Run) -> None:
    for item in run.model.walk("add_header", "add_trailer", "more_set_headers"):
        values = [word for word in item.args if ":" in word] if item.name == "more_set_headers" else item.args
        if any("\n" in word or "\r" in word for word in values):
            run.find("NGX-18", item, f"{item.name} {item.args[0].partition(':')[0]}: the value holds a line break")
        if item.name == "add_header" and item.args and item.args[0].lower() == "content-type":
            level = item.parent
            hides = [
                rule
                for kind in ("proxy", "fastcgi", "uwsgi", "scgi", "grpc")
                for rule in (run.model.values(level, f"{kind}_hide_header") if level else ())
            ]
            if not any(rule.args and rule.args[0].lower() == "content-type" for rule in hides):
                run.find("NGX-18", item, f"{show(item)}: Content-Type is sent twice", severity="low")


# -- what servers send ------------------------------------------------------------------------------------------------


def _more(run: Run, block: Directive) -> dict[str, str]:
    """more_set_headers "Name: value" of this level and the ones around: they add up, and go with every answer."""
    out: dict[str, str] = {}
    if run.model.present.isdisjoint(("security_headers", "more_set_headers")):
        return out
    for level in reversed(list(block.chain())):
        for item in level.find("security_headers"):
            # The module of that name sends these, with its own defaults.
            out.update(SECURITY_HEADERS if item.args == ("on",) else {})
        for item in level.find("more_set_headers"):
            for word in item.args:
                name, colon, value = word.partition(":")
                if colon and not name.startswith("-"):
                    out[name.strip().lower()] = value.strip()
    return out


class _Sent:
    """The headers that apply at one place."""

    def __init__(self, run: Run, block: Directive, levels: tuple[Directive, ...]):
        self.run, self.block, self.levels = run, block, levels
        self.more = _more(run, block)

    def lines(self, name: str) -> list[Directive]:
        return [item for level in self.levels for item in self.run.model.named(level, "add_header").get(name, ())]

    def lost(self, name: str) -> bool:
        """Whether an outer level would have sent it; that it does not arrive is NGX-18."""
        return not self.has(name) and self.run.model.somewhere(self.block, "add_header", name)

    def always(self, name: str) -> bool:
        return name in self.more or all(item.args[-1] == "always" for item in self.lines(name))

    def value(self, name: str) -> list[str]:
        if name in self.more:
            return [self.more[name]]
        return [item.args[1] if len(item.args) > 1 else "" for item in self.lines(name)]

    def has(self, name: str) -> bool:
        return name in self.more or bool(self.lines(name))

    @property
    def key(self) -> tuple:
        return (*(id(level) for level in self.levels), *sorted(self.more))


def _answers(run: Run, server: Server) -> list[Server | Location]:
    """The places whose answers are documents."""
    out = []
    for place in run.model.places(server):
        kind, _rest = run.model.answer(place)
        if kind in (REFUSE, REDIRECT) or (isinstance(place, Location) and place.internal and not place.named):
            continue
        if kind == STATUS or run.model.closed(place.block):
            continue
        out.append(place)
    return out


def _sent(run: Run) -> None:
    seen: set[tuple] = set()
    tls = [server for server in run.outside() if _answers_tls(run, server)]
    if tls:
        run.audit.decide("TLS-07")
    elif run.policy.tls_elsewhere:
        run.audit.not_applicable("TLS-07", "another proxy ends TLS")
    else:
        run.audit.not_applicable("TLS-07", "no server answers over TLS")
    over_tls = {id(server) for server in tls}
    for server in run.outside():
        documents = _answers(run, server)
        for place in documents:
            if isinstance(place, Location) and "well-known/acme" in place.path:
                continue
            sent = _Sent(run, place.block, run.model.header_levels(place.block))
            key = (sent.key, id(server) if not sent.levels and not sent.more else 0, id(server) in over_tls)
            if key in seen:
                continue
            seen.add(key)
            at = sent.levels[-1].find("add_header")[0] if sent.levels else server
            if not run.full("NGX-16"):
                _security(run, at, sent)
            if not run.full("NGX-17"):
                _policy(run, at, sent)
        if id(server) in over_tls:
            _hsts(run, server, documents, seen)
    for server in run.model.servers:
        if not any(listen.ssl for listen in server.listens) and server.outside:
            _hsts_without_tls(run, server, seen)


def _place(sent: _Sent, name: str, at: Directive | Server) -> Directive | Server:
    return (sent.lines(name) or [at])[0]


def _texts(run: Run, values: list[str], tls: bool | None = None) -> list[str | None]:
    """The texts that may be sent; an empty one sends nothing."""
    return [text for value in values for text in run.values.strings(value, tls)]


def _security(run: Run, at: Directive | Server, sent: _Sent) -> None:
    wanted = {
        "x-content-type-options": lambda text: text.strip().lower() == "nosniff",
        "x-frame-options": lambda text: text.strip().upper() in ("DENY", "SAMEORIGIN"),
        "referrer-policy": lambda text: text.strip().lower() not in ("", "unsafe-url", "no-referrer-when-downgrade"),
        "permissions-policy": lambda text: bool(text.strip()),
    }
    missing = []
    for name, good in wanted.items():
        shown = "-".join(part.capitalize() for part in name.split("-"))
        texts = [text for text in _texts(run, sent.value(name)) if text != ""]
        if name == "x-frame-options" and not (texts and all(text is None or good(text) for text in texts)):
            policy = [text for text in _texts(run, sent.value(CSP)) if text]
            if policy and all(
                "frame-ancestors" in text.lower() and "frame-ancestors *" not in text.lower() for text in policy
            ):
                if not texts:
                    continue
        if not sent.has(name) or not texts:
            if not sent.lost(name):
                missing.append(shown)
        elif not all(text is None or good(text) for text in texts):
            run.find(
                "NGX-16",
                _place(sent, name, at),
                f"{shown}: {next(text for text in texts if text is not None and not good(text))}",
            )
        elif not sent.always(name):
            run.find(
                "NGX-16", _place(sent, name, at), f"{shown} without always: error pages go without it", severity="low"
            )
    if missing:
        run.find("NGX-16", at, f"not sent: {', '.join(missing)}")
    for text in _texts(run, sent.value("x-xss-protection")):
        if text and text.strip().startswith("1"):
            run.find("NGX-16", _place(sent, "x-xss-protection", at), f"X-XSS-Protection: {text}")


def _policy(run: Run, at: Directive | Server, sent: _Sent) -> None:
    texts = [text for text in _texts(run, sent.value(CSP)) if text != ""]
    if not texts:
        if not sent.lost(CSP):
            reports = bool(sent.lines("content-security-policy-report-only"))
            run.find(
                "NGX-17",
                at,
                "Content-Security-Policy only reports" if reports else "Content-Security-Policy is not sent",
            )
        return
    place = _place(sent, CSP, at)
    for text in texts:
        for problem in csp_problems([text]) if text is not None else ():
            run.find("NGX-17", place, f"Content-Security-Policy {problem}")
    if not sent.always(CSP):
        run.find("NGX-17", place, "Content-Security-Policy without always: error pages go without it", severity="low")


def _answers_tls(run: Run, server: Server) -> bool:
    return (
        any(listen.ssl and listen.outside for listen in server.listens)
        and run.model.value(server.block, "ssl_reject_handshake") != "on"
    )


def _hsts(run: Run, server: Server, documents: list[Server | Location], seen: set[tuple]) -> None:
    """Every answer of a TLS server, also a redirect or a refusal of its own locations."""
    places = [
        place
        for place in run.model.places(server)
        if not (isinstance(place, Location) and place.internal and not place.named)
    ]
    if not documents and run.model.answer(server)[0] == REFUSE:
        return
    for place in places:
        sent = _Sent(run, place.block, run.model.header_levels(place.block))
        key = ("hsts", sent.key, id(server) if not sent.levels and not sent.more else 0)
        if key in seen:
            continue
        seen.add(key)
        at = _place(sent, HSTS, sent.levels[-1].find("add_header")[0] if sent.levels else server)
        if not sent.has(HSTS):
            if not sent.lost(HSTS):
                run.find("TLS-07", at, "Strict-Transport-Security is not sent")
            continue
        if len(sent.value(HSTS)) > 1:
            run.find("TLS-07", at, "Strict-Transport-Security is sent twice")
        for text in _texts(run, sent.value(HSTS), True):
            problem = hsts_problem([text] if text else []) if text is not None else ""
            if problem:
                run.find("TLS-07", at, f"Strict-Transport-Security {problem}")
        if not sent.always(HSTS):
            run.find("TLS-07", at, "Strict-Transport-Security without always: error pages go without it")


def _hsts_without_tls(run: Run, server: Server, seen: set[tuple]) -> None:
    if run.policy.tls_elsewhere:
        return
    for place in run.model.places(server):
        levels = run.model.header_levels(place.block)
        for level in levels:
            for item in run.model.named(level, "add_header").get(HSTS, ()):
                if ("plain", id(item)) in seen or len(item.args) < 2:
                    continue
                seen.add(("plain", id(item)))
                if any(text != "" for text in _texts(run, [item.args[1]], False)) and not _only_tls_below(run, item):
                    run.find("TLS-07", item, f"sent without TLS by {server.label}", severity="low")


def _only_tls_below(run: Run, item: Directive) -> bool:
    """A line in http reaches every server; that one of them only redirects is common and harmless."""
    return (
        item.parent is not None
        and item.parent.name == "http"
        and all(server.tls or not _answers(run, server) for server in run.outside())
    )
