# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold tls_audit against sslyze over the same servers; every difference has a written reason in ledger/sslyze.yml."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_tls as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_probe as probe
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_suites as names
from ansible_collections.mcpstack.platform.plugins.module_utils._tls_survey import survey
from ansible_collections.mcpstack.platform.tests.peers.conftest import tool
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import test_audit_tls as unit
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import tls_fixture as tls

LEDGER = Path(__file__).with_name("ledger") / "sslyze.yml"
pytestmark = pytest.mark.skipif(not tls.OPENSSL, reason="the command openssl is missing")

#: What sslyze's comparison with the Mozilla profile calls what a check of ours decides.
ISSUES = {
    "tls_versions": "TLS-02", "ciphers": "TLS-03", "ciphersuites": "TLS-03", "tls_curves": "TLS-04", "ecdh_param_size": "TLS-04",
    "dh_param_size": "TLS-05", "tls_vulnerability_compression": "TLS-06", "tls_vulnerability_renegotiation": "TLS-06",
    "certificate_path_validation": "TLS-10", "certificate_hostname": "TLS-08", "maximum_certificate_lifespan": "TLS-08",
    "rsa_key_size": "TLS-09", "certificate_signatures": "TLS-09", "certificate_types": "TLS-09", "certificate_curves": "TLS-09",
}  # fmt: skip


_STRONG_CURVES = {"X25519", "prime256v1", "secp256r1", "secp384r1", "secp521r1", "X448"}
#: What Python's own server can be given; s_server serves one connection at a time, and sslyze holds several open.
_USABLE = {
    "-cipher",
    "-tls1",
    "-tls1_2",
    "-tls1_3",
    "-min_protocol",
    "-curves",
    "-serverpref",
    "-dhparam",
    "-no_ticket",
}


def _servers():
    """Name -> (how to build the chain, options): the servers of the unit tests that Python can be."""
    for case, (options, _wanted, _said) in unit.PROTOCOL_CASES.items():
        yield f"protocol: {case}", (lambda r, m: [tls.make(issuer=m), m]), options
    for case, (options, _wanted) in unit.RSA_CASES.items():
        yield f"rsa: {case}", (lambda r, m: [tls.make(issuer=r, kind="rsa2048")]), options
    for case, (changes, _wanted) in unit.CERTIFICATE_CASES.items():
        yield (
            f"certificate: {case}",
            (lambda r, m, c=changes: [tls.make(issuer=r, **c)]),
            {"-cipher": tls.STRONG + unit.LOW0},
        )
    for case, (build, _wanted, _said) in unit.CHAIN_CASES.items():
        yield f"chain: {case}", (lambda r, m, b=build: b(r, m, tls.make(issuer=m))), {}
    for case, (changes, _said) in unit.AUTHORITY_CASES.items():

        def chain(root, _middle, changes=changes):
            weak = tls.authority("middle", root, number=2, **changes)
            return [tls.make(issuer=weak), weak]

        yield f"authority: {case}", chain, {}
    yield "certificate: self-signed", (lambda r, m: [tls.make()]), {}
    yield "protocol: tickets", (lambda r, m: [tls.make(issuer=m), m]), {"-no_ticket": False}


@contextlib.contextmanager
def served(tmp_path: Path, chain: list, options: dict):
    """A server that takes many connections at once; yields its port."""
    context = tls.server_context(tmp_path, chain)
    versions = {
        "TLSv1": ssl.TLSVersion.TLSv1,
        "-tls1": ssl.TLSVersion.TLSv1,
        "-tls1_2": ssl.TLSVersion.TLSv1_2,
        "-tls1_3": ssl.TLSVersion.TLSv1_3,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, value in options.items():
            if name == "-cipher":
                context.set_ciphers(value)
            elif name == "-min_protocol":
                context.minimum_version = versions[value]
            elif name in versions:
                context.minimum_version = context.maximum_version = versions[name]
            elif name == "-curves" and ":" not in value:
                context.set_ecdh_curve(
                    {"P-256": "prime256v1", "P-384": "secp384r1", "P-521": "secp521r1"}.get(value, value)
                )
            elif name == "-serverpref":
                context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
            elif name == "-dhparam":
                (tmp_path / "dh.pem").write_bytes(tls.dh_parameters())
                context.load_dh_params(tmp_path / "dh.pem")
            elif name == "-no_ticket":
                context.options &= ~ssl.OP_NO_TICKET
    with tls.Server(lambda sock: sock.recv(4096), context) as server:
        yield server.port


SERVERS = {
    name: (chain, options)
    for name, chain, options in _servers()
    if set(options) <= _USABLE and (":" not in options.get("-curves", "") or name.startswith("certificate"))
}


@pytest.fixture(scope="module")
def sslyze() -> Iterator[subprocess.Popen]:
    """One sslyze for all servers, because its start costs more than a scan."""
    here = Path(__file__).with_name("sslyze_facts.py")
    pipe = subprocess.PIPE
    with subprocess.Popen([tool("python"), here], stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        process.stdin.close()


def theirs(sslyze: subprocess.Popen, port: int, ca_file: str) -> tuple[set[str], dict]:
    """The ids of our checks that sslyze finds something for, and all it said."""
    print(json.dumps([port, "localhost", ca_file]), file=sslyze.stdin, flush=True)
    said = json.loads(sslyze.stdout.readline())
    found = {ISSUES.get(issue, issue) for issue in said.get("issues", {})}
    if "tls_curves" in said.get("issues", {}) and set(said["curves"]) <= _STRONG_CURVES and "X25519" in said["curves"]:
        # Told apart, so that the one row for it cannot hide a weak curve.
        found = found - {"TLS-04"} | {"strong curves beyond the profile"}
    if said.get("early_data") or said.get("client_renegotiation"):
        found.add("TLS-06")
    for certificate in said.get("certificates", ()):
        if certificate["order"] is False or not certificate["trusted"]:
            found.add("TLS-10")
        if certificate["sha1"]:
            found.add("TLS-09")
    return found, said


def differences(sslyze: subprocess.Popen, name: str, tmp_path: Path) -> tuple[dict, dict]:
    root = tls.authority()
    middle = tls.authority("middle", root, number=2)
    (tmp_path / "root.pem").write_bytes(root.pem)
    build, options = SERVERS[name]
    with served(tmp_path, build(root, middle), options) as port:
        endpoint = probe.Endpoint("127.0.0.1", port)
        ours = core.audit_tls(core.Request(endpoint, ["localhost"], ca_file=str(tmp_path / "root.pem"), http=False))
        wire = survey(probe.Endpoint("127.0.0.1", port), "localhost")
        found, said = theirs(sslyze, port, str(tmp_path / "root.pem"))
    mine = {item["id"] for item in ours["findings"]}
    suites = {names.VERSIONS[version]: sorted(map(names.suite, numbers)) for version, numbers in wire.suites.items()}
    rows = {
        "findings": (sorted(found - mine), sorted(mine - found)),
        "versions": tuple(
            sorted(one - other)
            for one, other in (
                (set(said.get("suites", {})), {names.VERSIONS[version] for version in wire.accepted}),
                ({names.VERSIONS[version] for version in wire.accepted}, set(said.get("suites", {}))),
            )
        ),
    }
    for version, numbers in suites.items():
        other = set(said.get("suites", {}).get(version, ()))
        if said.get("suites", {}).get(version):
            rows[f"suites of {version}"] = (sorted(other - set(numbers)), sorted(set(numbers) - other))
    return {about: pair for about, pair in rows.items() if pair[0] or pair[1]}, said


@pytest.mark.parametrize("name", SERVERS)
def test_same_servers(sslyze, name, tmp_path):
    found, said = differences(sslyze, name, tmp_path)
    rows = yaml.safe_load(LEDGER.read_text())
    everywhere = {item for row in rows if row["case"] == "*" for item in (*row["theirs"], *row["ours"])}
    left = {
        about: tuple([item for item in side if item not in everywhere] for side in pair)
        for about, pair in found.items()
    }
    known = {row["about"]: (row["theirs"], row["ours"]) for row in rows if row["case"] == name}
    assert {about: pair for about, pair in left.items() if pair[0] or pair[1]} == known, said


def test_every_row_has_a_reason_and_a_server():
    for row in yaml.safe_load(LEDGER.read_text()):
        assert set(row) == {"case", "about", "theirs", "ours", "reason"} and len(row["reason"]) > 30
        assert row["case"] == "*" or row["case"] in SERVERS
