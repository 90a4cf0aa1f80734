# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said about certificates, right and wrong ones."""

from __future__ import annotations

import datetime
import ipaddress

import pytest

pytest.importorskip("cryptography", reason="certificates are read with this library, as on a host")

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

from ansible_collections.mcpstack.platform.plugins.module_utils import _cert_check as core  # noqa: E402

NOW = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "middle", "leaf", "other")}
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make(subject, key, issuer, issuer_key, *, names=(), days=30, start=-1, ca=False, usage=(SERVER,)):
    """Sign a certificate; tests only."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + start * DAY)
        .not_valid_after(NOW + days * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        general = [x509.IPAddress(ipaddress.ip_address(n)) if core.is_address(n) else x509.DNSName(n) for n in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    if usage and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usage)), critical=False)
    algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(issuer_key, algorithm)


def pem(*certificates):
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def key_pem(key, password=None):
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


ROOT = make("root", KEYS["root"], "root", KEYS["root"], ca=True, days=3650)
MIDDLE = make("middle", KEYS["middle"], "root", KEYS["root"], ca=True, days=900)


def leaf(**kwargs):
    kwargs.setdefault("names", ["ai.example.org"])
    return make("ai.example.org", KEYS["leaf"], "middle", KEYS["middle"], **kwargs)


@pytest.mark.parametrize(
    ("chain", "key", "names", "said"),
    [
        ([leaf(), MIDDLE, ROOT], "leaf", ["ai.example.org"], []),
        ([leaf(), MIDDLE], "leaf", ["AI.example.org"], []),
        ([leaf(names=["*.example.org"])], "leaf", ["ai.example.org"], []),
        ([leaf(names=["192.0.2.7"])], "leaf", ["192.0.2.7"], []),
        ([leaf(usage=())], "leaf", ["ai.example.org"], []),
        ([leaf(names=["*.example.org"])], "leaf", ["a.ai.example.org", "example.org"],
         ["the certificate is not for a.ai.example.org, example.org, only for *.example.org"]),
        ([leaf(names=())], "leaf", ["ai.example.org"], ["the certificate is not for ai.example.org, only for no name"]),
        ([leaf()], "other", ["ai.example.org"], ["the key does not belong to the first certificate of the chain"]),
        ([MIDDLE, leaf()], "leaf", ["ai.example.org"],
         ["the chain is in the wrong order: the certificate of the service must come first",
          "the chain is broken: certificate 2 (CN=ai.example.org) did not issue certificate 1 (CN=middle)",
          "the first certificate is one of an authority, not of a service",
          "the certificate is not for ai.example.org, only for no name"]),
        ([leaf(), ROOT], "leaf", ["ai.example.org"],
         ["the chain is broken: certificate 2 (CN=root) did not issue certificate 1 (CN=ai.example.org)"]),
        ([leaf(), make("middle", KEYS["other"], "root", KEYS["root"], ca=True)], "leaf", ["ai.example.org"],
         ["the chain is broken: certificate 2 (CN=middle) did not issue certificate 1 (CN=ai.example.org)"]),
        ([leaf(days=0)], "leaf", ["ai.example.org"], ["certificate 1 of the chain expired on 2026-11-20 12:00 UTC"]),
        ([leaf(), make("middle", KEYS["middle"], "root", KEYS["root"], ca=True, days=0)], "leaf", ["ai.example.org"],
         ["certificate 2 of the chain expired on 2026-11-20 12:00 UTC"]),
        ([leaf(start=1)], "leaf", ["ai.example.org"],
         ["certificate 1 of the chain is not valid before 2026-11-21 12:00 UTC (is the clock right?)"]),
        ([leaf(usage=(CLIENT,))], "leaf", ["ai.example.org"],
         ["the certificate is not meant for a server (extended key usage)"]),
    ],
)  # fmt: skip
def test_certificate_from_outside(chain, key, names, said):
    assert core.check_given(core.Pair(chain, KEYS[key]), names, NOW) == said


@pytest.mark.parametrize(
    ("kwargs", "names", "client", "said"),
    [
        ({}, ["postgres", "localhost"], False, []),
        ({"usage": (SERVER, CLIENT)}, ["postgres", "localhost"], True, []),
        ({"days": 10.1}, ["postgres", "localhost"], False, []),
        ({"days": 10}, ["postgres", "localhost"], False, ["it has 10.0 days left"]),
        ({"days": 0}, ["postgres", "localhost"], False, ["it expired on 2026-11-20 12:00 UTC"]),
        ({"start": 1}, ["postgres", "localhost"], False,
         ["it is not valid before 2026-11-21 12:00 UTC (is the clock right?)"]),
        ({}, ["postgres"], False, ["its names changed"]),
        ({}, ["localhost", "postgres"], False, ["its subject changed"]),
        ({}, ["postgres", "localhost"], True, ["its extended key usage changed"]),
    ],
)  # fmt: skip
def test_internal_leaf(kwargs, names, client, said):
    certificate = make("postgres", KEYS["leaf"], "root", KEYS["root"], names=["postgres", "localhost"], **kwargs)
    assert core.check_internal(core.Pair([certificate], KEYS["leaf"]), ROOT, names, client, NOW, 10) == said


def test_internal_leaf_of_a_former_authority():
    """Same name, other key: only the signature tells."""
    certificate = make("postgres", KEYS["leaf"], "root", KEYS["other"], names=["postgres"])
    said = core.check_internal(core.Pair([certificate], KEYS["leaf"]), ROOT, ["postgres"], False, NOW, 10)
    assert said == ["it was not issued by the internal authority"]


@pytest.mark.parametrize(
    "issuer_key",
    [rsa.generate_private_key(public_exponent=65537, key_size=2048), ed25519.Ed25519PrivateKey.generate()],
    ids=["RSA", "Ed25519"],
)
def test_signatures_of_other_kinds(issuer_key):
    issuer = make("other", issuer_key, "other", issuer_key, ca=True)
    assert core.issued_by(make("x", KEYS["leaf"], "other", issuer_key), issuer)
    assert not core.issued_by(make("x", KEYS["leaf"], "other", KEYS["root"]), ROOT)


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        (ROOT, "root", []),
        (ROOT, "other", ["the key does not belong to the certificate"]),
        (leaf(), "leaf", ["the certificate is not one of an authority"]),
        (make("root", KEYS["root"], "root", KEYS["root"], ca=True, days=0), "root",
         ["the certificate expired on 2026-11-20 12:00 UTC"]),
    ],
)  # fmt: skip
def test_authority(certificate, key, said):
    assert core.check_authority(certificate, KEYS[key], NOW) == said


@pytest.mark.parametrize(
    ("load", "data", "said"),
    [
        (core.load_chain, b"", "there is no certificate in PEM form in it"),
        (core.load_chain, key_pem(KEYS["leaf"]), "there is no certificate in PEM form in it"),
        (core.load_chain, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "a certificate in it is damaged"),
        (core.load_key, b"", "there is no private key in PEM form in it"),
        (core.load_key, pem(ROOT), "there is no private key in PEM form in it"),
        (core.load_key, key_pem(KEYS["leaf"], b"x"),
         "the key is protected with a passphrase; a service that starts alone cannot type it"),
    ],
)  # fmt: skip
def test_bytes_that_cannot_be_read(load, data, said):
    with pytest.raises(core.CertError) as error:
        load(data)
    assert str(error.value) == said


@pytest.mark.parametrize(("days", "due"), [(60, False), (31, False), (29, True), (-1, True)])
def test_due_when_a_third_is_left(days, due):
    certificate = make("x", KEYS["leaf"], "root", KEYS["root"], start=days - 90, days=days)
    assert core.due_at_third(certificate, NOW) is due


def test_fingerprint_is_the_one_that_openssl_shows():
    assert core.fingerprint(ROOT) == ROOT.fingerprint(hashes.SHA256()).hex()
