# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is taken for a cluster, what is refused, and what is cleaned up. initdb itself runs in tests/integration/data."""

from __future__ import annotations

import fcntl
import os

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_init as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import (
    EngineError,
    EngineUnavailable,
    ExecResult,
)

CLUSTER = core.Cluster(image="mcpstack/postgres-init:1", major=17, uid=os.getuid())


class FakeEngine:
    """An engine whose volume is a directory of the test and whose initdb does what the test says."""

    def __init__(self, root, exists=True, initdb=None):
        self.root, self.exists = root, exists
        self.initdb = initdb or self.good_initdb
        self.runs, self.removed, self.leftover, self.images = [], [], [], {CLUSTER.image}
        self.driver, self.options = "local", None

    def volume(self):
        return {"Driver": self.driver, "Options": self.options, "Mountpoint": str(self.root)}

    def get(self, path, params=None):
        if path.startswith("/volumes/"):
            if not self.exists:
                raise EngineError("no such volume", 404)
            return self.volume()
        assert path == "/containers/json" and params["filters"]["label"] == [
            "mcpstack.postgres-init=mcpstack_postgres-data"
        ]
        return [{"Id": name} for name in self.leftover]

    def post(self, path, body=None):
        assert path == "/volumes/create"
        self.created, self.exists = body, True
        return self.volume()

    def delete(self, path, params=None):
        self.removed.append(path)
        self.leftover.pop()

    def info(self):
        return {"SecurityOptions": ["name=seccomp,profile=default"]}

    def image(self, ref):
        return {"Id": ref} if ref in self.images else None

    def run(self, image, command, **options):
        self.runs.append((image, command, options))
        return self.initdb()

    def good_initdb(self):
        cluster(self.root / "data.new")
        return ExecResult(0, b"", b"")


def cluster(path, version="17", control=True):
    (path / "global").mkdir(parents=True)
    (path / "PG_VERSION").write_text(f"{version}\n")
    if control:
        (path / "global" / "pg_control").write_text("x")


@pytest.fixture
def lock(tmp_path):
    return str(tmp_path / "locks" / "lock")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def test_creates_volume_and_cluster(root, lock):
    engine = FakeEngine(root, exists=False)
    result = core.ensure(engine, CLUSTER, lock=lock)
    assert result == {
        "changed": True,
        "state": "initialised",
        "volume": "mcpstack_postgres-data",
        "major": 17,
        "path": str(root / "data"),
    }
    assert engine.created == {
        "Name": "mcpstack_postgres-data",
        "Driver": "local",
        "Labels": {"com.docker.compose.project": "mcpstack", "com.docker.compose.volume": "postgres-data"},
    }
    (_image, command, options) = engine.runs[0]
    assert options["entrypoint"] == ["/usr/lib/postgresql/17/bin/initdb"]
    assert {"--auth-local=peer", "--auth-host=scram-sha-256", "--data-checksums", "--builtin-locale=C.UTF-8"} <= set(
        command
    )
    assert "network" not in options, "the engine's default for throwaway containers is none"
    assert options["mounts"] == [
        {"source": "mcpstack_postgres-data", "target": "/var/lib/postgresql", "read_only": False}
    ]
    assert (root / "data" / "PG_VERSION").exists() and not (root / "data.new").exists()
    assert root.stat().st_mode & 0o777 == 0o700


def test_second_run_asks_one_question(root, lock):
    cluster(root / "data")
    engine = FakeEngine(root)
    engine.images = set()  # it does not even need the image
    assert core.ensure(engine, CLUSTER, lock=lock)["changed"] is False
    assert engine.runs == [] and not os.path.exists(lock)


def test_empty_directory_of_the_image_is_no_cluster(root, lock):
    (root / "data").mkdir()
    assert core.ensure(FakeEngine(root), CLUSTER, lock=lock)["state"] == "initialised"


def test_leftovers_of_a_killed_run_go_first(root, lock):
    cluster(root / "data.new", control=False)
    (root / "data.new" / "half").write_text("x")
    engine = FakeEngine(root)
    engine.leftover = ["abc"]
    core.ensure(engine, CLUSTER, lock=lock)
    assert engine.removed == ["/containers/abc"]
    assert not (root / "data" / "half").exists()


def test_remapped_users_are_left_to_the_engine(root, lock, monkeypatch):
    engine = FakeEngine(root)
    engine.info = lambda: {"SecurityOptions": ["name=userns"]}
    monkeypatch.setattr(core.os, "chown", lambda *_args: pytest.fail("changed the owner"))
    core.ensure(engine, CLUSTER, lock=lock)


@pytest.mark.parametrize("exists", [True, False])
def test_check_mode_changes_nothing(root, lock, exists):
    engine = FakeEngine(root, exists=exists)
    engine.images = set()
    assert core.ensure(engine, CLUSTER, check=True, lock=lock)["state"] == "initialised"
    assert engine.runs == [] and list(root.iterdir()) == [] and not os.path.exists(lock)


def test_check_mode_on_a_bare_host(root, lock):
    engine = FakeEngine(root)

    def gone(*_args):
        raise EngineUnavailable("no engine")

    engine.get = gone
    assert core.ensure(engine, CLUSTER, check=True, lock=lock)["changed"] is True
    with pytest.raises(EngineUnavailable):
        core.ensure(engine, CLUSTER, lock=lock)


def refused(engine, lock, check=False):
    with pytest.raises(core.InitError) as error:
        core.ensure(engine, CLUSTER, check=check, lock=lock)
    assert engine.runs == [] or engine.initdb != engine.good_initdb
    return str(error.value)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda data: cluster(data, "16"),
            "{data} holds a PostgreSQL 16 cluster and this release runs 17: "
            "go back to the release that ran 16, back up, and follow the upgrade guide.",
        ),
        (
            lambda data: cluster(data, control=False),
            "{data} is damaged (global/pg_control is missing): restore a backup, or move its content away, then run again.",
        ),
        (
            lambda data: (data.mkdir(), (data / "notes.txt").write_text("mine")),
            "{data} holds files but no PostgreSQL cluster (PG_VERSION is missing): "
            "restore a backup into it, or move its content away, then run again.",
        ),
        (lambda data: data.write_text("mine"), "{data} is not a directory: move it away, then run again."),
    ],
)
def test_refuses_what_it_did_not_make(root, lock, make, message, check):
    make(root / "data")
    before = sorted(root.rglob("*"))
    assert refused(FakeEngine(root), lock, check) == message.format(data=root / "data")
    assert sorted(root.rglob("*")) == before


def test_refuses_a_volume_elsewhere(root, lock):
    engine = FakeEngine(root)
    engine.options = {"type": "nfs"}
    assert refused(engine, lock) == (
        "Volume mcpstack_postgres-data is not a plain local volume (driver local, options {'type': 'nfs'}): "
        "the cluster can only be initialised in one."
    )


def test_refuses_without_image(root, lock):
    engine = FakeEngine(root)
    engine.images = set()
    assert refused(engine, lock) == "Image mcpstack/postgres-init:1 is not on this host: run the images role first."


def test_refuses_to_run_twice_at_once(root, lock):
    os.makedirs(os.path.dirname(lock))
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert refused(FakeEngine(root), lock) == (
            "Another run is initialising PostgreSQL on this host: wait for it, then run again."
        )


def test_failed_initdb_leaves_no_cluster_and_says_why(root, lock):
    engine = FakeEngine(root, initdb=lambda: ExecResult(1, b"", b"initdb: error: no space left\n"))
    assert (
        refused(engine, lock) == "initdb of mcpstack/postgres-init:1 failed with status 1: initdb: error: no space left"
    )
    engine.initdb = lambda: ExecResult(0, b"", b"")  # says it worked, and it did not
    assert refused(engine, lock) == "initdb of mcpstack/postgres-init:1 failed with status 0: it said nothing"
    assert not (root / "data").exists()
