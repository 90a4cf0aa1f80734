# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge a live TLS endpoint: what it accepts, its certificates, and what it answers over HTTP (TLS, some of NGX).

PRIVATE: internal to the collection, may change in any release. Standard library only.

_tls_survey finds out, this file judges. What the wire cannot say stays with the audits of files: TLS-11, TLS-13.
"""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_http as http
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_probe as probe
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_session as session
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_suites as names
from ansible_collections.mcpstack.platform.plugins.module_utils import _x509 as x509
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_nginx import TABLE as NGINX
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_tls import TABLE as TLS
from ansible_collections.mcpstack.platform.plugins.module_utils._tls_survey import Survey, survey

#: Checks of this audit. The wire shows nothing of TLS-11 and TLS-13, and other audits decide them.
PROTOCOL = ("TLS-02", "TLS-03", "TLS-04", "TLS-05", "TLS-06")
CERTIFICATE = ("TLS-08", "TLS-09", "TLS-10", "TLS-12")
HTTP = ("TLS-07", "NGX-02", "NGX-05", "NGX-11", "NGX-13", "NGX-16", "NGX-17")
CHECKS = tuple(TLS.get(check) or NGINX[check] for check in ("TLS-01", *PROTOCOL, *CERTIFICATE, *HTTP))

#: Longest life of a certificate in days, by profile, and of one whose private authority was named.
LIFETIME = {"intermediate": 366, "modern": 90}
LIFETIME_PRIVATE = 825
#: Days that must be left, unless a third of the life is.
RENEW_DAYS = 14

_DAY = datetime.timedelta(days=1)
_NO_CHECK_TIME, _STRICT, _PARTIAL = 0x200000, 0x20, 0x80000
_UNKNOWN_ISSUER, _SELF_SIGNED, _UNKNOWN_ROOT, _PURPOSE = (2, 20, 21), 18, 19, 26


@dataclass
class Request:
    """What to ask, and of whom.

    server_names: names to ask for; the first stands for the endpoint. ca_file: PEM of a private authority.
    http_port: where HTTP is, None when that is not to be looked at. http: whether HTTP is spoken over TLS.
    requests: (method, path) besides the usual ones. protected: paths that nobody may read without credentials.
    """

    endpoint: probe.Endpoint
    server_names: Sequence[str]
    ca_file: str | None = None
    http_port: int | None = None
    http: bool = True
    requests: Sequence[tuple[str, str]] = ()
    protected: Sequence[str] = ()
    profile: str = "intermediate"
    production: bool = False
    now: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc))


def audit_tls(request: Request) -> dict:
    """Findings, checks_run and summary. Never raises for what a server does."""
    audit = Audit(CHECKS)
    told: set[tuple[str, str]] = set()
    served = False
    for name in request.server_names:
        found = survey(request.endpoint, name)
        if not found.accepted:
            _no_handshake(audit, request, found)
            continue
        served = True
        _protocol(audit, request, found, told)
        _chains(audit, request, found)
        if request.http and request.endpoint.starttls == "none":
            http.judge_https(audit, request.endpoint, name, request.requests, request.protected)
    if request.endpoint.starttls != "none" or not request.http:
        for check in HTTP:
            audit.not_applicable(check, "no HTTP is spoken there")
    elif served:
        http.judge_unknown_name(audit, request.endpoint, request.server_names[0])
    _plain(audit, request, served)
    return audit.result()


def _where(request: Request) -> str:
    return str(request.endpoint)


def _no_handshake(audit: Audit, request: Request, found: Survey) -> None:
    """Nothing was accepted: either it is no TLS at all, or nothing is known."""
    if found.speaks_tls is False:
        audit.find("TLS-01", found.name, _where(request), f"no TLS is spoken: {found.why_not}")
    reason = found.why_not or "every handshake is refused"
    if found.refused_with >= 0:
        reason = f"every handshake is refused ({names.alert(found.refused_with)})"
    for gaps in found.gaps.values():
        reason = gaps[0]
    for check in CHECKS:
        if check.id != "TLS-01" or found.speaks_tls is not False:
            audit.unknown(check.id, f"{found.name}: {reason}")


def _plain(audit: Audit, request: Request, served: bool) -> None:
    if request.endpoint.starttls != "none" or not request.http:
        if served:
            audit.decide("TLS-01")
    elif request.http_port is None:
        audit.unknown("TLS-01", "whether a port without TLS serves content was not asked (http_port)")
    else:
        http.judge_plain(audit, request.endpoint, request.http_port, request.server_names[0], request.protected)


# -- versions, suites, groups -----------------------------------------------------------------------------------------


def _some(values: Sequence[str], most: int = 4) -> str:
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")


def _protocol(audit: Audit, request: Request, found: Survey, told: set[tuple[str, str]]) -> None:
    def find(check: str, evidence: str, **changes) -> None:
        # Names of one endpoint mostly share these settings: the same thing is said once.
        if (check, evidence) not in told:
            told.add((check, evidence))
            audit.find(check, found.name, _where(request), evidence, **changes)

    audit.decide(*PROTOCOL)
    for about, checks in {
        "versions": ("TLS-02",), "suites": ("TLS-03", "TLS-04", "TLS-05"), "groups": ("TLS-04",), "dh": ("TLS-05",), "order": ("TLS-05",),
        "flags": ("TLS-06",), "session": ("TLS-06",),
    }.items():  # fmt: skip
        for check in checks:
            for reason in found.gaps.get(about, ()):
                audit.unknown(check, f"{found.name}: {reason}")
    _versions(find, found, request.profile)
    _suites(find, found)
    _groups(find, found)
    _exchange(find, found)
    _sessions(audit, find, found)


def _versions(find, found: Survey, profile: str) -> None:
    old = [names.VERSIONS[version] for version in found.accepted if version < names.TLS12]
    if old:
        # What breaks these was published and is used; TLS 1.0 and 1.1 are merely old.
        worst = any(version <= names.SSL3 for version in found.accepted)
        find("TLS-02", f"accepts {', '.join(old)}", severity="critical" if worst else None)
    if profile == "modern" and found.versions.get(names.TLS12):
        find("TLS-02", "accepts TLS 1.2, which the modern profile leaves out", severity="low")


def _suites(find, found: Survey) -> None:
    for version, suites in found.suites.items():
        if version == names.TLS13:
            weak = [names.suite(number) for number in suites if number == names.SHORT_TAG]
        else:
            weak = [names.suite(number) for number in suites if number not in names.MOZILLA]
        if weak:
            weak.sort(key=_weakness)
            find("TLS-03", f"{names.VERSIONS[version]} accepts {_some(weak)}")


def _weakness(suite: str) -> tuple[int, str]:
    order = ("_NULL_", "_anon_", "EXPORT", "_RC4_", "_DES_", "_RC2_", "_3DES_", "_IDEA_", "_SEED_", "TLS_RSA_", "_CBC_")
    return next((place for place, part in enumerate(order) if part in suite), len(order)), suite


def _groups(find, found: Survey) -> None:
    every: dict[int, None] = {}
    for groups in found.groups.values():
        every.update(dict.fromkeys(groups))
    weak = [names.group(number) for number in every if number in names.WEAK_GROUPS]
    odd = [names.group(number) for number in every if number not in names.GOOD_GROUPS | names.WEAK_GROUPS]
    if weak:
        find("TLS-04", f"accepts {_some(weak)}")
    if odd:
        find("TLS-04", f"accepts {_some(odd)}, which few clients know and nobody recommends", severity="low")
    if every and not weak and not set(every) & (names.COMMON_GROUPS | names.HYBRID):
        only = _some([names.group(number) for number in every])
        find(
            "TLS-04",
            f"accepts {only} but neither x25519 nor secp256r1: most clients need a second round",
            severity="low",
        )


def _exchange(find, found: Survey) -> None:
    if found.dh_bits is not None and found.dh_bits < 2048:
        severity = "high" if found.dh_bits < 1024 else "medium"
        find("TLS-05", f"Diffie-Hellman with a prime of {found.dh_bits} bits", severity=severity)
    suites = [number for numbers in found.suites.values() for number in numbers]
    if found.insists and all(number in names.MOZILLA for number in suites):
        find("TLS-05", "picks a suite by its own order although all that it accepts are strong")


def _sessions(audit: Audit, find, found: Survey) -> None:
    shown = found.session
    if found.compresses:
        find("TLS-06", "TLS compression is accepted", severity="high")
    if found.safe_renegotiation is False:
        find("TLS-06", "secure renegotiation (RFC 5746) is not supported")
    if shown:
        early = max((ticket.early_data for ticket in shown.tickets), default=0)
        if early:
            find("TLS-06", f"early data is accepted, up to {early} bytes")
    if found.tickets_12 or shown and any(ticket.size > 32 for ticket in shown.tickets):
        audit.unknown(
            "TLS-06", f"{found.name}: session tickets are given out, and how often their key changes cannot be seen"
        )


# -- certificates -----------------------------------------------------------------------------------------------------


def _chains(audit: Audit, request: Request, found: Survey) -> None:
    if not found.chains:
        for check in CERTIFICATE:
            for reason in found.gaps.get("chain", found.gaps.get("session", ["no certificate was shown"])):
                audit.unknown(check, f"{found.name}: {reason}")
        return
    for raw, asked in found.chains.items():
        where = _where(request) if len(found.chains) == 1 else f"{request.endpoint} ({asked})"
        try:
            chain = [x509.parse(der) for der in raw]
        except x509.DerError as error:
            for check in CERTIFICATE:
                audit.unknown(check, f"{found.name}: a certificate cannot be read: {error}")
            continue
        audit.decide(*CERTIFICATE)
        _leaf(audit, request, found.name, where, chain[0])
        _keys(audit, found.name, where, chain)
        problems = chain_problems(chain)
        for problem in problems:
            audit.find("TLS-10", found.name, where, problem)
        _trust(audit, request, found, where, chain, asked, bool(problems))
        if chain[0].must_staple and not found.stapled:
            audit.find("TLS-12", found.name, where, "the certificate demands a stapled answer, and none is stapled", severity="medium")  # fmt: skip


def _leaf(audit: Audit, request: Request, name: str, where: str, leaf: x509.Certificate) -> None:
    """TLS-08."""

    def find(evidence: str, **changes) -> None:
        audit.find("TLS-08", name, where, evidence, **changes)

    if not leaf.covers(name):
        have = [*leaf.dns_names, *leaf.addresses]
        find(f"is not for {name}, only for {_some(have) if have else 'no name at all (subjectAltName)'}")
    if leaf.extended is None:
        find("has no extended key usage", severity="low")
    elif x509.SERVER_AUTH not in leaf.extended and x509.ANY_USAGE not in leaf.extended:
        find("is not meant for servers (extended key usage without serverAuth)")
    if leaf.usages is not None and "digitalSignature" not in leaf.usages:
        find(f"may not sign handshakes (key usage {', '.join(sorted(leaf.usages)) or 'empty'})")
    if leaf.not_before > request.now:
        find(f"is not valid before {leaf.not_before:%Y-%m-%d %H:%M} UTC")
    left = leaf.not_after - request.now
    if left <= datetime.timedelta(0):
        find(f"expired on {leaf.not_after:%Y-%m-%d %H:%M} UTC", severity="critical")
    elif left < RENEW_DAYS * _DAY and left < leaf.lifetime / 3:
        find(f"has {left / _DAY:.1f} days left, less than a third of its life", severity="medium")
    most = LIFETIME_PRIVATE if request.ca_file else LIFETIME[request.profile]
    # An end date names the last second that counts, so 366 days may be written as one second less or more.
    if leaf.lifetime > most * _DAY + datetime.timedelta(hours=25):
        find(f"is valid for {leaf.lifetime / _DAY:.0f} days, more than {most}", severity="medium")


def _keys(audit: Audit, name: str, where: str, chain: list[x509.Certificate]) -> None:
    """TLS-09."""
    for number, certificate in enumerate(chain, 1):
        which = "" if number == 1 else f"certificate {number} of the chain: "
        kind, bits = certificate.key_type, certificate.key_bits
        if kind == "RSA":
            if bits < 2048:
                audit.find("TLS-09", name, where, f"{which}RSA key of {bits} bits")
        elif kind in ("P-521", "Ed448") or kind.startswith(("ML-DSA", "brainpool")):
            if number == 1:
                audit.find("TLS-09", name, where, f"{kind} key, which few clients accept", severity="low")
        elif kind not in ("P-256", "P-384", "Ed25519"):
            audit.find("TLS-09", name, where, f"{which}{kind} key of {bits or 'unknown'} bits")
        # Nobody checks the signature that a root carries on itself.
        weak = certificate.signature_hash in ("md2", "md5", "sha1", "sha224", "unknown")
        if weak and (number == 1 or not certificate.self_issued):
            audit.find("TLS-09", name, where, f"{which}signed with {certificate.signature}")


def chain_problems(chain: list[x509.Certificate]) -> list[str]:
    """What is wrong with the order and the authorities of a chain, as far as it tells itself."""
    problems: list[str] = []
    find = problems.append
    if len({certificate.der for certificate in chain}) < len(chain):
        return ["the same certificate is sent twice"]
    if chain[0].is_ca and not chain[0].self_issued:
        find(f"the first certificate is one of an authority ({chain[0].subject}), not of the server")
    for number, (lower, upper) in enumerate(zip(chain, chain[1:]), 1):
        if lower.names_issuer(upper):
            continue
        if any(lower.names_issuer(other) for other in chain):
            find(f"certificate {number + 1} did not issue certificate {number}: the chain is out of order")
        else:
            find(f"certificate {number + 1} ({upper.subject}) did not issue certificate {number} ({lower.subject})")
        break
    for number, certificate in enumerate(chain[1:], 2):
        which = f"certificate {number} ({certificate.subject})"
        if not certificate.is_ca:
            find(f"{which} is not one of an authority (basicConstraints)")
        elif "2.5.29.19" not in certificate.critical:
            find(f"{which}: basicConstraints is not critical")
        elif certificate.usages is None:
            find(f"{which} has no keyUsage")
        elif "keyCertSign" not in certificate.usages or "2.5.29.15" not in certificate.critical:
            find(f"{which}: keyUsage lacks keyCertSign or is not critical")
    return problems


def _verify(request: Request, found: Survey, asked: str, strict: bool) -> tuple[int, str]:
    """What OpenSSL thinks of the chain: 0 or the code of the error, and its words. Raises Stop, OSError, SSLError."""
    context = session.lenient_context()
    context.verify_mode = ssl.CERT_REQUIRED
    if request.ca_file:
        context.load_verify_locations(cafile=request.ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    flags = int(context.verify_flags) & ~_STRICT | _NO_CHECK_TIME | (_PARTIAL if request.ca_file else 0)
    context.verify_flags = ssl.VerifyFlags(flags | (_STRICT if strict else 0))
    if len(found.chains) > 1 and not asked.startswith("TLS 1.3"):
        # Of several certificates, the one that this chain belongs to.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"a{asked.rpartition(' ')[2]}:@SECLEVEL=0")
    with request.endpoint.open() as connection:
        try:
            session.Shake(connection, context, found.name)
        except ssl.SSLCertVerificationError as error:
            return error.verify_code or -1, error.verify_message or session.why(error)
    return 0, ""


def _trust(
    audit: Audit, request: Request, found: Survey, where: str, chain: list[x509.Certificate], asked: str, wrong: bool
) -> None:
    try:
        code, message = _verify(request, found, asked, strict=False)
        strict_code, strict_message = _verify(request, found, asked, strict=True) if code == 0 else (0, "")
    except (probe.Stop, OSError, ValueError) as error:
        reason = session.why(error) if isinstance(error, ssl.SSLError) else str(error)
        for check in ("TLS-10", "TLS-12"):
            audit.unknown(check, f"{found.name}: whether it is trusted could not be found out: {reason}")
        return
    name, last = found.name, chain[-1]
    severity = "medium" if request.production else "low"
    store = "the authorities in ca_file" if request.ca_file else "the authorities that this machine trusts"
    if code == 0:
        if strict_code and not wrong:
            audit.find("TLS-10", name, where, f"strict verifiers refuse it: {strict_message}")
    elif code == _SELF_SIGNED:
        audit.find("TLS-12", name, where, "the certificate is self-signed", severity=severity)
    elif code == _UNKNOWN_ROOT:
        audit.find("TLS-12", name, where, f"{last.subject} is not one of {store}", severity=severity)
    elif code in _UNKNOWN_ISSUER:
        evidence = f"the chain ends at {last.subject}, whose issuer {last.issuer} is not sent and not one of {store}"
        # Only certificates of public authorities say where their issuer's can be fetched.
        if request.ca_file or last.ca_issuers:
            audit.find("TLS-10", name, where, evidence)
        else:
            audit.find("TLS-12", name, where, evidence, severity=severity)
            audit.unknown("TLS-10", f"{name}: {last.issuer} is not known here; name a private authority with ca_file")
    elif code != _PURPOSE or chain[0].extended is None or x509.SERVER_AUTH in chain[0].extended:
        audit.find("TLS-10", name, where, f"verifiers refuse it: {message}")
