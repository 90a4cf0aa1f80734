# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The secret store: what it refuses, what it makes, and that a run killed at any step is finished by the next."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import zlib

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _secret_store as core
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.crash import Killed, KilledAt
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.trees import snapshot

ME = os.geteuid()
# root writes into directories of mode 0500 as the store does on a host; anybody else needs the w bit on his own
DIR_MODE = 0o500 if ME == 0 else 0o700
GATEWAY = {"service": "gateway", "uid": ME or 64102}
VALKEY = {"service": "valkey", "uid": ME or 64105}
ACL = "user default off\nuser gateway on #{sha256:valkey-gateway} ~* +@all\nuser op on #{sha256:valkey-op} +@all\n"


class FakeCreds:
    """Binds a value to its name and notices a changed byte, as systemd-creds does."""

    def __init__(self) -> None:
        self.absent: list[dict] = []

    def missing(self) -> list[dict]:
        return self.absent

    def encrypt(self, name: str, value: bytes) -> bytes:
        body = base64.b85encode(name.encode() + b"\0" + value)
        return body + b"." + hashlib.sha256(body).hexdigest().encode()

    def decrypt(self, name: str, sealed: bytes) -> bytes:
        body, _dot, digest = sealed.partition(b".")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise core.CredentialError("Decryption failed (incorrect key?): Bad message")
        embedded, _nul, value = base64.b85decode(body).partition(b"\0")
        if embedded.decode() != name:
            raise core.CredentialError(
                f"Embedded credential name '{embedded.decode()}' does not match '{name}', refusing."
            )
        return value


class Host:
    """A directory that stands for a host."""

    def __init__(self, root) -> None:
        self.root = root
        self.tool = FakeCreds()
        self.boot()

    def boot(self) -> None:
        """Lose what was in memory."""
        published = self.root / "run/mcpstack/secrets"
        if published.exists():
            core.wipe(str(published))
        published.mkdir(parents=True)

    def store(self) -> core.Store:
        store = core.Store(str(self.root), self.tool, DIR_MODE)
        store.tmpfs = lambda: {"noswap": True}
        return store

    def apply(self, definitions, check=False):
        store = self.store()
        described = store.apply(definitions, check)
        return store, described

    def credential(self, label):
        return self.root / "etc/credstore.encrypted" / f"mcpstack.{label}"

    def value(self, service, name):
        return (self.root / "run/mcpstack/secrets" / service / name / "current").read_bytes()

    def manifest(self):
        return json.loads((self.root / "etc/mcpstack/secrets.json").read_text())

    def snapshot(self):
        return snapshot(self.root)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """The disk need not keep what these tests write."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def definitions(tmp_path=None):
    wanted = [
        {"name": "valkey-acl", "kind": "valkey_acl", "template": ACL, "consumers": [VALKEY]},
        {"name": "gateway-db", "kind": "postgres_login", "role": "gateway_a", "consumers": [GATEWAY]},
        {"name": "valkey-gateway", "kind": "password", "consumers": [GATEWAY]},
        {"name": "valkey-op", "kind": "password", "length": 64, "consumers": [VALKEY]},
        {"name": "model-api-key", "kind": "token", "consumers": [GATEWAY]},
        {"name": "gateway-pepper", "kind": "hex32", "consumers": [GATEWAY]},
        {"name": "first-key", "kind": "api_key", "env": "prod", "consumers": [GATEWAY]},
    ]
    if tmp_path is not None:
        (tmp_path / "given").write_bytes(b"hf_given\n")
        (tmp_path / "given").chmod(0o600)
        wanted.append({"name": "hub-token", "kind": "file", "source": str(tmp_path / "given"), "consumers": [GATEWAY]})
    return wanted


# -- the list ---------------------------------------------------------------------------------------------------------

GOOD = {"name": "a", "kind": "password"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"name": "A b", "kind": "token"}],
         "secrets[0] (A b): 'A b' is not a name; use lower-case letters, digits and dashes, at most 63."),
        ([{"name": "../x", "kind": "token"}],
         "secrets[0] (../x): '../x' is not a name; use lower-case letters, digits and dashes, at most 63."),
        ([{"name": "fingerprint-key", "kind": "token"}],
         "secrets[0] (fingerprint-key): the name fingerprint-key is used by the store itself; choose another name."),
        ([GOOD, GOOD], "secrets[1] (a): the name is in the list twice; give every secret its own name."),
        ([{"name": "a", "kind": "pin"}],
         "secrets[0] (a): the kind 'pin' does not exist; use one of password, token, hex32, postgres_login, api_key, "
         "valkey_acl, file."),
        ([{"name": "a", "kind": "postgres_login"}], "secrets[0] (a): a postgres_login needs role; add role."),
        ([{"name": "a", "kind": "postgres_login", "role": "x;drop"}],
         "secrets[0] (a): 'x;drop' is not a name of a database role; use lower-case letters, digits and underscores, "
         "at most 63."),
        ([{"name": "a", "kind": "password", "role": "b"}], "secrets[0] (a): a password has no role; remove role."),
        ([{"name": "a", "kind": "password", "length": 31}], "secrets[0] (a): length is 31; use 32 to 512."),
        ([{"name": "a", "kind": "api_key", "env": "test"}],
         "secrets[0] (a): env is 'test'; use one of dev, stg, prod."),
        ([{"name": "a", "kind": "file", "source": "x"}],
         "secrets[0] (a): source 'x' is not an absolute path; give the path on the host."),
        ([{"name": "a", "kind": "valkey_acl", "template": "user a on #{sha256:b}"}],
         "secrets[0] (a): the template names 'b', which is not in the list; add that secret, or correct the name."),
        ([{"name": "a", "kind": "valkey_acl", "template": "user a on nopass"}],
         "secrets[0] (a): the template names no secret; write passwords as #{sha256:NAME}."),
        ([{"name": "a", "kind": "valkey_acl", "template": "# {sha256:a}"}],
         'secrets[0] (a): the template is not a list of ACL users; begin each line with "user NAME".'),
        ([{"name": "a", "kind": "valkey_acl", "template": "user a on #{sha256:a}"}],
         "secrets[0] (a): the template names 'a', which is derived itself; name the secrets it is derived from."),
        ([{**GOOD, "consumers": [{"service": "s", "uid": 5}, {"service": "s", "uid": 5}]}],
         "secrets[0] (a).consumers (s): the service is in the list twice.\n" * 2 + "For these: name each service once."),
        ([{**GOOD, "consumers": [{"service": "s/..", "uid": 5}]}],
         "secrets[0] (a).consumers (s/..): 's/..' is not a name of a service; use lower-case letters, digits and dashes."),
        ([{**GOOD, "consumers": [{"service": "s", "uid": 0}]}],
         "secrets[0] (a).consumers (s): uid is 0; uid 0 belongs to the consumer operator and to no other."),
        ([{**GOOD, "consumers": [{"service": "operator", "uid": 5}]}],
         "secrets[0] (a).consumers (operator): uid is 5; uid 0 belongs to the consumer operator and to no other."),
        ([{**GOOD, "consumers": [{"service": "s", "uid": -1}]}],
         "secrets[0] (a).consumers (s): uid is -1; give the numeric uid of the service."),
        ([{**GOOD, "consumers": [{"service": "s", "uid": 5}]},
          {"name": "b", "kind": "token", "consumers": [{"service": "s", "uid": 6}]}],
         "secrets[1] (b).consumers (s): uid is 6 here and 5 elsewhere; give a service the same uid everywhere."),
    ],
)  # fmt: skip
def test_wrong_definition_is_named_and_nothing_changes(host, given, message):
    before = host.snapshot()
    with pytest.raises(core.SecretError) as error:
        host.apply(given)
    assert str(error.value) == message.rstrip("\n")
    assert host.snapshot() == before


def test_all_problems_come_at_once(host):
    with pytest.raises(core.SecretError) as error:
        host.apply([{"name": "A", "kind": "x"}, {"name": "b", "kind": "api_key"}])
    assert len(error.value.problems) == 3


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "shape"),
    [
        ({"kind": "password"}, r"[A-Za-z0-9]{40}"),
        ({"kind": "password", "length": 32}, r"[A-Za-z0-9]{32}"),
        ({"kind": "token"}, r"[A-Za-z0-9]{64}"),
        ({"kind": "hex32"}, r"7:[0-9a-f]{64}"),
        ({"kind": "postgres_login", "role": "gateway_a"}, r"gateway_a:[A-Za-z0-9]{40}"),
        ({"kind": "api_key", "env": "stg"}, r"mk_stg_[a-z2-7]{12}_[A-Za-z0-9]{43}_[0-9a-f]{8}"),
    ],
)
def test_generated_values_have_their_format_and_differ(definition, shape):
    values = {core.generate(definition, 7) for _ in range(20)}
    assert len(values) == 20
    for value in values:
        assert re.fullmatch(shape, value.decode())
        assert core.fits(definition, value)


def test_api_key_carries_the_crc_of_everything_before_it():
    body, crc = core.generate({"kind": "api_key", "env": "dev"}, 1).rsplit(b"_", 1)
    assert int(crc, 16) == zlib.crc32(body)
    assert not core.fits({"kind": "api_key", "env": "dev"}, body + b"_00000000")


def test_derived_value_has_hashes_and_no_newline_at_the_end():
    text = core.derive("user a on #{sha256:x} +@all\nuser b on #{sha256:y}\n", {"x": b"1", "y": b"2"})
    one, two = (hashlib.sha256(v).hexdigest() for v in (b"1", b"2"))
    assert text.decode() == f"user a on #{one} +@all\nuser b on #{two}"


# -- the store --------------------------------------------------------------------------------------------------------


def test_first_run_stores_publishes_and_tells_no_value(host, tmp_path):
    store, described = host.apply(definitions(tmp_path))
    values = {d["name"]: host.value(d["consumers"][0]["service"], d["name"]) for d in definitions(tmp_path)}
    assert values["hub-token"] == b"hf_given"
    digest = hashlib.sha256(values["valkey-gateway"]).hexdigest().encode()
    assert b"user gateway on #" + digest + b" ~* +@all\n" in values["valkey-acl"]
    told = json.dumps([described, store.actions, store.warnings]) + json.dumps(host.manifest())
    for name, value in values.items():
        assert value.decode() not in told
        assert hashlib.sha256(value).hexdigest() not in told
        assert host.credential(f"{name}.v1").stat().st_mode & 0o7777 == 0o600
    assert [sorted(item) for item in described] == [["created", "fingerprint", "kind", "name", "state", "version"]] * 8
    assert "created gateway-db v1" in store.actions
    assert "published gateway-db v1 for gateway" in store.actions


def test_published_files_belong_to_the_consumer_alone(host):
    host.apply(definitions())
    for service, uid in (("gateway", GATEWAY["uid"]), ("valkey", VALKEY["uid"])):
        folder = host.root / "run/mcpstack/secrets" / service
        for path in [folder, *folder.iterdir()]:
            info = path.stat()
            assert (info.st_mode & 0o7777, info.st_uid, info.st_gid) == (DIR_MODE, uid, uid)
        for path in folder.glob("*/v1"):
            info = path.lstat()
            assert (info.st_mode & 0o7777, info.st_uid, info.st_gid) == (0o400, uid, uid)
            assert os.readlink(path.parent / "current") == "v1"
    manifest = (host.root / "etc/mcpstack/secrets.json").stat()
    assert manifest.st_mode & 0o7777 == 0o600


def test_second_run_changes_nothing(host, tmp_path):
    _store, first = host.apply(definitions(tmp_path))
    before = host.snapshot()
    store, second = host.apply(definitions(tmp_path))
    assert store.actions == []
    assert second == first
    assert host.snapshot() == before


def test_check_mode_predicts_and_writes_nothing_even_on_a_bare_host(tmp_path):
    bare = core.Store(str(tmp_path / "bare"), FakeCreds(), DIR_MODE)
    bare.tool.absent = [core.problem("systemd-creds", "absent", "install")]
    described = bare.apply(definitions(), check=True)
    assert not (tmp_path / "bare").exists()
    assert {item["fingerprint"] for item in described} == {None}
    assert {"created gateway-db v1", "published gateway-db v1 for gateway"} <= set(bare.actions)


def test_check_mode_predicts_exactly_what_the_run_does(host):
    host.apply(definitions())
    changed = definitions()
    changed[2]["consumers"] = [GATEWAY, VALKEY]
    changed.append({"name": "new", "kind": "token", "consumers": [VALKEY]})
    (host.root / "run/mcpstack/secrets/gateway/gateway-db/v1").chmod(0o444)
    before = host.snapshot()
    predicted, _described = host.apply(changed, check=True)
    assert host.snapshot() == before
    done, _described = host.apply(changed)
    assert predicted.actions == done.actions
    assert len(done.actions) == 5


def test_values_are_made_on_the_tmpfs_only(host):
    store = host.store()
    store.tmpfs = lambda: None
    with pytest.raises(
        core.SecretError, match="no tmpfs is mounted here, so secrets would land on a disk; start run-mcp"
    ):
        store.apply(definitions())
    assert not (host.root / "etc").exists()


def test_a_host_without_the_tool_is_refused(host):
    host.tool.absent = [core.problem("systemd-creds", "the program is not on this host", "upgrade")]
    with pytest.raises(core.SecretError) as error:
        host.apply(definitions())
    assert str(error.value) == "systemd-creds: the program is not on this host; upgrade."
    assert not (host.root / "etc").exists()


def test_after_a_restart_the_same_values_come_back(host, tmp_path):
    host.apply(definitions(tmp_path))
    before = host.snapshot()
    host.boot()
    assert host.store().publish_at_boot() == []
    assert host.snapshot() == before


def test_boot_without_any_secret_is_fine(host):
    assert host.store().publish_at_boot() == []


# -- consumers --------------------------------------------------------------------------------------------------------


def test_consumer_added_later_gets_the_value_and_a_removed_one_loses_it(host):
    host.apply(definitions())
    value = host.value("gateway", "valkey-gateway")
    wanted = definitions()
    wanted[2]["consumers"] = [VALKEY]
    store, _described = host.apply(wanted)
    assert host.value("valkey", "valkey-gateway") == value
    assert not (host.root / "run/mcpstack/secrets/gateway/valkey-gateway").exists()
    assert store.actions == [
        "consumers of valkey-gateway",
        "wiped valkey-gateway of gateway",
        "published valkey-gateway v1 for valkey",
    ]


def test_directory_of_a_service_keeps_its_inode(host):
    """A running container has it mounted."""
    host.apply(definitions())
    inode = (host.root / "run/mcpstack/secrets/gateway").stat().st_ino
    wanted = [*definitions(), {"name": "more", "kind": "token", "consumers": [GATEWAY]}]
    host.apply(wanted)
    assert (host.root / "run/mcpstack/secrets/gateway").stat().st_ino == inode


def test_secret_off_the_list_is_unpublished_kept_and_comes_back_with_its_value(host):
    host.apply(definitions())
    value = host.value("gateway", "gateway-pepper")
    without = [d for d in definitions() if d["name"] != "gateway-pepper"]
    store, described = host.apply(without)
    assert "gateway-pepper is no longer used, its encrypted value is kept" in store.actions
    assert {d["name"]: d["state"] for d in described}["gateway-pepper"] == "unused"
    assert not (host.root / "run/mcpstack/secrets/gateway/gateway-pepper").exists()
    assert host.apply(without)[0].actions == []
    store, _described = host.apply(definitions())
    assert "gateway-pepper is used again" in store.actions
    assert host.value("gateway", "gateway-pepper") == value


def test_unused_secret_is_forgotten_when_its_file_is_removed(host):
    host.apply(definitions())
    without = [d for d in definitions() if d["name"] != "gateway-pepper"]
    host.apply(without)
    host.credential("gateway-pepper.v1").unlink()
    store, described = host.apply(without)
    assert store.actions == ["forgot gateway-pepper: it is not used, and its encrypted value is gone"]
    assert "gateway-pepper" not in {d["name"] for d in described}


def test_last_consumer_gone_removes_the_directory(host):
    host.apply(definitions())
    store, _described = host.apply([{**d, "consumers": []} for d in definitions()])
    assert "wiped gateway" in store.actions
    assert os.listdir(host.root / "run/mcpstack/secrets") == []


# -- values that follow another ---------------------------------------------------------------------------------------


def test_derived_value_is_made_anew_when_its_template_changes(host):
    host.apply(definitions())
    wanted = definitions()
    wanted[0]["template"] = ACL.replace("~*", "~gateway:*")
    store, _described = host.apply(wanted)
    assert store.actions == [
        "changed valkey-acl v2",
        "published valkey-acl v2 for valkey",
        "switched valkey-acl of valkey to v2",
        "wiped valkey-acl v1 of valkey",
        f"removed {host.credential('valkey-acl.v1')}",
    ]
    assert b"~gateway:*" in host.value("valkey", "valkey-acl")
    assert host.apply(wanted)[0].actions == []


def test_derived_value_is_made_anew_when_a_source_changes(host, tmp_path):
    given = tmp_path / "given"
    given.write_bytes(b"one")
    given.chmod(0o600)
    wanted = [
        {"name": "pw", "kind": "file", "source": str(given), "consumers": []},
        {"name": "acl", "kind": "valkey_acl", "template": "user a on #{sha256:pw}", "consumers": [VALKEY]},
    ]
    host.apply(wanted)
    given.write_bytes(b"two")
    store, _described = host.apply(wanted)
    assert {"changed pw v2", "changed acl v2"} <= set(store.actions)
    assert host.value("valkey", "acl").decode() == "user a on #" + hashlib.sha256(b"two").hexdigest()


def test_given_value_stays_when_its_file_is_removed(host, tmp_path):
    wanted = definitions(tmp_path)
    host.apply(wanted)
    (tmp_path / "given").unlink()
    assert host.apply(wanted)[0].actions == []
    assert host.value("gateway", "hub-token") == b"hf_given"


def test_given_file_that_others_can_read_is_warned_about(host, tmp_path):
    wanted = definitions(tmp_path)
    (tmp_path / "given").chmod(0o644)
    store, _described = host.apply(wanted)
    given = tmp_path / "given"
    assert store.warnings == [
        f"{given} can be read by others than its owner; chmod 600 {given}, or remove it: the value is stored now."
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.unlink(), "the file is not on this host; put the value there; it may go once it is stored."),
        (lambda path: path.write_bytes(b"\n"), "the file is empty; put the value there."),
        (lambda path: path.write_bytes(b"x" * 300_000),
         "the file is larger than 262144 bytes; this is not a secret; mount it as configuration."),
        (lambda path: (path.unlink(), path.mkdir()), "this is not a file; put the value into a plain file."),
        (lambda path: (path.unlink(), os.mkfifo(path)), "this is not a file; put the value into a plain file."),
    ],
)  # fmt: skip
def test_given_file_that_holds_no_value_is_refused(host, tmp_path, make, message):
    wanted = definitions(tmp_path)
    make(tmp_path / "given")
    with pytest.raises(core.SecretError) as error:
        host.apply(wanted)
    assert str(error.value) == f"{tmp_path / 'given'} (secret hub-token): {message}"
    assert not (host.root / "etc").exists()


# -- what must not happen silently ------------------------------------------------------------------------------------

BACK = (
    "; restore the file from the backup of this host, together with /var/lib/systemd/credential.secret and "
    "/etc/machine-id; no new value is made, because what uses the old one would refuse it."
)


def test_missing_encrypted_file_is_refused_and_nothing_changes(host):
    host.apply(definitions())
    path = host.credential("gateway-db.v1")
    path.unlink()
    before = host.snapshot()
    with pytest.raises(core.SecretError) as error:
        host.apply([*definitions(), {"name": "more", "kind": "token"}])
    assert str(error.value) == f"{path}: the encrypted value of the secret gateway-db is missing{BACK}"
    assert host.snapshot() == before


def test_damaged_and_renamed_files_are_all_named_at_once(host):
    host.apply(definitions())
    damaged, renamed = host.credential("gateway-db.v1"), host.credential("valkey-op.v1")
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    renamed.write_bytes(host.credential("valkey-gateway.v1").read_bytes())
    before = host.snapshot()
    with pytest.raises(core.SecretError) as error:
        host.apply(definitions())
    assert str(error.value) == (
        f"{damaged}: the secret gateway-db cannot be decrypted on this host "
        f"(Decryption failed (incorrect key?): Bad message).\n"
        f"{renamed}: the secret valkey-op cannot be decrypted on this host "
        f"(Embedded credential name 'mcpstack.valkey-gateway.v1' does not match 'mcpstack.valkey-op.v1', refusing.).\n"
        f"For these: {BACK[2:]}"
    )
    assert host.snapshot() == before


def test_file_from_another_backup_is_noticed(host):
    host.apply(definitions())
    path = host.credential("valkey-gateway.v1")
    path.write_bytes(host.tool.encrypt("mcpstack.valkey-gateway.v1", b"A" * 40))
    with pytest.raises(core.SecretError) as error:
        host.apply(definitions())
    assert str(error.value) == (
        f"{path}: the file does not hold the value of valkey-gateway that {host.root}/etc/mcpstack/secrets.json recorded; "
        "restore both from the same backup."
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "secrets": {"a": {}}}'])
def test_damaged_manifest_is_refused(host, content):
    host.apply(definitions())
    path = host.root / "etc/mcpstack/secrets.json"
    path.write_text(content)
    with pytest.raises(core.SecretError) as error:
        host.apply(definitions())
    assert str(error.value) == (
        f"{path}: the list of secrets is damaged; restore it from a backup, or move it away: "
        "the next run takes over the encrypted files it finds."
    )


def test_manifest_of_another_release_is_refused(host):
    host.apply(definitions())
    path = host.root / "etc/mcpstack/secrets.json"
    path.write_text('{"format": 2, "secrets": {}}')
    with pytest.raises(
        core.SecretError, match="its format is 2, not 1; use the release of the collection that wrote it"
    ):
        host.apply(definitions())


def test_lost_manifest_takes_over_what_is_stored(host, tmp_path):
    host.apply(definitions(tmp_path))
    before = {k: v for k, v in host.snapshot().items() if not k.endswith("secrets.json")}
    (host.root / "etc/mcpstack/secrets.json").unlink()
    store, _described = host.apply(definitions(tmp_path))
    assert "took over gateway-db v1" in store.actions
    assert {k: v for k, v in host.snapshot().items() if not k.endswith("secrets.json")} == before


def test_kind_of_a_secret_cannot_change(host):
    host.apply(definitions())
    wanted = definitions()
    wanted[2]["kind"] = "token"
    with pytest.raises(core.SecretError) as error:
        host.apply(wanted)
    assert str(error.value) == (
        f"{host.root}/etc/mcpstack/secrets.json: the secret valkey-gateway is a password, and the list calls it a token; "
        "give the new secret a new name."
    )


def test_role_of_a_login_cannot_change(host):
    host.apply(definitions())
    wanted = definitions()
    wanted[1]["role"] = "other"
    with pytest.raises(
        core.SecretError, match="the stored value of gateway-db is not a postgres_login of role other; give"
    ):
        host.apply(wanted)


def test_length_and_environment_change_no_value(host):
    host.apply(definitions())
    wanted = definitions()
    wanted[3]["length"] = 32
    wanted[6]["env"] = "dev"
    store, _described = host.apply(wanted)
    assert store.actions == []
    assert store.warnings == [
        "The key first-key was made for another environment than dev and stays until it is rotated."
    ]


# -- repair -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "action"),
    [
        (lambda run: (run / "gateway/gateway-db/v1").chmod(0o644), "mode and owner of {run}/gateway/gateway-db/v1"),
        (lambda run: (run / "gateway").chmod(0o755), "mode and owner of {run}/gateway"),
        (lambda run: (run / "gateway/gateway-db").chmod(0o755), "mode and owner of {run}/gateway/gateway-db"),
        (lambda run: core.write_file(str(run / "gateway/gateway-db/v1"), b"other", 0o400, ME, ME),
         "published gateway-db v1 for gateway"),
        (lambda run: core.wipe(str(run / "gateway/gateway-db/v1")), "published gateway-db v1 for gateway"),
        (lambda run: core.wipe(str(run / "gateway/gateway-db")), "published gateway-db v1 for gateway"),
        (lambda run: (run / "gateway/gateway-db/current").unlink(), "switched gateway-db of gateway to v1"),
        (lambda run: (run / "gateway/stray").write_text("x"), "wiped stray of gateway"),
        (lambda run: (run / "gateway/gateway-db/v9").write_text("x"), "wiped gateway-db v9 of gateway"),
        (lambda run: (run / "stray").mkdir(), "wiped stray"),
        (lambda run: (run.parents[2] / "etc/credstore.encrypted/mcpstack.gateway-db.v1").chmod(0o644),
         "mode and owner of {root}/etc/credstore.encrypted/mcpstack.gateway-db.v1"),
        (lambda run: (run.parents[2] / "etc/mcpstack/secrets.json").chmod(0o644),
         "mode and owner of {root}/etc/mcpstack/secrets.json"),
        (lambda run: (run.parents[2] / "etc/credstore.encrypted").chmod(0o755), "mode of {root}/etc/credstore.encrypted"),
    ],
)  # fmt: skip
def test_what_was_spoiled_is_repaired(host, spoil, action):
    host.apply(definitions())
    before = host.snapshot()
    run = host.root / "run/mcpstack/secrets"
    spoil(run)
    store, _described = host.apply(definitions())
    assert action.format(run=run, root=host.root) in store.actions
    assert host.snapshot() == before
    assert host.apply(definitions())[0].actions == []


# -- boot with trouble ------------------------------------------------------------------------------------------------


def test_boot_publishes_nothing_for_a_service_that_lacks_one_secret(host):
    host.apply(definitions())
    host.credential("gateway-db.v1").unlink()
    host.boot()
    found = host.store().publish_at_boot()
    run = host.root / "run/mcpstack/secrets"
    assert sorted(os.listdir(run)) == ["valkey"]
    assert [f"{p['where']}: {p['what']}" for p in found] == [
        f"{host.credential('gateway-db.v1')}: the encrypted value of the secret gateway-db is missing",
        "gateway: no secret is published for this service, so that it does not start with half of them",
    ]


def test_boot_leaves_what_runs_alone(host):
    """Run again on a live host, with a file lost since: the service keeps its working secrets."""
    host.apply(definitions())
    before = host.snapshot()
    host.credential("gateway-db.v1").unlink()
    found = host.store().publish_at_boot()
    assert len(found) == 1
    after = {**host.snapshot(), str(host.credential("gateway-db.v1")): before[str(host.credential("gateway-db.v1"))]}
    assert after == before


def test_the_file_runs_alone_on_a_host():
    done = subprocess.run([sys.executable, "-I", core.__file__, "help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: secret_store.py publish\n")


# -- looking and removing ---------------------------------------------------------------------------------------------


def test_inspect_says_what_is_stored_and_published(host):
    host.apply(definitions())
    host.credential("gateway-db.v1").unlink()
    core.wipe(str(host.root / "run/mcpstack/secrets/gateway/gateway-pepper"))
    found = {item["name"]: item for item in host.store().inspect()}
    assert [name for name, item in found.items() if not item["stored"]] == ["gateway-db"]
    assert [n for n, item in found.items() if not all(c["published"] for c in item["consumers"])] == ["gateway-pepper"]


def test_remove_leaves_nothing(host, tmp_path):
    host.apply(definitions(tmp_path))
    foreign = host.root / "etc/credstore.encrypted/somebody.else"
    foreign.write_text("x")
    host.store().remove(check=True)
    assert host.credential("gateway-db.v1").exists()
    host.store().remove()
    assert os.listdir(host.root / "run/mcpstack/secrets") == []
    assert os.listdir(host.root / "etc/credstore.encrypted") == ["somebody.else"]
    assert os.listdir(host.root / "etc/mcpstack") == []
    again = host.store()
    again.remove()
    assert again.actions == []


# -- killed at any step -----------------------------------------------------------------------------------------------


def story_first_run(host, tmp_path):
    return definitions(tmp_path)


def story_change(host, tmp_path):
    """Everything at once: a derived and a given value change, a consumer comes, one goes, a secret comes, one goes."""
    host.apply(definitions(tmp_path))
    wanted = definitions(tmp_path)
    (tmp_path / "given").write_bytes(b"changed")
    wanted[0]["template"] = ACL.replace("~*", "~new:*")
    wanted[2]["consumers"] = [VALKEY]
    wanted.append({"name": "more", "kind": "password", "consumers": [GATEWAY, {"service": "late", "uid": ME or 7}]})
    return [d for d in wanted if d["name"] != "gateway-pepper"]


@pytest.mark.parametrize("story", [story_first_run, story_change])
@pytest.mark.parametrize("restart", [False, True], ids=["run again", "restart, then run again"])
def test_killed_at_any_step_the_next_run_finishes(tmp_path, monkeypatch, story, restart):
    steps = 0
    while True:
        place = tmp_path / str(steps)
        place.mkdir()
        host = Host(place / "host")
        wanted = story(host, place)
        stored = {}
        for path in (place / "host").glob("etc/credstore.encrypted/*"):
            stored[path.name] = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(core, "os", KilledAt(steps))
            try:
                host.apply(wanted)
                killed = False
            except Killed:
                killed = True
        seen = {p: p.read_bytes() for p in (place / "host/run/mcpstack/secrets").glob("*/*/v*")}
        listed = host.manifest()["secrets"] if (place / "host/etc/mcpstack/secrets.json").exists() else {}
        for path in seen:
            assert path.parent.name.removeprefix(".new-") in listed, "published before it was in the manifest"
        if restart:
            host.boot()
            assert host.store().publish_at_boot() == []
        host.apply(wanted)
        for path, value in seen.items():
            if path.exists():
                assert path.read_bytes() == value, "a value that was published changed"
        for name, sealed in stored.items():
            if host.credential(name.removeprefix("mcpstack.")).exists():
                assert host.credential(name.removeprefix("mcpstack.")).read_bytes() == sealed
        before = host.snapshot()
        assert not [path for path in before if "/.new-" in path]
        again, _described = host.apply(wanted)
        assert again.actions == []
        host.boot()
        assert host.store().publish_at_boot() == []
        assert host.snapshot() == before
        if not killed:
            break
        steps += 1
    assert steps > 60
