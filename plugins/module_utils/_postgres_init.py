# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Initialise a PostgreSQL cluster in a named volume, once. PRIVATE, may change at any time.

``initdb`` writes to ``data.new`` beside the place where the server looks, and only a finished cluster is renamed to
``data``. So ``data`` is either absent or whole, whenever this is killed, and a later run starts from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError, EngineUnavailable
from ansible_collections.mcpstack.platform.plugins.module_utils._files import sync_directory

#: Marks the container that runs initdb, so that one left behind by a killed run is found before its files are touched.
INIT_LABEL = "mcpstack.postgres-init"
#: Where the volume is mounted in the container.
MOUNT = "/var/lib/postgresql"
LOCK = "/run/lock/mcpstack-postgres-init.lock"


class InitError(Exception):
    """The cluster cannot be initialised; the message says where, what and what to do."""


@dataclass(frozen=True)
class Cluster:
    """What should exist."""

    image: str
    major: int
    volume: str = "postgres-data"
    project: str = "mcpstack"
    uid: int = 64104
    timeout: int = 300

    @property
    def volume_name(self) -> str:
        """The name compose gives the volume."""
        return f"{self.project}_{self.volume}"

    def initdb(self) -> list[str]:
        """The command. The superuser has no password: it comes in by peer on the socket only."""
        return [
            f"/usr/lib/postgresql/{self.major}/bin/initdb",
            f"--pgdata={MOUNT}/data.new",
            "--username=postgres",
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--data-checksums",
            "--no-instructions",
        ]


def is_initialised(root: str, cluster: Cluster) -> bool:
    """Whether ``data`` below the volume's mountpoint is a whole cluster of the right major; refuse anything in between."""
    data = os.path.join(root, "data")
    try:
        entries = os.listdir(data)
    except FileNotFoundError:
        return False
    except NotADirectoryError as exc:
        raise InitError(f"{data} is not a directory: move it away, then run again.") from exc
    if not entries:
        return False
    try:
        with open(os.path.join(data, "PG_VERSION"), encoding="ascii") as handle:
            found = handle.read().strip()
    except (FileNotFoundError, UnicodeDecodeError) as exc:
        raise InitError(
            f"{data} holds files but no PostgreSQL cluster (PG_VERSION is missing): "
            "restore a backup into it, or move its content away, then run again."
        ) from exc
    if found != str(cluster.major):
        raise InitError(
            f"{data} holds a PostgreSQL {found} cluster and this release runs {cluster.major}: "
            f"go back to the release that ran {found}, back up, and follow the upgrade guide."
        )
    if not os.path.exists(os.path.join(data, "global", "pg_control")):
        raise InitError(
            f"{data} is damaged (global/pg_control is missing): restore a backup, or move its content away, then run again."
        )
    return True


@contextlib.contextmanager
def _only_one(path: str) -> Iterator[None]:
    """Hold a lock that the kernel drops with this process, however it ends."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise InitError(
                "Another run is initialising PostgreSQL on this host: wait for it, then run again."
            ) from exc
        yield


def _volume(engine: Engine, cluster: Cluster) -> dict | None:
    try:
        volume = engine.get(f"/volumes/{cluster.volume_name}")
    except EngineError as exc:
        if exc.status == 404:
            return None
        raise
    if volume.get("Driver") != "local" or volume.get("Options"):
        raise InitError(
            f"Volume {cluster.volume_name} is not a plain local volume (driver {volume.get('Driver')}, "
            f"options {volume.get('Options') or {}}): the cluster can only be initialised in one."
        )
    return volume


def _ensure_volume(engine: Engine, cluster: Cluster) -> str:
    """Create the volume as compose would, so that compose takes it for its own; return its mountpoint."""
    volume = _volume(engine, cluster) or engine.post(
        "/volumes/create",
        body={
            "Name": cluster.volume_name,
            "Driver": "local",
            "Labels": {"com.docker.compose.project": cluster.project, "com.docker.compose.volume": cluster.volume},
        },
    )
    return volume["Mountpoint"]


def _remove_leftovers(engine: Engine, cluster: Cluster, root: str) -> None:
    """Stop an initdb that outlived its run, then drop what it wrote."""
    filters = {"filters": {"label": [f"{INIT_LABEL}={cluster.volume_name}"]}, "all": True}
    deadline = time.monotonic() + 30
    while found := engine.get("/containers/json", filters):
        if time.monotonic() > deadline:
            raise InitError(
                f"Container {found[0]['Id'][:12]} of an earlier initdb does not end: remove it, then run again."
            )
        for container in found:
            try:
                engine.delete(f"/containers/{container['Id']}", {"force": True})
            except EngineError as exc:
                if exc.status not in (404, 409):  # gone, or on its way
                    raise
        time.sleep(0.1)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(os.path.join(root, "data.new"))


def _give_to(root: str, engine: Engine, cluster: Cluster) -> None:
    """Make the volume the server's, as the image's own directory is; an engine that remaps users does that itself."""
    if any("name=userns" in option for option in engine.info().get("SecurityOptions") or []):
        return
    os.chown(root, cluster.uid, cluster.uid)
    os.chmod(root, 0o700)


def ensure(engine: Engine, cluster: Cluster, check: bool = False, lock: str = LOCK) -> dict:
    """Make sure that the cluster exists; return what was found or done."""
    result = {
        "changed": True,
        "state": "initialised",
        "volume": cluster.volume_name,
        "major": cluster.major,
        "path": "",
    }
    try:
        volume = _volume(engine, cluster)
    except EngineUnavailable:
        if check:  # a bare host: the engine comes with this very run
            return result
        raise
    if volume is not None:
        result["path"] = os.path.join(volume["Mountpoint"], "data")
        if is_initialised(volume["Mountpoint"], cluster):
            return {**result, "changed": False, "state": "present"}
    if check:
        return result
    if engine.image(cluster.image) is None:
        raise InitError(f"Image {cluster.image} is not on this host: run the images role first.")
    with _only_one(lock):
        root = _ensure_volume(engine, cluster)
        result["path"] = os.path.join(root, "data")
        if is_initialised(root, cluster):
            return {**result, "changed": False, "state": "present"}
        _remove_leftovers(engine, cluster, root)
        _give_to(root, engine, cluster)
        command = cluster.initdb()
        done = engine.run(
            cluster.image,
            command[1:],
            entrypoint=command[:1],
            user=f"{cluster.uid}:{cluster.uid}",
            mounts=[{"source": cluster.volume_name, "target": MOUNT, "read_only": False}],
            tmpfs={"/tmp": f"size=64m,uid={cluster.uid},gid={cluster.uid},mode=0700"},  # noqa: S108
            labels={INIT_LABEL: cluster.volume_name},
            timeout=cluster.timeout,
        )
        fresh = os.path.join(root, "data.new")
        if done.rc != 0 or not os.path.exists(os.path.join(fresh, "global", "pg_control")):
            said = done.stderr.decode("utf-8", "replace").strip() or done.stdout.decode("utf-8", "replace").strip()
            raise InitError(
                f"initdb of {cluster.image} failed with status {done.rc}: {said[-2000:] or 'it said nothing'}"
            )
        os.rename(
            fresh, result["path"]
        )  # replaces the empty directory that the image may have put there, and nothing else
        sync_directory(root)
    return result
