# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live TLS audit against real servers on loopback, weak in one way each, and against hostile ones."""

from __future__ import annotations

import itertools
import random
import struct

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_http as http
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_tls as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_probe as probe
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_suites as names
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import tls_fixture as tls

needs_openssl = pytest.mark.skipif(not tls.OPENSSL, reason="there is no openssl command")


@pytest.fixture(scope="module")
def root():
    return tls.authority()


@pytest.fixture(scope="module")
def middle(root):
    return tls.authority("middle", root, number=2)


@pytest.fixture(scope="module")
def leaf(middle):
    return tls.make(issuer=middle)


@pytest.fixture
def ca_file(tmp_path, root):
    path = tmp_path / "root.pem"
    path.write_bytes(root.pem)
    return str(path)


def run(port, name="localhost", **changes):
    endpoint = changes.pop("endpoint", None) or probe.Endpoint("127.0.0.1", port, timeout=5)
    return core.audit_tls(core.Request(endpoint, [name], **{"http": False, **changes}))


def ids(result):
    return {(item["id"], item["severity"]) for item in result["findings"]}


def evidence(result):
    return {item["evidence"] for item in result["findings"]}


def states(result, status):
    return {state["id"] for state in result["checks_run"] if state["status"] == status}


def reasons(result):
    return " | ".join(state["reason"] for state in result["checks_run"])


HTTP_ROWS = set(core.HTTP)


# -- what is accepted -------------------------------------------------------------------------------------------------

LOW0 = ":@SECLEVEL=0"
PROTOCOL_CASES = {
    "strong": ({}, set(), set()),
    "only 1.2": ({"-tls1_2": None}, set(), set()),
    "only 1.3": ({"-tls1_3": None}, set(), set()),
    "1.0 and 1.1 too": (
        {"-cipher": "ECDHE+AESGCM:ECDHE+AES" + LOW0, "-min_protocol": "TLSv1"},
        {("TLS-02", "high"), ("TLS-03", "high")},
        {"accepts TLS 1.1, TLS 1.0"},
    ),
    "1.0 alone": (
        {"-cipher": "ECDHE+AES" + LOW0, "-tls1": None},
        {("TLS-02", "high"), ("TLS-03", "high")},
        {"accepts TLS 1.0", "TLS 1.0 accepts TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"},
    ),
    "CBC": (
        {"-cipher": "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA256"},
        {("TLS-03", "high")},
        {"TLS 1.2 accepts TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"},
    ),
    "CCM is not in the profile": (
        {"-cipher": "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-CCM"},
        {("TLS-03", "high")},
        {"TLS 1.2 accepts TLS_ECDHE_ECDSA_WITH_AES_128_CCM"},
    ),
    "short tag in 1.3": (
        {"-ciphersuites": "TLS_AES_128_GCM_SHA256:TLS_AES_128_CCM_8_SHA256"},
        {("TLS-03", "high")},
        {"TLS 1.3 accepts TLS_AES_128_CCM_8_SHA256"},
    ),
    "CCM with the long tag in 1.3": ({"-ciphersuites": "TLS_AES_128_GCM_SHA256:TLS_AES_128_CCM_SHA256"}, set(), set()),
    "no encryption, nobody proved": (
        {"-cipher": "ECDHE+AESGCM:eNULL:aNULL" + LOW0, "-tls1_2": None},
        {("TLS-03", "high")},
        None,
    ),
    "P-521 only": (
        {"-curves": "P-521", "-tls1_3": None},
        {("TLS-04", "low")},
        {"accepts secp521r1 but neither x25519 nor secp256r1: most clients need a second round"},
    ),
    "P-384 only": ({"-curves": "P-384", "-tls1_3": None}, {("TLS-04", "low")}, None),
    "P-256 only": ({"-curves": "P-256"}, set(), set()),
    "X25519 only": ({"-curves": "X25519", "-tls1_3": None}, set(), set()),
    "more strong groups": ({"-curves": "X25519:P-256:P-384:P-521:X448:ffdhe2048"}, set(), set()),
    "insists on its order": (
        {"-serverpref": None},
        {("TLS-05", "low")},
        {"picks a suite by its own order although all that it accepts are strong"},
    ),
    "early data": (
        {"-early_data": None, "-max_early_data": "4096"},
        {("TLS-06", "medium")},
        {"early data is accepted, up to 4096 bytes"},
    ),
}  # fmt: skip


@needs_openssl
@pytest.mark.parametrize("case", PROTOCOL_CASES)
def test_protocol(case, tmp_path, leaf, middle, ca_file):
    options, wanted, said = PROTOCOL_CASES[case]
    with tls.s_server(tmp_path, [leaf, middle], options) as port:
        result = run(port, ca_file=ca_file)
    assert ids(result) == wanted
    if said is not None:
        assert said <= evidence(result)
    assert states(result, "unknown") == set(), reasons(result)
    assert states(result, "not_applicable") == HTTP_ROWS


RSA_CASES = {
    "RSA key exchange": ({"-cipher": "ECDHE+AESGCM:AES128-GCM-SHA256"}, {("TLS-03", "high")}),
    "CBC with an RSA key": ({"-cipher": "ECDHE+AESGCM:ECDHE-RSA-AES256-SHA"}, {("TLS-03", "high")}),
    "DHE, 2048 bits": ({"-cipher": "ECDHE+AESGCM:DHE+AESGCM:DHE+CHACHA20"}, set()),
    "DHE, 1024 bits": ({"-cipher": "ECDHE+AESGCM:DHE+AESGCM" + LOW0, "-dhparam": None}, {("TLS-05", "medium")}),
    "secp256k1": ({"-curves": "X25519:secp256k1", "-cipher": "ECDHE+AESGCM" + LOW0, "-tls1_2": None}, {("TLS-04", "medium")}),
    "brainpool": ({"-curves": "X25519:brainpoolP256r1", "-tls1_2": None}, {("TLS-04", "low")}),
    "weak suites make its order matter less": (
        {"-cipher": "ECDHE+AESGCM:AES128-SHA", "-serverpref": None}, {("TLS-03", "high")}
    ),
}  # fmt: skip


@needs_openssl
@pytest.mark.parametrize("case", RSA_CASES)
def test_protocol_with_an_rsa_key(case, tmp_path, root, ca_file):
    options, wanted = RSA_CASES[case]
    if "-dhparam" in options:
        (tmp_path / "dh.pem").write_bytes(tls.dh_parameters())
        options = {**options, "-dhparam": str(tmp_path / "dh.pem")}
    with tls.s_server(tmp_path, [tls.make(issuer=root, kind="rsa2048")], options) as port:
        result = run(port, ca_file=ca_file)
    assert (ids(result), states(result, "unknown")) == (wanted, set()), evidence(result) | {reasons(result)}


@needs_openssl
def test_tickets_are_unknown_not_wrong(tmp_path, root, ca_file):
    with tls.s_server(tmp_path, [tls.make(issuer=root)], {"-no_ticket": False}) as port:
        result = run(port, ca_file=ca_file)
    assert (ids(result), states(result, "unknown")) == (set(), {"TLS-06"})
    assert "how often their key changes cannot be seen" in reasons(result)


@needs_openssl
def test_modern_profile_leaves_tls_1_2_out(tmp_path, root, ca_file):
    with tls.s_server(tmp_path, [tls.make(issuer=root)]) as port:
        result = run(port, ca_file=ca_file, profile="modern")
    assert ids(result) == {("TLS-02", "low")}


@needs_openssl
def test_two_certificates_are_both_judged(tmp_path, root, ca_file):
    rsa, (cert, private) = (
        tls.make(issuer=root, kind="rsa2048", names=("other",)),
        (tmp_path / "2.pem", tmp_path / "2.key"),
    )
    cert.write_bytes(rsa.pem)
    private.write_bytes(rsa.key_pem)
    options = {"-dcert": str(cert), "-dkey": str(private)}
    with tls.s_server(tmp_path, [tls.make(issuer=root)], options) as port:
        result = run(port, ca_file=ca_file)
    assert [(item["id"], item["where"], item["evidence"]) for item in result["findings"]] == [
        ("TLS-08", f"127.0.0.1:{port} (TLS 1.2, RSA)", "is not for localhost, only for other")
    ]


@needs_openssl
def test_the_same_is_said_once_for_several_names(tmp_path, root, ca_file):
    made = tls.make(issuer=root, names=("localhost", "b.test"))
    with tls.s_server(tmp_path, [made], {"-serverpref": None}) as port:
        endpoint = probe.Endpoint("127.0.0.1", port)
        result = core.audit_tls(core.Request(endpoint, ["localhost", "b.test", "c.test"], ca_file=ca_file, http=False))
    assert [(item["id"], item["subject"]) for item in result["findings"]] == [
        ("TLS-08", "c.test"),
        ("TLS-05", "localhost"),
    ]


# -- certificates -----------------------------------------------------------------------------------------------------

CERTIFICATE_CASES = {
    "expired": ({"age": 90, "life": 60}, {("TLS-08", "critical")}),
    "not yet valid": ({"age": -5}, {("TLS-08", "high")}),
    "wrong name": ({"names": ("other.test",)}, {("TLS-08", "high")}),
    "common name alone": ({"common": "localhost", "names": ()}, {("TLS-08", "high")}),
    "client only": ({"extended": (ExtendedKeyUsageOID.CLIENT_AUTH,)}, {("TLS-08", "high")}),
    "client and server": ({"extended": (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)}, set()),
    "no extended key usage": ({"extended": None}, {("TLS-08", "low")}),
    "no key usage": ({"usage": None}, set()),
    "may not sign": ({"usage": ("key_agreement",)}, {("TLS-08", "high")}),
    "soon over": ({"age": 85, "life": 90}, {("TLS-08", "medium")}),
    "13 days left of 30": ({"age": 17, "life": 30}, set()),
    "15 days left of 366": ({"age": 351, "life": 366}, set()),
    "for 366 days": ({"life": 366}, set()),
    "for 825 days": ({"life": 825}, set()),
    "for three years": ({"life": 1096}, {("TLS-08", "medium")}),
    "P-384": ({"kind": "p384"}, set()),
    "P-521": ({"kind": "p521"}, {("TLS-09", "low")}),
    "demands a stapled answer": ({"staple": True}, {("TLS-12", "medium")}),
}  # fmt: skip


@needs_openssl
@pytest.mark.parametrize("case", CERTIFICATE_CASES)
def test_certificate(case, tmp_path, root, ca_file):
    changes, wanted = CERTIFICATE_CASES[case]
    options = {"-cipher": tls.STRONG + LOW0}
    if changes.get("kind") == "p521":
        options["-curves"] = "X25519:P-256:P-521"
    with tls.s_server(tmp_path, [tls.make(issuer=root, **changes)], options) as port:
        result = run(port, ca_file=ca_file)
    assert (ids(result), states(result, "unknown")) == (wanted, set()), evidence(result) | {reasons(result)}


@needs_openssl
def test_signed_with_sha_1(tmp_path):
    """Made by the openssl command: the library of the tests does not sign with SHA-1 any more."""
    right = tls.make(kind="rsa2048")
    (tmp_path / "sha1.key").write_bytes(right.key_pem)
    argv = [tls.OPENSSL, "req", "-x509", "-sha1", "-days", "60", "-subj", "/CN=leaf", "-key", tmp_path / "sha1.key",
            "-addext", "subjectAltName=DNS:localhost", "-addext", "extendedKeyUsage=serverAuth", "-out", tmp_path / "sha1.pem"]  # fmt: skip
    tls.subprocess.run(argv, check=True, capture_output=True)
    made = tls.Made(tls.x509.load_pem_x509_certificate((tmp_path / "sha1.pem").read_bytes()), right.key)
    with tls.s_server(tmp_path, [made], {"-cipher": tls.STRONG + LOW0}) as port:
        result = run(port)
    assert ids(result) == {("TLS-09", "high"), ("TLS-12", "low")}
    assert "signed with sha1WithRSA" in evidence(result)


@needs_openssl
def test_small_rsa_key(tmp_path, root, ca_file):
    with tls.s_server(tmp_path, [tls.make(issuer=root, kind="rsa1024")], {"-cipher": tls.STRONG + LOW0}) as port:
        result = run(port, ca_file=ca_file)
    assert (ids(result), evidence(result)) == ({("TLS-09", "high")}, {"RSA key of 1024 bits"})


@needs_openssl
def test_lifetime_of_a_public_certificate(tmp_path):
    """Without a named authority 366 days are the limit, and 90 in the modern profile."""
    for life, profile, wanted in (
        (398, "intermediate", True),
        (366, "intermediate", False),
        (91, "modern", False),
        (100, "modern", True),
    ):
        made = tls.make(life=life)
        with tls.s_server(tmp_path, [made], {"-tls1_3": None}) as port:
            result = run(port, profile=profile)
        assert (("TLS-08", "medium") in ids(result)) is wanted, (life, profile)


@pytest.mark.parametrize(
    ("names_in", "asked", "fits"),
    [
        (("*.example.test",), "a.example.test", True),
        (("*.example.test",), "a.b.example.test", False),
        (("*.example.test",), "example.test", False),
        (("*.test",), "a.test", False),
        (("A.Example.test",), "a.example.TEST.", True),
        (("127.0.0.1",), "127.0.0.1", True),
        (("::1",), "0:0:0:0:0:0:0:1", True),
        (("127.0.0.1",), "127.0.0.2", False),
    ],
)
def test_names(names_in, asked, fits):
    assert core.x509.parse(tls.make(names=names_in).der).covers(asked) is fits


CHAIN_CASES = {
    "complete": (lambda r, m, e: [e, m], set(), ""),
    "with the root": (lambda r, m, e: [e, m, r], set(), ""),
    "intermediate missing": (lambda r, m, e: [e], {("TLS-10", "medium")}, "whose issuer CN=middle is not sent"),
    "out of order": (lambda r, m, e: [e, r, m], {("TLS-10", "medium")}, "the chain is out of order"),
    "a stranger in it": (lambda r, m, e: [e, m, tls.authority("stranger", number=9)], {("TLS-10", "medium")}, "did not issue certificate 2"),
    "twice the same": (lambda r, m, e: [e, m, m], {("TLS-10", "medium")}, "sent twice"),
}  # fmt: skip


@needs_openssl
@pytest.mark.parametrize("case", CHAIN_CASES)
def test_chain(case, tmp_path, root, middle, leaf, ca_file):
    build, wanted, said = CHAIN_CASES[case]
    with tls.s_server(tmp_path, build(root, middle, leaf)) as port:
        result = run(port, ca_file=ca_file)
    assert (ids(result), states(result, "unknown")) == (wanted, set()), evidence(result) | {reasons(result)}
    assert said in " ".join(evidence(result))


AUTHORITY_CASES = {
    "no key usage": ({"usage": None}, "has no keyUsage"),
    "key usage without signing certificates": ({"usage": ("crl_sign",)}, "keyUsage lacks keyCertSign"),
    "key usage not critical": ({"usage_critical": False}, "keyUsage lacks keyCertSign or is not critical"),
    "constraints not critical": ({"constraints_critical": False}, "basicConstraints is not critical"),
    "no authority": ({"ca": False}, "is not one of an authority"),
}


@needs_openssl
@pytest.mark.parametrize("case", AUTHORITY_CASES)
def test_intermediate(case, tmp_path, root, ca_file):
    changes, said = AUTHORITY_CASES[case]
    weak = tls.authority("middle", root, number=2, **changes)
    with tls.s_server(tmp_path, [tls.make(issuer=weak), weak]) as port:
        result = run(port, ca_file=ca_file)
    assert {item["id"] for item in result["findings"]} == {"TLS-10"}
    assert said in " ".join(evidence(result))


@needs_openssl
def test_root_that_strict_verifiers_refuse(tmp_path):
    """The root is not sent: only a strict verifier that is given it sees that it has no key usage."""
    weak = tls.authority(usage=None)
    (tmp_path / "ca.pem").write_bytes(weak.pem)
    with tls.s_server(tmp_path, [tls.make(issuer=weak)]) as port:
        result = run(port, ca_file=str(tmp_path / "ca.pem"))
    assert ids(result) == {("TLS-10", "medium")}
    assert next(iter(evidence(result))).startswith("strict verifiers refuse it: ")


@needs_openssl
@pytest.mark.parametrize(("production", "severity"), [(False, "low"), (True, "medium")])
def test_self_signed(tmp_path, production, severity):
    with tls.s_server(tmp_path, [tls.make()]) as port:
        result = run(port, production=production)
    assert (ids(result), evidence(result)) == ({("TLS-12", severity)}, {"the certificate is self-signed"})
    assert "TLS-10" in states(result, "pass")


@needs_openssl
@pytest.mark.parametrize(
    ("changes", "sent", "wanted", "unknown"),
    [
        ({}, 1, {("TLS-12", "low")}, {"TLS-10"}),
        ({}, 2, {("TLS-12", "low")}, set()),
        ({"ca_issuers": "http://ca.test/ca.crt"}, 1, {("TLS-10", "medium")}, set()),
    ],
)
def test_authority_that_nobody_named(tmp_path, root, changes, sent, wanted, unknown):
    with tls.s_server(tmp_path, [tls.make(issuer=root, **changes), root][:sent]) as port:
        result = run(port)
    assert (ids(result), states(result, "unknown")) == (wanted, unknown), evidence(result)


@needs_openssl
def test_another_authority_than_the_one_named(tmp_path, root, leaf, middle):
    (tmp_path / "ca.pem").write_bytes(tls.authority("another", number=8).pem)
    with tls.s_server(tmp_path, [leaf, middle, root]) as port:
        result = run(port, ca_file=str(tmp_path / "ca.pem"))
    assert (ids(result), evidence(result)) == (
        {("TLS-12", "low")},
        {"CN=root is not one of the authorities in ca_file"},
    )


# -- servers of paper: what the OpenSSL of this machine does not speak any more ------------------------------------------


class Paper:
    """Answers a hello with what it was told, byte by byte."""

    def __init__(
        self,
        chain=(),
        versions=(names.TLS12,),
        suites=(0xC02B,),
        groups=(29,),
        compression=0,
        renegotiation=True,
        ssl2=False,
        dh=0,
    ):
        self.chain, self.versions, self.suites, self.groups = chain, versions, suites, groups
        self.compression, self.renegotiation, self.ssl2, self.dh = compression, renegotiation, ssl2, dh

    @staticmethod
    def _record(kind, version, data):
        return bytes((kind,)) + version.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data

    @staticmethod
    def _message(kind, body):
        return bytes((kind,)) + len(body).to_bytes(3, "big") + body

    def __call__(self, sock):
        head = sock.recv(5, 0x100)
        if head[0] & 0x80:
            if self.ssl2:
                sock.recv(65536)
                body = b"\x04\0\1\0\2" + bytes(20)
                sock.sendall((0x8000 | len(body)).to_bytes(2, "big") + body)
            return
        body = sock.recv(int.from_bytes(head[3:5], "big"), 0x100)[4:]
        offered_max = int.from_bytes(body[:2], "big")
        place = 34 + 1 + body[34]
        size = int.from_bytes(body[place : place + 2], "big")
        suites = struct.unpack(f"!{size // 2}H", body[place + 2 : place + 2 + size])
        place += 2 + size
        compressions = body[place + 1 : place + 1 + body[place]]
        place += 1 + body[place]
        extensions = {}
        rest = body[place + 2 :]
        while rest:
            kind, length = struct.unpack("!HH", rest[:4])
            extensions[kind], rest = rest[4 : 4 + length], rest[4 + length :]
        offered = [offered_max]
        if 43 in extensions:
            offered = list(struct.unpack(f"!{extensions[43][0] // 2}H", extensions[43][1:]))
        groups = (
            struct.unpack(f"!{(len(extensions.get(10, b'')) - 2) // 2}H", extensions[10][2:])
            if 10 in extensions
            else ()
        )
        version = max((v for v in self.versions if v in offered), default=0)
        suite = next((s for s in suites if s in self.suites), None)
        group = next((g for g in self.groups if g in groups), None)
        if not version or suite is None or (group is None and 10 in extensions):
            sock.sendall(self._record(21, 0x0301, b"\x02\x28"))
            return
        modern = version == names.TLS13
        legacy = min(version, names.TLS12)
        said = b""
        if modern:
            said += b"\0\x2b\0\2\3\4" + b"\0\x33\0\2" + group.to_bytes(2, "big")
        elif self.renegotiation and version > names.SSL3:
            said += b"\xff\1\0\1\0"
        random_bytes = probe._RETRY if modern else bytes(32)
        compression = self.compression if self.compression in compressions else 0
        hello = legacy.to_bytes(2, "big") + random_bytes + b"\0" + suite.to_bytes(2, "big") + bytes((compression,))
        hello += len(said).to_bytes(2, "big") + said if said else b""
        flight = self._message(2, hello)
        if not modern:
            chain = b"".join(len(made.der).to_bytes(3, "big") + made.der for made in self.chain)
            flight += self._message(11, len(chain).to_bytes(3, "big") + chain)
            if names.suite(suite).startswith("TLS_DHE"):
                prime = (1 << self.dh - 1 | 1).to_bytes(self.dh // 8, "big")
                flight += self._message(12, len(prime).to_bytes(2, "big") + prime + b"\0\1\2" + bytes(40))
            elif group is not None:
                flight += self._message(12, b"\3" + group.to_bytes(2, "big") + bytes(40))
            flight += self._message(14, b"")
        # In pieces, and with a warning in front: records are not messages.
        data = self._record(21, legacy, b"\x01\x70")
        for place in range(0, len(flight), 100):
            data += self._record(22, legacy, flight[place : place + 100])
        sock.sendall(data)


PAPER_CASES = {
    "nothing wrong": ({}, set()),
    "compression": ({"compression": 1}, {("TLS-06", "high")}),
    "no secure renegotiation": ({"renegotiation": False}, {("TLS-06", "medium")}),
    "SSL 2.0": ({"ssl2": True}, {("TLS-02", "critical")}),
    "SSL 3.0": ({"versions": (names.TLS12, names.SSL3), "suites": (0xC02B,)}, {("TLS-02", "critical")}),
    "export": ({"suites": (0xC02B, 0x0003)}, {("TLS-03", "high")}),
    "DHE with 768 bits": ({"suites": (0xC02B, 0x009E), "dh": 768}, {("TLS-05", "high")}),
    "secp192r1": ({"groups": (29, 19)}, {("TLS-04", "medium")}),
}


@pytest.mark.parametrize("case", PAPER_CASES)
def test_paper(case, leaf, middle, ca_file):
    changes, wanted = PAPER_CASES[case]
    with tls.Server(Paper((leaf, middle), **changes)) as server:
        result = run(server.port, ca_file=ca_file)
    assert ids(result) == wanted, evidence(result)
    # Nobody finishes a handshake with paper: whether it is trusted stays open, all else is decided.
    assert states(result, "unknown") == {"TLS-10", "TLS-12"}


def test_post_quantum_groups_are_seen():
    suites, groups = (0x1301, 0x1302), (0x11EC, 29, 23, 0x11EB)
    with tls.Server(Paper(versions=(names.TLS13,), suites=suites, groups=groups)) as server:
        found = core.survey(probe.Endpoint("127.0.0.1", server.port), "localhost")
    assert [names.group(number) for number in found.groups[names.TLS13]] == [
        "X25519MLKEM768", "x25519", "secp256r1", "SecP256r1MLKEM768",
    ]  # fmt: skip
    assert found.suites[names.TLS13] == [0x1301, 0x1302]
    assert "session" in found.gaps


# -- servers that mean no good ------------------------------------------------------------------------------------------


def endless(sock):
    while True:
        sock.sendall(b"\x16\x03\x03\x40\x00" + b"\0" * 16384)


def endless_warnings(sock):
    while True:
        sock.sendall(b"\x15\x03\x03\x00\x02\x01\x70" * 1000)


def say(data):
    def handle(sock):
        sock.recv(4096)
        sock.sendall(data)

    return handle


HOSTILE = {
    "closes at once": (lambda sock: None, None),
    "text": (say(b"220 mail.test ESMTP\r\n"), {("TLS-01", "critical")}),
    "HTTP without TLS": (say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), {("TLS-01", "critical")}),
    "random bytes": (say(random.Random(7).randbytes(5000)), {("TLS-01", "critical")}),
    "a huge record": (say(b"\x16\x03\x03\xff\xff" + bytes(70000)), {("TLS-01", "critical")}),
    "a huge message": (say(b"\x16\x03\x03\x00\x04\x02\xff\xff\xff"), None),
    "an empty hello": (say(b"\x16\x03\x03\x00\x04\x02\0\0\0"), None),
    "another message first": (say(b"\x16\x03\x03\x00\x04\x0b\0\0\0"), None),
    "half an alert": (say(b"\x15\x03\x03\x00\x01\x02"), None),
    "endless records": (endless, None),
    "endless warnings": (endless_warnings, None),
    "empty records": (say(b"\x16\x03\x03\x00\x00" * 60000), None),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case):
    handle, wanted = HOSTILE[case]
    with tls.Server(handle) as server:
        result = run(server.port)
    assert ids(result) == (wanted or set())
    rest = {check.id for check in core.CHECKS} - HTTP_ROWS - ({"TLS-01"} if wanted else set())
    assert rest <= states(result, "unknown")
    assert not states(result, "pass")


def test_slow_drip_ends_at_the_deadline():
    """Each look at the clock is a second later: the connection ends after as many looks, not after real seconds."""
    ticks = itertools.count()

    def drip(sock):
        while True:
            sock.sendall(b"\x16")
            sock.recv(0)

    with tls.Server(drip) as server:
        endpoint = probe.Endpoint("127.0.0.1", server.port, timeout=20, total=30, clock=lambda: float(next(ticks)))
        answer = endpoint.ask(probe.Offer((names.TLS12,), names.SUITES_12))
    assert answer.kind in (probe.SILENT, probe.GARBAGE, probe.PLAIN)
    assert next(ticks) < 60


def test_time_for_everything_is_bounded(leaf):
    ticks = itertools.count()
    with tls.Server(Paper((leaf,))) as server:
        endpoint = probe.Endpoint("127.0.0.1", server.port, timeout=20, total=25, clock=lambda: float(next(ticks)))
        result = run(server.port, endpoint=endpoint)
    assert states(result, "pass") <= {"TLS-01", "TLS-02"}
    assert "the 25 seconds for all questions are used up" in reasons(result)


def test_nobody_there():
    with tls.Server(lambda sock: None) as server:
        port = server.port
    result = run(port)
    assert (ids(result), states(result, "pass")) == (set(), set())
    assert "Connection refused" in reasons(result)


def test_name_that_does_not_exist():
    endpoint = probe.Endpoint("does-not-exist.invalid", 443)
    result = core.audit_tls(core.Request(endpoint, ["does-not-exist.invalid"], http=False))
    assert states(result, "pass") == set()


@pytest.mark.parametrize("seed", range(40))
def test_any_bytes_are_an_answer_or_a_stop(seed, leaf):
    """Mutations of a real flight: parsed, or refused with a sentence."""
    chooser = random.Random(seed)

    class Tape:
        def __init__(self, hello):
            self.hello, self.sent = hello, b""

        def recv(self, size, *_flags):
            return self.hello[:size] if size == 5 else self.hello[5:]

        def sendall(self, data):
            self.sent += data

    tape = Tape(probe.client_hello(probe.Offer((names.TLS12,), names.SUITES_12)))
    Paper((leaf,))(tape)
    for _round in range(50):
        data = bytearray(tape.sent)
        for _change in range(chooser.randint(1, 8)):
            data[chooser.randrange(len(data))] = chooser.randrange(256)
        del data[chooser.randrange(len(data)) :]
        flight = probe.Flight(full=True)
        try:
            flight.feed(bytes(data))
        except probe.Stop as stop:
            assert stop.why
        assert flight.steps <= len(data)


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_are_a_certificate_or_an_error(seed, leaf):
    chooser = random.Random(seed)
    for _round in range(100):
        data = bytearray(leaf.der)
        for _change in range(chooser.randint(1, 4)):
            data[chooser.randrange(len(data))] = chooser.randrange(256)
        try:
            core.x509.parse(bytes(data))
        except core.x509.DerError as error:
            assert str(error)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x30", b"\x30\x80\0\0", b"\x30\x84\xff\xff\xff\xff", b"\x1f\x01", b"\x30\x00", b"0" * 70000, b"\x30\x03\x30\x01"]
    + [b"\x30\x83" + (60000).to_bytes(3, "big") + b"\x05\x00" * 30000],
)  # fmt: skip
def test_der_that_is_none(data):
    with pytest.raises(core.x509.DerError):
        core.x509.parse(data)


# -- STARTTLS ---------------------------------------------------------------------------------------------------------


def postgres(tmp_path, made, says=b"S"):
    context = tls.server_context(tmp_path, [made])

    def handle(sock):
        if sock.recv(8) == struct.pack("!II", 8, 80877103):
            sock.sendall(says)
            if says == b"S":
                context.wrap_socket(sock, server_side=True).close()

    return tls.Server(handle)


def test_postgres(tmp_path, root, ca_file):
    with postgres(tmp_path, tls.make(issuer=root)) as server:
        endpoint = probe.Endpoint("127.0.0.1", server.port, "postgres")
        result = core.audit_tls(core.Request(endpoint, ["localhost"], ca_file=ca_file))
    assert {item["id"] for item in result["findings"]} <= {"TLS-04"}
    assert states(result, "not_applicable") == HTTP_ROWS
    assert {"TLS-01", "TLS-02", "TLS-03", "TLS-08", "TLS-09", "TLS-10", "TLS-12"} <= states(result, "pass")


@pytest.mark.parametrize(
    ("says", "wanted"), [(b"N", {("TLS-01", "critical")}), (b"", set()), (b"x", {("TLS-01", "critical")})]
)
def test_postgres_without_tls(tmp_path, says, wanted):
    with postgres(tmp_path, tls.make(), says) as server:
        endpoint = probe.Endpoint("127.0.0.1", server.port, "postgres")
        result = core.audit_tls(core.Request(endpoint, ["localhost"]))
    assert ids(result) == wanted


# -- HTTP -------------------------------------------------------------------------------------------------------------

GOOD_HEADERS = {
    "Strict-Transport-Security": "max-age=63072000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
}


def site(headers=None, status=None, pages=None, foreign=421, only=None):
    """A web server. headers: changes for every answer, or for those of status ``only``. status: path -> status."""

    def handle(sock):
        method, path, host = tls.read_request(sock)
        path = path.partition("?")[0]
        if host and host.partition(":")[0] != "localhost":
            code = foreign
        elif not host:
            code = 400
        elif method == "TRACE":
            code = (status or {}).get("TRACE", 405)
        elif method == "POST":
            code = 413
        else:
            code = (status or {}).get(path, 200 if path == "/" or path in (pages or {}) else 404)
        if code == 0:
            return
        sent = dict(GOOD_HEADERS)
        if only is None or code == only:
            sent.update(headers or {})
        body = (pages or {}).get(path, b"x")
        if method == "TRACE" and code == 200:
            body = b"TRACE / HTTP/1.1\r\n"
        tls.reply(sock, code, [(name, value) for name, value in sent.items() if value is not None], body)

    return handle


HTTP_CASES = {
    "all there": ({}, set(), ()),
    "no HSTS": ({"headers": {"Strict-Transport-Security": None}}, {("TLS-07", "medium")}, ("is missing: GET / (200)",)),
    "no HSTS on 404": (
        {"headers": {"Strict-Transport-Security": None}, "only": 404}, {("TLS-07", "medium")},
        (f"Strict-Transport-Security is missing: GET {http.ABSENT} (404)",),
    ),
    "no HSTS on 413": (
        {"headers": {"Strict-Transport-Security": None}, "only": 413}, {("TLS-07", "medium")}, ("POST / with a huge body (413)",)
    ),
    "no HSTS on 400": (
        {"headers": {"Strict-Transport-Security": None}, "only": 400}, {("TLS-07", "medium")}, ("GET without Host (400)",)
    ),
    "HSTS of an hour": (
        {"headers": {"Strict-Transport-Security": "max-age=3600"}}, {("TLS-07", "medium")}, ("has max-age=3600, less than 63072000",)
    ),
    "HSTS in other words": ({"headers": {"Strict-Transport-Security": 'includeSubDomains ; MAX-AGE="63072000"'}}, set(), ()),
    "preload alone": ({"headers": {"Strict-Transport-Security": "max-age=63072000; preload"}}, {("TLS-07", "medium")}, ("preload",)),
    "no frame protection": (
        {"headers": {"X-Frame-Options": None, "Content-Security-Policy": "default-src 'none'"}}, {("NGX-16", "medium")},
        ("nothing forbids framing",),
    ),
    "framing by policy alone": ({"headers": {"X-Frame-Options": None}}, set(), ()),
    "no nosniff on errors": (
        {"headers": {"X-Content-Type-Options": None}, "only": 404}, {("NGX-16", "medium")}, ("X-Content-Type-Options nosniff is missing",)
    ),
    "redirects need none": (
        {"headers": {name: None for name in GOOD_HEADERS if name.startswith(("X-", "Ref", "Perm", "Cont"))}, "status": {"/": 302}, "only": 302},
        set(), (),
    ),
    "XSS filter on": ({"headers": {"X-XSS-Protection": "1; mode=block"}}, {("NGX-16", "medium")}, ("X-XSS-Protection",)),
    "XSS filter off": ({"headers": {"X-XSS-Protection": "0"}}, set(), ()),
    "policy with unsafe-inline": (
        {"headers": {"Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; base-uri 'none'"}},
        {("NGX-17", "medium")}, ("script-src allows 'unsafe-inline'",),
    ),
    "no policy": ({"headers": {"Content-Security-Policy": None}}, {("NGX-17", "medium")}, ("Content-Security-Policy is missing",)),
    "version in Server": ({"headers": {"Server": "nginx/1.25.3"}}, {("NGX-02", "medium")}, ("Server: nginx/1.25.3",)),
    "Server without version": ({"headers": {"Server": "nginx"}}, set(), ()),
    "X-Powered-By": ({"headers": {"X-Powered-By": "PHP"}}, {("NGX-02", "medium")}, ("X-Powered-By: PHP",)),
    "version in the page": (
        {"pages": {http.ABSENT: b"<hr><center>nginx/1.25.3</center>"}, "status": {http.ABSENT: 404}}, {("NGX-02", "medium")},
        ("page says nginx/1.25.3",),
    ),
    "metrics": ({"pages": {"/metrics": b"# HELP up x\n# TYPE up gauge\n"}}, {("NGX-11", "medium")}, ("GET /metrics is answered",)),
    "repository": ({"pages": {"/.git/config": b"[core]\n\tbare = false"}}, {("NGX-11", "high")}, ("GET /.git/config",)),
    "a page for every path": ({"pages": dict.fromkeys(http.INSIDE, b"<html>app</html>")}, set(), ()),
    "TRACE": ({"status": {"TRACE": 200}}, {("NGX-11", "medium")}, ("TRACE is answered",)),
    "listing": ({"pages": {"/": b"<title>Index of /</title>"}}, {("NGX-11", "medium")}, ("GET / lists a directory",)),
    "foreign names are served": ({"foreign": 200}, {("NGX-05", "medium")}, ("a foreign name in handshake and Host is answered with 200",)),
    "foreign names are closed": ({"foreign": 0}, set(), ()),
    "foreign names are not found": ({"foreign": 404}, set(), ()),
    "open admin page": ({"status": {"/admin": 200}}, {("NGX-13", "critical")}, ("GET /admin is answered with 200 without credentials",)),
}  # fmt: skip


def run_site(tmp_path, root, ca_file, handle, **changes):
    with tls.Server(handle, tls.server_context(tmp_path, [tls.make(issuer=root)])) as server:
        endpoint = probe.Endpoint("127.0.0.1", server.port)
        wanted = {"http": True, "ca_file": ca_file, "protected": ["/admin"], **changes}
        result = core.audit_tls(core.Request(endpoint, ["localhost"], **wanted))
    result["findings"] = [item for item in result["findings"] if item["id"] != "TLS-04"]  # the groups of this OpenSSL
    return result


@pytest.mark.parametrize("case", HTTP_CASES)
def test_http(case, tmp_path, root, ca_file):
    changes, wanted, said = HTTP_CASES[case]
    result = run_site(tmp_path, root, ca_file, site(**{"status": {"/admin": 401}, **changes}))
    assert ids(result) == wanted, evidence(result)
    for text in said:
        assert text in " ".join(evidence(result))
    assert states(result, "unknown") == {"TLS-01"}, reasons(result)


def test_a_foreign_name_that_gets_what_the_real_one_gets_is_unknown(tmp_path, root, ca_file):
    result = run_site(tmp_path, root, ca_file, site(status={"/": 404, "/admin": 401}, foreign=404))
    assert (ids(result), states(result, "unknown")) == (set(), {"TLS-01", "NGX-05"})


def test_more_requests_are_more_classes(tmp_path, root, ca_file):
    handle = site(status={"/v1/models": 401, "/admin": 401}, headers={"Strict-Transport-Security": None}, only=401)
    result = run_site(tmp_path, root, ca_file, handle, requests=[("GET", "/v1/models")])
    assert "Strict-Transport-Security is missing: GET /v1/models (401), GET /admin (401)" in evidence(result)


PLAIN_CASES = {
    "redirects": (lambda path, host: (308, f"https://localhost{path}"), set()),
    "redirects with a port": (lambda path, host: (301, f"https://localhost:8443{path}"), set()),
    "refuses": (lambda path, host: (404, ""), set()),
    "closes": (lambda path, host: (0, ""), set()),
    "serves": (lambda path, host: (200, ""), {("TLS-01", "critical"), ("NGX-05", "medium")}),
    "redirects to itself": (lambda path, host: (301, "http://localhost/x"), {("TLS-01", "critical")}),
    "redirects elsewhere": (lambda path, host: (301, "https://evil.test/"), {("TLS-01", "critical")}),
    "redirects to www": (lambda path, host: (301, "https://www.localhost/"), set()),
    "redirects to whatever is asked for": (lambda path, host: (301, f"https://{host}{path}"), {("NGX-05", "medium")}),
    "serves one path": (
        lambda path, host: (301, "https://localhost/") if path == "/" else (200, ""), {("TLS-01", "critical")}
    ),
    "redirects with an address nobody can read": (lambda path, host: (301, "https://[::1"), {("TLS-01", "critical")}),
}  # fmt: skip


@pytest.mark.parametrize("case", PLAIN_CASES)
def test_port_without_tls(case, tmp_path, root, ca_file):
    decide, wanted = PLAIN_CASES[case]

    def handle(sock):
        _method, path, host = tls.read_request(sock)
        status, target = decide(path, host)
        if status:
            tls.reply(sock, status, [("Location", target)] if target else [])

    with tls.Server(handle) as plain:
        result = run_site(tmp_path, root, ca_file, site(status={"/admin": 401}), http_port=plain.port)
    assert (ids(result), states(result, "unknown")) == (wanted, set()), evidence(result) | {reasons(result)}


def test_hsts_without_tls(tmp_path, root, ca_file):
    def handle(sock):
        tls.read_request(sock)
        tls.reply(sock, 301, [("Location", "https://localhost/"), ("Strict-Transport-Security", "max-age=1")])

    with tls.Server(handle) as plain:
        result = run_site(tmp_path, root, ca_file, site(status={"/admin": 401}), http_port=plain.port)
    assert ids(result) == {("TLS-07", "low")}


def test_closed_port_without_tls_is_right(tmp_path, root, ca_file):
    with tls.Server(lambda sock: None) as plain:
        port = plain.port
    result = run_site(tmp_path, root, ca_file, site(status={"/admin": 401}), http_port=port)
    assert (ids(result), states(result, "unknown")) == (set(), set())


HOSTILE_HTTP = {
    "no HTTP": lambda sock: sock.sendall(b"hello\r\n\r\n"),
    "closes": lambda sock: None,
    "endless head": lambda sock: [sock.sendall(b"A: b\r\n" * 2000) for _line in itertools.count()],
    "a status of its own": lambda sock: sock.sendall(b"HTTP/1.1 999999999999 x\r\n\r\n"),
    "HTTP/0.9": lambda sock: sock.sendall(b"<html>"),
}


@pytest.mark.parametrize("case", HOSTILE_HTTP)
def test_hostile_http(case, tmp_path, root, ca_file):
    def handle(sock):
        tls.read_request(sock)
        HOSTILE_HTTP[case](sock)

    result = run_site(tmp_path, root, ca_file, handle)
    assert ids(result) == set(), evidence(result)
    assert {"TLS-07", "NGX-16", "NGX-17", "NGX-13"} <= states(result, "unknown")


@pytest.mark.parametrize(
    ("policy", "problems"),
    [
        ([], ["is missing"]),
        (["default-src 'none'"], []),
        (["default-src 'self'"], ["does not bound base-uri"]),
        (["default-src *; base-uri 'none'"], ["script-src allows *", "object-src allows *"]),
        (["script-src 'self'; base-uri 'self'"], ["bounds neither object-src nor default-src"]),
        (["default-src 'none'; script-src 'unsafe-inline' 'nonce-abc'"], []),
        (["default-src 'none'; script-src 'unsafe-inline' https: 'strict-dynamic' 'nonce-a'"], []),
        (["default-src 'none'; script-src 'unsafe-eval' 'nonce-abc'"], ["script-src allows 'unsafe-eval'"]),
        (["default-src 'none'; style-src 'unsafe-inline'"], []),
        (["default-src *", "default-src 'none'"], []),
        (["default-src *, default-src 'none'"], []),
        ([";;"], ["bounds neither script-src nor default-src", "bounds neither object-src nor default-src", "does not bound base-uri"]),
    ],
)  # fmt: skip
def test_policy(policy, problems):
    assert http.csp_problems(policy) == problems
