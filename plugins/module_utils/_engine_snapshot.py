# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything an audit asks the engine, asked once: one inspect per container, over one connection that is kept.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterable
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._engine import (
    Engine,
    EngineError,
    EngineUnavailable,
    _UnixConnection,
)

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
ONEOFF_LABEL = "com.docker.compose.oneoff"
NETWORK_LABEL = "com.docker.compose.network"
HASH_LABEL = "com.docker.compose.config-hash"
#: States in which a container holds processes.
ACTIVE = frozenset({"running", "paused", "restarting"})


class KeptEngine(Engine):
    """An engine that is asked many small questions: one connection for all of them."""

    _kept: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Let the connection go."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _request(self, method, path, body=None, headers=None, timeout=None):
        if method != "GET" or body is not None:
            return super()._request(method, path, body, headers, timeout)
        timeout = timeout or self.timeout
        for attempt in (1, 2):
            fresh = self._kept is None
            if self._kept is None:
                self._kept = _UnixConnection(self.socket_path, timeout)
            try:
                if self._kept.sock is not None:
                    self._kept.sock.settimeout(timeout)
                self._kept.request(method, path, headers=headers or {})
                response = self._kept.getresponse()
                data = response.read()
            except TimeoutError as error:
                self.close()
                raise EngineUnavailable(
                    f"{self.socket_path}: the Docker engine did not answer {method} {path} within {timeout:g} s."
                ) from error
            except EngineError:
                self.close()
                raise
            except (http.client.HTTPException, OSError) as error:
                self.close()
                if fresh or attempt == 2:
                    raise EngineError(
                        f"{self.socket_path}: the Docker engine broke off while answering {method} {path} ({error!r})."
                    ) from error
                continue  # the engine closed a connection that lay idle
            if response.will_close:
                self.close()
            return response.status, response.headers, data
        raise AssertionError("unreachable")  # the second attempt returns or raises


def name_of(container: dict) -> str:
    """The container's name, from inspect or from the list."""
    names = container.get("Names")
    name = container.get("Name") or (names[0] if names and isinstance(names, list) else "")
    return str(name).lstrip("/") or str(container.get("Id", "?"))[:12]


def labels_of(container: dict) -> dict:
    """Labels, from inspect or from the list."""
    labels = container.get("Labels")
    if labels is None:
        labels = (container.get("Config") or {}).get("Labels")
    return labels or {}


def project_of(container: dict) -> str:
    """The compose project, or empty."""
    return str(labels_of(container).get(PROJECT_LABEL) or "")


def service_of(container: dict) -> str:
    """The compose service, or the container's name."""
    return str(labels_of(container).get(SERVICE_LABEL) or name_of(container))


@dataclass
class Snapshot:
    """What the engine answered.

    containers: inspected, those in scope, by name. listing: of every container of the host, also ended ones. networks,
    volumes, images: None when the engine did not answer, and ``problems`` says why. execs: by container id, sessions that
    run. changes: by container id, what is changed in its root file system, or the reason why that is not known.
    image_details: by image id.
    """

    info: dict = field(default_factory=dict)
    containers: list[dict] = field(default_factory=list)
    listing: list[dict] = field(default_factory=list)
    networks: list[dict] | None = None
    volumes: list[dict] | None = None
    images: list[dict] | None = None
    image_details: dict[str, dict] = field(default_factory=dict)
    execs: dict[str, list[dict]] = field(default_factory=dict)
    changes: dict[str, list[dict] | str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def active(self) -> list[dict]:
        """Containers that hold processes."""
        return [item for item in self.containers if (item.get("State") or {}).get("Status") in ACTIVE]

    @property
    def security(self) -> list[str]:
        """The engine's security options."""
        return [str(item) for item in self.info.get("SecurityOptions") or ()]


def in_scope(container: dict, projects: Iterable[str]) -> bool:
    """Whether a container is one of those asked for; without projects all are."""
    wanted = set(projects)
    return not wanted or project_of(container) in wanted


def _sound(container: object, number: str) -> bool:
    """Whether an answer is the inspection of this container, as far as everything else relies on it."""
    if not isinstance(container, dict) or container.get("Id") != number:
        return False
    parts = [container.get(name) for name in ("State", "Config", "HostConfig", "NetworkSettings")]
    if not all(isinstance(part, dict) for part in parts) or not isinstance(container.get("ExecIDs") or [], list):
        return False
    state = container["State"]
    return isinstance(state.get("Status"), str) and isinstance(state.get("Pid") or 0, int)


def _ask(snapshot: Snapshot, engine: Engine, what: str, path: str, kind: type = dict, params: dict | None = None):
    try:
        answer = engine.get(path, params)
    except EngineError as error:
        snapshot.problems[what] = str(error)
        return None
    if not isinstance(answer, kind) or (kind is list and not all(isinstance(item, dict) for item in answer)):
        snapshot.problems[what] = f"the Docker engine answered {path} with something else than documented"
        return None
    return answer


def _sessions(snapshot: Snapshot, engine: Engine, container: dict) -> None:
    for number in container.get("ExecIDs") or ():
        try:
            session = engine.get(f"/exec/{number}/json")
        except EngineError as error:
            if error.status not in (404, 409):  # it ended between the two questions
                snapshot.problems["execs"] = str(error)
            continue
        process = session.get("ProcessConfig") if isinstance(session, dict) else None
        if not isinstance(process, dict) or not isinstance(session.get("Pid") or 0, int):
            snapshot.problems["execs"] = "what the engine says of an exec session is none"
        elif session.get("Running"):
            snapshot.execs.setdefault(container["Id"], []).append(session)


def collect(engine: Engine, projects: Iterable[str] = (), details: bool = False) -> Snapshot:
    """Ask the engine for everything. Raises EngineError when it does not even list its containers.

    details: also inspect the images, which comparing with an expected model needs.
    """
    snapshot = Snapshot()
    projects = tuple(projects)
    listed = engine.get("/containers/json", {"all": True})
    if not isinstance(listed, list) or not all(isinstance(item, dict) and item.get("Id") for item in listed):
        raise EngineError("The Docker engine answered /containers/json with something else than a list of containers.")
    snapshot.listing = sorted(listed, key=name_of)
    snapshot.info = _ask(snapshot, engine, "info", "/info") or {}
    snapshot.networks = _ask(snapshot, engine, "networks", "/networks", list)
    volumes = _ask(snapshot, engine, "volumes", "/volumes")
    snapshot.volumes = None if volumes is None else volumes.get("Volumes") or []
    snapshot.images = _ask(snapshot, engine, "images", "/images/json", list)
    for summary in snapshot.listing:
        if not in_scope(summary, projects):
            continue
        try:
            container = engine.get(f"/containers/{summary['Id']}/json")
        except EngineError as error:
            if error.status != 404:  # 404: it went away between the two questions
                snapshot.problems["containers"] = str(error)
            continue
        if not _sound(container, summary["Id"]):
            snapshot.problems["containers"] = f"{name_of(summary)}: what the engine inspected is no container"
            continue
        snapshot.containers.append(container)
        _sessions(snapshot, engine, container)
        state = (container.get("State") or {}).get("Status")
        if state in ACTIVE and not (container.get("HostConfig") or {}).get("ReadonlyRootfs"):
            try:
                snapshot.changes[container["Id"]] = engine.get(f"/containers/{container['Id']}/changes") or []
            except EngineError as error:
                if error.status != 404:
                    snapshot.changes[container["Id"]] = str(error)
    if details:
        for number in sorted({str(container.get("Image")) for container in snapshot.containers}):
            answer = _ask(snapshot, engine, f"image {number[:19]}", f"/images/{number}/json")
            if answer:
                snapshot.image_details[number] = answer
    return snapshot
