# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates in their places: what is issued, placed, kept and refused, and that a killed run is finished."""

from __future__ import annotations

import datetime
import os

import pytest

pytest.importorskip("cryptography", reason="certificates are read with this library, as on a host")

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

from ansible_collections.mcpstack.platform.plugins.module_utils import _cert_check as check  # noqa: E402
from ansible_collections.mcpstack.platform.plugins.module_utils import _files  # noqa: E402
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_leaves as core  # noqa: E402
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.crash import Killed, KilledAt  # noqa: E402
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.trees import snapshot  # noqa: E402

NOW = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.timezone.utc)
ME = os.geteuid()
UID = ME or 64104
PUBLIC = "ai.example.org"


def sign(path, key, issuer_key, subject, issuer, *, names=(), usage=(), days=30, start=NOW, ca=False):
    """What community.crypto does on a host."""
    by_name = {"serverAuth": ExtendedKeyUsageOID.SERVER_AUTH, "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH}
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - datetime.timedelta(minutes=5))
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage([by_name[u] for u in usage]), critical=False)
    path.write_bytes(builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def write_key(path, key=None):
    key = key or ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    path.chmod(0o600)
    return key


def read_key(path):
    return serialization.load_pem_private_key(path.read_bytes(), password=None)


class Host:
    def __init__(self, root) -> None:
        self.root = root
        self.pki = root / "var/lib/mcpstack/pki"
        self.now = NOW

    def look(self, leaves, trust=(), dry=False):
        store = core.Leaves(str(self.root), self.now)
        store.apply(list(leaves), list(trust), 10, dry)
        return store

    def run(self, leaves, trust=()):
        """The whole role: look, issue, place."""
        first = self.look(leaves, trust)
        if first.issue:
            self.issue(first.issue)
            return self.look(leaves, trust)
        return first

    def issue(self, items):
        ca_key, ca_crt = self.pki / "ca/ca.key", self.pki / "ca/ca.crt"
        if not ca_crt.exists():
            key = read_key(ca_key) if ca_key.exists() else write_key(ca_key)
            sign(ca_crt, key, key, "CA", "CA", days=3650, start=self.now, ca=True)
        for item in items:
            path = self.root / item["key"].removeprefix(str(self.root)).lstrip("/")
            key = write_key(path) if item["new_key"] else read_key(path)
            names = [name.removeprefix("DNS:") for name in item["names"]]
            kwargs = {"names": names, "usage": item["usage"], "start": self.now}
            target = self.root / item["certificate"].removeprefix(str(self.root)).lstrip("/")
            sign(target, key, read_key(ca_key), item["common_name"], "CA", **kwargs)

    def order(self, names=(PUBLIC,), days=90):
        """What acme_certificate leaves behind."""
        outside = ec.generate_private_key(ec.SECP256R1())
        key = write_key(self.pki / "acme/tls.key")
        sign(self.pki / "acme/chain.pem", key, outside, PUBLIC, "ACME", names=names, days=days, start=self.now)

    def current(self, service):
        return self.pki / "leaves" / service / "current"

    def snapshot(self):
        return snapshot(self.root)


LEAVES = [
    {"service": "postgres", "uid": UID},
    {"service": "valkey", "uid": UID, "client": True},
    {"service": "edge", "uid": UID, "names": [PUBLIC]},
]
TRUST = [{"service": "gateway", "uid": UID}]


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """The disk need not keep what these tests write."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_first_run_says_what_to_issue(host):
    store = host.look(LEAVES, TRUST)
    folder = host.pki / "staging/valkey"
    assert store.issue[1] == {
        "service": "valkey",
        "reason": "there is no internal authority yet",
        "common_name": "valkey",
        "names": ["DNS:valkey", "DNS:localhost"],
        "usage": ["serverAuth", "clientAuth"],
        "key": f"{folder}/tls.key",
        "new_key": True,
        "certificate": f"{folder}/tls.crt",
    }
    assert store.fingerprints == dict.fromkeys(["postgres", "valkey", "edge", "gateway"], "pending")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_was_issued_lands_with_owner_and_mode(host):
    store = host.run(LEAVES, TRUST)
    assert store.issue == []
    for service in ("postgres", "valkey", "edge"):
        place = host.current(service)
        assert os.readlink(place) == "v1"
        key = (place / "tls.key").stat()
        assert (key.st_mode & 0o777, key.st_uid, key.st_gid) == (0o400, UID, UID)
        assert (place / "tls.crt").stat().st_mode & 0o777 == 0o444
        assert (place / "ca.crt").read_bytes() == (host.pki / "ca/ca.crt").read_bytes()
        assert len(store.fingerprints[service]) == 64
    assert sorted(os.listdir(host.current("gateway"))) == ["ca.crt"]
    assert (host.root / "etc/mcpstack/ca.crt").stat().st_mode & 0o777 == 0o644
    assert os.listdir(host.pki / "staging") == []


def test_second_run_changes_nothing(host):
    first = host.run(LEAVES, TRUST)
    before = host.snapshot()
    second = host.look(LEAVES, TRUST)
    assert (second.actions, second.issue, second.fingerprints) == ([], [], first.fingerprints)
    assert host.snapshot() == before


def test_check_mode_on_a_bare_host_writes_nothing(host):
    store = host.look(LEAVES, TRUST, dry=True)
    assert len(store.issue) == 3
    assert host.snapshot() == {}


def test_renewal_keeps_key_and_directory(host):
    host.run(LEAVES, TRUST)
    key = (host.current("postgres") / "tls.key").read_bytes()
    old = (host.current("postgres") / "tls.crt").read_bytes()
    inode = (host.current("postgres") / "tls.key").stat().st_ino
    host.now += datetime.timedelta(days=20)
    looked = host.look(LEAVES, TRUST, dry=True)
    assert [(item["service"], item["new_key"], item["reason"]) for item in looked.issue] == [
        (service, False, "it has 10.0 days left") for service in ("postgres", "valkey", "edge")
    ]
    host.run(LEAVES, TRUST)
    assert os.readlink(host.current("postgres")) == "v1"
    assert (host.current("postgres") / "tls.key").read_bytes() == key
    assert (host.current("postgres") / "tls.key").stat().st_ino == inode
    assert (host.current("postgres") / "tls.crt").read_bytes() != old
    assert host.look(LEAVES, TRUST).actions == []


@pytest.mark.parametrize(
    ("spoil", "reason", "version"),
    [
        (lambda place: (place / "tls.key").unlink(), "it is the first", "v2"),
        (lambda place: (place / "tls.crt").write_bytes(b"x"), "it is the first", "v1"),
        (lambda place: write_key(place / "tls.key"), "its key does not belong to it", "v1"),
    ],
)
def test_lost_or_foreign_parts_are_issued_again(host, spoil, reason, version):
    host.run(LEAVES)
    place = host.current("postgres")
    (place / "tls.key").chmod(0o600)
    (place / "tls.crt").chmod(0o600)
    spoil(place)
    looked = host.look(LEAVES)
    assert [(item["service"], item["reason"]) for item in looked.issue] == [("postgres", reason)]
    store = host.run(LEAVES)
    assert store.issue == []
    assert os.readlink(place) == version
    assert sorted(os.listdir(place.parent)) == ["current", version]
    assert host.look(LEAVES).actions == []


def test_new_authority_replaces_everything_at_once(host):
    host.run(LEAVES, TRUST)
    (host.pki / "ca/ca.crt").unlink()
    (host.pki / "ca/ca.key").unlink()
    store = host.run(LEAVES, TRUST)
    assert store.issue == []
    assert {os.readlink(host.current(s)) for s in ("postgres", "valkey", "edge", "gateway")} == {"v2"}
    assert (host.root / "etc/mcpstack/ca.crt").read_bytes() == (host.pki / "ca/ca.crt").read_bytes()


def test_names_that_change_are_issued_again(host):
    host.run(LEAVES)
    changed = [*LEAVES[:2], {**LEAVES[2], "names": [PUBLIC, "www.example.org"]}]
    assert [item["reason"] for item in host.look(changed).issue] == ["its names changed"]


def test_service_that_is_gone_loses_its_key(host):
    host.run(LEAVES, TRUST)
    store = host.look(LEAVES[:2])
    assert store.actions == [f"removed {host.pki}/leaves/edge", f"removed {host.pki}/leaves/gateway"]
    assert sorted(os.listdir(host.pki / "leaves")) == ["postgres", "valkey"]


def test_owner_and_mode_are_repaired(host):
    host.run(LEAVES, TRUST)
    before = host.snapshot()
    (host.current("postgres") / "tls.key").chmod(0o644)
    (host.pki / "ca/ca.key").chmod(0o644)
    (host.pki / "ca").chmod(0o755)
    (host.current("gateway") / "stray").write_text("x")
    assert len(host.look(LEAVES, TRUST).actions) == 4
    assert host.snapshot() == before


RESTORE = "restore it from the backup, or remove the directory: every service and every client then needs the new one"


def test_authority_without_its_key_is_refused(host):
    host.run(LEAVES)
    (host.pki / "ca/ca.key").unlink()
    before = host.snapshot()
    with pytest.raises(core.TlsError) as error:
        host.look(LEAVES)
    assert str(error.value) == f"{host.pki}/ca/ca.key: the key of the internal authority is missing; {RESTORE}."
    assert host.snapshot() == before


def test_authority_with_another_key_is_refused(host):
    host.run(LEAVES)
    write_key(host.pki / "ca/ca.key")
    with pytest.raises(core.TlsError) as error:
        host.look(LEAVES)
    assert str(error.value) == (
        f"{host.pki}/ca: the internal authority is not usable: the key does not belong to the certificate; {RESTORE}."
    )


def test_authority_that_expires_soon_is_warned_about(host):
    host.run(LEAVES)
    host.now += datetime.timedelta(days=3600)
    assert host.look(LEAVES).warnings == [f"The internal authority ({host.pki}/ca/ca.crt) expires in 50 days."]


@pytest.mark.parametrize(
    ("leaves", "trust", "message"),
    [
        ([{"service": "A/b", "uid": 1, "names": ["a"]}], [],
         "leaves[0] (A/b): 'A/b' is not a name of a service; use lower-case letters, digits and dashes."),
        ([{"service": "a", "uid": 1}], [{"service": "a", "uid": 1}],
         "leaves[0] (a): the service is listed twice; list each service once.\n"
         "trust_only[0] (a): the service is listed twice; list each service once."),
        ([{"service": "a", "uid": -1}], [], "leaves[0] (a): uid is -1; give the numeric uid of the service."),
        ([{"service": "a", "uid": 1, "names": ["a b"]}], [],
         "leaves[0] (a): 'a b' is not a DNS name or an address; correct the name."),
        ([{"service": "a", "uid": 1, "source": "files", "chain": "/x"}], [],
         "leaves[0] (a): the source files needs chain and key; give both paths on the host."),
    ],
)  # fmt: skip
def test_wrong_request_is_named(host, leaves, trust, message):
    with pytest.raises(core.TlsError) as error:
        host.look(leaves, trust)
    assert str(error.value) == message
    assert host.snapshot() == {}


# -- the operator's files ---------------------------------------------------------------------------------------------


@pytest.fixture
def given(host):
    folder = host.root / "given"
    folder.mkdir()
    key = write_key(folder / "key.pem", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    outside = ec.generate_private_key(ec.SECP256R1())
    sign(folder / "chain.pem", key, outside, PUBLIC, "Outside", names=[PUBLIC], days=90)
    files = {"source": "files", "chain": str(folder / "chain.pem"), "key": str(folder / "key.pem")}
    return [*LEAVES[:2], {**LEAVES[2], **files}]


def test_files_of_the_operator_land(host, given):
    host.run(LEAVES)
    store = host.run(given)
    assert store.actions == [
        "edge: a new certificate, because it was replaced",
        "switched edge to v2",
        f"removed {host.pki}/leaves/edge/v1",
    ]
    assert (host.current("edge") / "tls.key").read_bytes() == (host.root / "given/key.pem").read_bytes()
    assert host.look(given).actions == []


def test_wrong_files_are_refused_and_the_certificate_in_use_stays(host, given):
    host.run(LEAVES)
    before = host.snapshot()
    given[2]["names"] = [PUBLIC, "www.example.org"]
    write_key(host.root / "given/key.pem")
    with pytest.raises(core.TlsError) as error:
        host.look(given)
    chain = given[2]["chain"]
    fix = "give edge a certificate that is right; the one in use stays"
    assert str(error.value) == (
        f"{chain}: the key does not belong to the first certificate of the chain; {fix}.\n"
        f"{chain}: the certificate is not for www.example.org, only for {PUBLIC}; {fix}."
    )
    assert {k: v for k, v in host.snapshot().items() if "/given" not in k} == {
        k: v for k, v in before.items() if "/given" not in k
    }


def test_missing_files_are_both_named(host, given):
    given[2].update(chain="/absent/chain", key="/absent/key")
    with pytest.raises(core.TlsError) as error:
        host.look(given)
    assert str(error.value) == (
        "/absent/chain: the chain for edge is not there; put the file there.\n"
        "/absent/key: the key for edge is not there; put the file there."
    )


def test_dry_run_waits_for_files_that_the_run_would_bring(host):
    brought = {"source": "files", "chain": f"{host.pki}/edge-files/chain.pem", "key": f"{host.pki}/edge-files/tls.key"}
    leaves = [*LEAVES[:2], {**LEAVES[2], **brought}]
    store = host.look(leaves, dry=True)
    assert "edge: the certificate that is brought from the controller" in store.actions
    assert store.fingerprints["edge"] == "pending"
    with pytest.raises(core.TlsError):
        host.look(leaves)


def test_files_brought_from_the_controller_go_when_they_are_not_used(host):
    host.run(LEAVES)
    (host.pki / "edge-files").mkdir()
    (host.pki / "edge-files/tls.key").write_text("x")
    assert host.look(LEAVES).actions == [f"removed {host.pki}/edge-files"]
    assert not (host.pki / "edge-files").exists()


# -- ACME -------------------------------------------------------------------------------------------------------------

ACME = [*LEAVES[:2], {**LEAVES[2], "source": "acme"}]


def test_internal_certificate_stands_in_until_the_first_order(host):
    store = host.run(ACME)
    assert store.issue == []
    assert host.look(ACME).acme_due == "the internal certificate stands in for it"
    assert check.load_chain((host.current("edge") / "tls.crt").read_bytes())[0].issuer.rfc4514_string() == "CN=CA"


def test_ordered_certificate_is_placed_kept_and_renewed(host):
    host.run(ACME)
    host.order()
    store = host.look(ACME)
    assert store.acme_due == ""
    assert "edge: a new certificate, because it was ordered" in store.actions
    again = host.look(ACME)
    assert (again.actions, again.issue, again.acme_due) == ([], [], "")
    host.now += datetime.timedelta(days=61)
    later = host.look(ACME)
    assert later.acme_due == "it expires on 2027-02-18"
    assert [item["service"] for item in later.issue] == ["postgres", "valkey"]
    host.order()
    assert host.look(ACME).acme_due == ""


def test_expired_certificate_from_outside_is_not_replaced_by_an_internal_one(host):
    host.run(ACME)
    host.order()
    host.look(ACME)
    host.now += datetime.timedelta(days=91)
    store = host.look(ACME)
    assert store.warnings == ["The certificate of edge expired on 2027-02-18."]
    assert "edge" not in [item["service"] for item in store.issue]
    assert store.acme_due == "it expires on 2027-02-18"


def test_order_that_lacks_a_name_is_not_placed(host):
    more = [*LEAVES[:2], {**LEAVES[2], "source": "acme", "names": [PUBLIC, "www.example.org"]}]
    host.run(more)
    host.order()
    assert host.look(more).acme_due == "the internal certificate stands in for it"


def test_back_to_the_internal_authority(host):
    host.run(ACME)
    host.order()
    host.look(ACME)
    store = host.run(LEAVES)
    assert store.issue == []
    assert check.load_chain((host.current("edge") / "tls.crt").read_bytes())[0].issuer.rfc4514_string() == "CN=CA"


def test_remove_leaves_nothing(host):
    host.run(ACME, TRUST)
    store = core.Leaves(str(host.root), NOW)
    store.remove()
    assert not host.pki.exists()
    assert not (host.root / "etc/mcpstack/ca.crt").exists()


# -- killed at any step -----------------------------------------------------------------------------------------------


def usable(host, service):
    """A service that starts now finds a certificate and the key that belongs to it, or nothing at all."""
    place = host.current(service)
    if not place.exists():
        return
    chain = check.load_chain((place / "tls.crt").read_bytes())
    assert check.belongs(chain[0], check.load_key((place / "tls.key").read_bytes()))
    assert (place / "ca.crt").exists()


def story_first(host):
    host.issue(host.look(LEAVES, TRUST).issue)


def story_renewal(host):
    host.run(LEAVES, TRUST)
    host.now += datetime.timedelta(days=20)
    host.issue(host.look(LEAVES, TRUST).issue)


def story_new_authority(host):
    host.run(LEAVES, TRUST)
    (host.pki / "ca/ca.crt").unlink()
    (host.pki / "ca/ca.key").unlink()
    host.issue(host.look(LEAVES, TRUST).issue)


@pytest.mark.parametrize("story", [story_first, story_renewal, story_new_authority])
def test_killed_at_any_step_the_next_run_finishes(tmp_path, monkeypatch, story):
    steps = 0
    while True:
        host = Host(tmp_path / str(steps))
        host.root.mkdir()
        story(host)
        with monkeypatch.context() as patch:
            dying = KilledAt(steps)
            patch.setattr(core, "os", dying)
            patch.setattr(_files, "os", dying)
            try:
                host.look(LEAVES, TRUST)
                killed = False
            except Killed:
                killed = True
        for service in ("postgres", "valkey", "edge"):
            usable(host, service)
        store = host.run(LEAVES, TRUST)
        assert store.issue == []
        assert host.look(LEAVES, TRUST).actions == []
        assert not [path for path in host.snapshot() if "/.new-" in path]
        if not killed:
            break
        steps += 1
    assert steps > 10
