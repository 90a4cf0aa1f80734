# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that a TLS endpoint accepts, found out by elimination. PRIVATE: may change in any release.

Offer all, note what the server picks, offer the rest, until it refuses. What the server did not answer is ``None`` and
has a sentence in ``gaps``; it is never taken for a refusal.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_probe as probe
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_session as session
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_suites as names
from ansible_collections.mcpstack.platform.plugins.module_utils import _x509 as x509

#: Questions that are asked at the same time.
AT_ONCE = 4
_CURVES = {"P-256": 23, "P-384": 24, "P-521": 25}
_OLD = (names.TLS12, names.TLS11, names.TLS10, names.SSL3)


@dataclass
class Survey:
    """What is known of one endpoint under one name.

    versions: number -> accepted, refused, or None.
    suites, groups: what each version accepts; a version is missing where that could not be found out to the end.
    chains: every different chain that was served, with how it was asked for.
    """

    name: str
    speaks_tls: bool | None = None
    why_not: str = ""
    refused_with: int = -1
    versions: dict[int, bool | None] = field(default_factory=dict)
    suites: dict[int, list[int]] = field(default_factory=dict)
    groups: dict[int, list[int]] = field(default_factory=dict)
    dh_bits: int | None = None
    insists: bool | None = None
    compresses: bool | None = None
    safe_renegotiation: bool | None = None
    tickets_12: bool | None = None
    session: session.Session | None = None
    chains: dict[tuple[bytes, ...], str] = field(default_factory=dict)
    stapled: bool = False
    gaps: dict[str, list[str]] = field(default_factory=dict)

    def gap(self, about: str, why: str) -> None:
        """Note what could not be found out."""
        reasons = self.gaps.setdefault(about, [])
        if why not in reasons:
            reasons.append(why)

    @property
    def accepted(self) -> list[int]:
        """The versions that are accepted, newest first."""
        return sorted((number for number, yes in self.versions.items() if yes), reverse=True)


def survey(endpoint: probe.Endpoint, name: str) -> Survey:
    """Ask everything. Never raises."""
    found = Survey(name)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        _versions(endpoint, found, pool)
        if not found.accepted:
            return found
        jobs = [pool.submit(_suites, endpoint, found, version) for version in _to_enumerate(found)]
        if found.versions.get(names.TLS13):
            jobs.append(pool.submit(_groups_13, endpoint, found))
            jobs.append(pool.submit(_session_13, endpoint, found))
        for job in jobs:
            job.result()
        _chains_12(endpoint, found)
        jobs = [pool.submit(ask, endpoint, found) for ask in (_groups_12, _dh, _flags, _order)]
        for job in jobs:
            job.result()
    return found


def _to_enumerate(found: Survey) -> list[int]:
    """TLS 1.3, and the newest of the others: what the older ones add is that they are old."""
    older = [version for version in found.accepted if version != names.TLS13]
    return [version for version in found.accepted if version == names.TLS13] + older[:1]


def _offer(version: int, name: str, **changes) -> probe.Offer:
    suites = names.SUITES_13 if version == names.TLS13 else names.SUITES_12
    return probe.Offer(**{"versions": (version,), "suites": suites, "name": name, **changes})


def _versions(endpoint: probe.Endpoint, found: Survey, pool: ThreadPoolExecutor) -> None:
    everything = probe.Offer((names.TLS12, names.TLS13), tuple(names.SUITES), name=found.name)
    first = endpoint.ask(everything)
    found.refused_with = first.alert
    if first.kind in (probe.PLAIN, probe.GARBAGE, probe.UNREACHABLE, probe.SILENT):
        found.speaks_tls = False if first.kind == probe.PLAIN else None
        found.why_not = first.why
        return
    found.speaks_tls = True if first.kind in (probe.HELLO, probe.ALERT) else None
    found.why_not = first.why
    wanted = (names.TLS13, *_OLD)
    for version, answer in zip(wanted, pool.map(lambda v: endpoint.ask(_offer(v, found.name)), wanted)):
        if answer.kind not in probe.ANSWERED:
            found.versions[version] = None
            found.gap("versions", f"{names.VERSIONS[version]}: {answer.why}")
        else:
            found.versions[version] = answer.accepted and answer.version == version
            if answer.kind == probe.ALERT and found.refused_with < 0:
                found.refused_with = answer.alert
    found.versions[names.SSL2] = endpoint.speaks_ssl2()
    if found.versions[names.SSL2] is None:
        found.gap("versions", "SSL 2.0: it was not answered in time")
    if found.accepted:
        found.speaks_tls = True


def _suites(endpoint: probe.Endpoint, found: Survey, version: int) -> None:
    if version == names.SSL2:
        return
    left, taken = list(names.SUITES_13 if version == names.TLS13 else names.SUITES_12), []
    while left:
        answer = endpoint.ask(_offer(version, found.name, suites=tuple(left)))
        if answer.kind not in probe.ANSWERED:
            found.gap("suites", f"{names.VERSIONS[version]}: {answer.why}")
            break
        if not answer.accepted or answer.version != version:
            break
        if answer.suite not in left:
            found.gap(
                "suites", f"{names.VERSIONS[version]}: it picks {names.suite(answer.suite)}, which was not offered"
            )
            break
        taken.append(answer.suite)
        left.remove(answer.suite)
    found.suites[version] = taken


def _groups_13(endpoint: probe.Endpoint, found: Survey) -> None:
    left, taken = list(names.GROUPS), []
    while left:
        # Without a share the server has to say which group it wants.
        answer = endpoint.ask(_offer(names.TLS13, found.name, groups=tuple(left), share=False))
        if answer.kind not in probe.ANSWERED:
            found.gap("groups", f"TLS 1.3: {answer.why}")
            break
        if not answer.accepted or answer.group not in left:
            break
        taken.append(answer.group)
        left.remove(answer.group)
    found.groups[names.TLS13] = taken


def _newest_old(found: Survey) -> int:
    return next((version for version in found.accepted if version in _OLD), 0)


def _key_types(found: Survey) -> set[str]:
    kinds = set()
    for chain in found.chains:
        try:
            kinds.add(x509.parse(chain[0]).key_type)
        except x509.DerError:
            continue
    return kinds


def _groups_12(endpoint: probe.Endpoint, found: Survey) -> None:
    version = _newest_old(found)
    suites = tuple(number for number in found.suites.get(version, ()) if names.SUITES[number].startswith("TLS_ECDHE_"))
    if not suites:
        return
    # A certificate on a curve can only be used by clients that know the curve: it stays in the offer, at the end. A server
    # that then prefers it to everything else would never use anything else with such a client.
    curves = sorted({_CURVES[kind] for kind in _key_types(found) if kind in _CURVES})
    left, taken = [number for number in names.GROUPS if number not in names.FINITE], []
    while left:
        groups = (*left, *(number for number in curves if number not in left))
        answer = endpoint.ask(_offer(version, found.name, suites=suites, groups=groups, full=True))
        if answer.kind not in probe.ANSWERED:
            found.gap("groups", f"{names.VERSIONS[version]}: {answer.why}")
            break
        if not answer.accepted or answer.group not in left:
            break
        taken.append(answer.group)
        left.remove(answer.group)
    found.groups[version] = taken


def _dh(endpoint: probe.Endpoint, found: Survey) -> None:
    """The smallest prime that a finite-field suite is served with."""
    version = _newest_old(found)
    suites = [n for n in found.suites.get(version, ()) if names.SUITES[n].startswith(("TLS_DHE_", "TLS_DH_anon_"))]
    kinds = {names.SUITES[number].split("_WITH_")[0]: number for number in suites}
    for number in kinds.values():
        answer = endpoint.ask(_offer(version, found.name, suites=(number,), full=True))
        if answer.dh_bits:
            found.dh_bits = min(answer.dh_bits, found.dh_bits or answer.dh_bits)
        else:
            found.gap("dh", f"{names.suite(number)}: {answer.why or 'its parameters were not shown'}")


def _flags(endpoint: probe.Endpoint, found: Survey) -> None:
    version = _newest_old(found)
    if not version:
        return
    answer = endpoint.ask(_offer(version, found.name, compress=True))
    if not answer.accepted:
        found.gap("flags", f"{names.VERSIONS[version]}: {answer.why}")
        return
    found.compresses = answer.compression != 0
    found.safe_renegotiation = 0xFF01 in answer.extensions
    found.tickets_12 = 35 in answer.extensions


def _chains_12(endpoint: probe.Endpoint, found: Survey) -> None:
    version = _newest_old(found)
    accepted = found.suites.get(version, ())
    for kind, suites in names.BY_CERTIFICATE.items():
        possible = tuple(number for number in accepted if number in suites)
        if not possible:
            continue
        answer = endpoint.ask(_offer(version, found.name, suites=possible, full=True))
        if answer.chain:
            found.chains.setdefault(answer.chain, f"{names.VERSIONS[version]}, {kind}")
            found.stapled = found.stapled or answer.stapled
        else:
            found.gap("chain", f"{names.VERSIONS[version]}, {kind}: {answer.why or 'no certificate was shown'}")


def _session_13(endpoint: probe.Endpoint, found: Survey) -> None:
    try:
        found.session = session.modern_session(endpoint, found.name)
    except (probe.Stop, OSError) as error:
        found.gap("session", f"TLS 1.3: {error}")
        return
    if found.session.chain:
        found.chains.setdefault(found.session.chain, "TLS 1.3")
        found.stapled = found.stapled or found.session.stapled


def _order(endpoint: probe.Endpoint, found: Survey) -> None:
    """Offer the same suites forwards and backwards: a server that insists picks the same one."""
    version = _newest_old(found) or names.TLS13
    suites = found.suites.get(version, [])
    if len(suites) < 2:
        return
    picks = [endpoint.ask(_offer(version, found.name, suites=tuple(order))) for order in (suites, suites[::-1])]
    if all(answer.accepted for answer in picks):
        found.insists = picks[0].suite == picks[1].suite
    else:
        found.gap("order", picks[0].why or picks[1].why)
