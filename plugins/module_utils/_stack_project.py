# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the deployed project is, read from and removed through the engine's API.

PRIVATE: internal to the collection, may change in any release.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError, demultiplex

PROJECT = "mcpstack"
IMAGE_PREFIX = "mcpstack/"
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
#: "True" on a container that somebody started for one command; it belongs to the project and to no deploy.
ONEOFF_LABEL = "com.docker.compose.oneoff"
STOP_GRACE_LIMIT = 120  # seconds; no service of the platform asks for more


@dataclass
class Container:
    """One service as it is now. ``health`` is healthy, unhealthy, starting, none (no check) or absent (no container)."""

    service: str
    state: str = "absent"
    health: str = "absent"
    image: str = ""
    container: str = ""
    restarts: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    ports: list[str] = field(default_factory=list)
    last_check: str = ""
    log: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.state == "running" and self.health == "healthy"


def _label_filter(label: str) -> dict:
    return {"filters": json.dumps({"label": [label]})}


def lasting(containers: list[dict]) -> list[dict]:
    """Without those that were started for one command."""
    return [item for item in containers if item["Labels"].get(ONEOFF_LABEL) != "True"]


def _inspect(engine: Engine, service: str, summary: dict, log_lines: int) -> Container:
    details = engine.get(f"/containers/{summary['Id']}/json")
    state = details["State"]
    health = state.get("Health") or {}
    checks = health.get("Log") or []
    ports = []
    for inside, bindings in sorted((details["NetworkSettings"].get("Ports") or {}).items()):
        ports += [f"{b['HostIp']}:{b['HostPort']}->{inside}" for b in bindings or []]
    found = Container(
        service=service,
        state=state["Status"],
        health=health.get("Status", "none"),
        image=details["Config"]["Image"],
        container=details["Name"].lstrip("/"),
        restarts=details.get("RestartCount", 0),
        exit_code=state.get("ExitCode"),
        oom_killed=bool(state.get("OOMKilled")),
        ports=ports,
        last_check=(checks[-1].get("Output") or "").strip()[-300:] if checks else "",
    )
    if log_lines and not found.good:
        raw = engine.get(f"/containers/{summary['Id']}/logs", {"stdout": "1", "stderr": "1", "tail": str(log_lines)})
        out, err = demultiplex(raw) if isinstance(raw, bytes) else (str(raw).encode(), b"")
        found.log = (out + err).decode(errors="replace").splitlines()[-log_lines:]
    return found


def status(engine: Engine, services: list[str], log_lines: int = 0) -> list[Container]:
    """The state of each named service, and of every other lasting container that carries the project's label."""
    summaries = engine.get("/containers/json", {"all": "1", **_label_filter(f"{PROJECT_LABEL}={PROJECT}")})
    by_service: dict[str, dict] = {}
    for summary in sorted(lasting(summaries), key=lambda item: item["Created"]):
        by_service[summary["Labels"].get(SERVICE_LABEL, summary["Id"][:12])] = summary
    names = list(services) + sorted(set(by_service) - set(services))
    return [
        _inspect(engine, name, by_service[name], log_lines) if name in by_service else Container(name) for name in names
    ]


def problems(containers: list[Container], services: list[str]) -> list[str]:
    """One sentence for each service that is not as it should be."""
    found = []
    for item in containers:
        see = f"See: docker logs {item.container}" if item.container else "Run the site playbook"
        if item.service not in services:
            found.append(
                f"{item.service}: a container of the project that no service asks for. Run the site playbook to remove it."
            )
        elif item.state == "absent":
            found.append(f"{item.service}: there is no container. {see}.")
        elif item.oom_killed:
            found.append(
                f"{item.service}: killed, it used more memory than its limit. Raise the service's memory limit."
            )
        elif item.state != "running":
            found.append(f"{item.service}: {item.state}, exit code {item.exit_code}, {item.restarts} restarts. {see}.")
        elif item.health != "healthy":
            check = f" The check says: {item.last_check}" if item.last_check else ""
            found.append(f"{item.service}: running but {item.health}.{check} {see}.")
    return found


def report(containers: list[Container]) -> str:
    """A table for people, and the last words of whoever is not well."""
    rows = [("SERVICE", "STATE", "HEALTH", "RESTARTS", "IMAGE", "PORTS")]
    rows += [(c.service, c.state, c.health, str(c.restarts), c.image, ", ".join(c.ports)) for c in containers]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for item in containers:
        if item.log:
            lines += ["", f"Last lines of {item.service}:", *("  " + line for line in item.log)]
    return "\n".join(lines)


def as_dicts(containers: list[Container]) -> list[dict]:
    """The containers as plain data for a module's result."""
    return [asdict(item) for item in containers]


@dataclass
class Leftovers:
    """Everything in the engine that belongs to the project."""

    containers: list[str]
    networks: list[str]
    volumes: list[str]
    images: list[str]

    def __bool__(self) -> bool:
        return bool(self.containers or self.networks or self.volumes or self.images)


def leftovers(engine: Engine, data: bool) -> Leftovers:
    """What ``remove`` would remove; volumes only when ``data`` is true."""
    label = _label_filter(f"{PROJECT_LABEL}={PROJECT}")
    volumes = (engine.get("/volumes", label).get("Volumes") or []) if data else []
    tags = [
        tag
        for image in engine.get("/images/json")
        for tag in image.get("RepoTags") or []
        if tag.startswith(IMAGE_PREFIX)
    ]
    return Leftovers(
        containers=sorted(
            item["Names"][0].lstrip("/") for item in engine.get("/containers/json", {"all": "1", **label})
        ),
        networks=sorted(item["Name"] for item in engine.get("/networks", label)),
        volumes=sorted(item["Name"] for item in volumes),
        images=sorted(tags),
    )


def remove(engine: Engine, found: Leftovers) -> None:
    """Stop each container with its own signal and grace, then remove everything that ``leftovers`` found."""
    for name in found.containers:
        engine.post(f"/containers/{name}/stop", timeout=STOP_GRACE_LIMIT)
        engine.delete(f"/containers/{name}", {"v": "1"})
    for name in found.networks:
        engine.delete(f"/networks/{name}")
    for name in found.volumes:
        engine.delete(f"/volumes/{name}")
    for name in found.images:
        try:
            engine.delete(f"/images/{name}")
        except EngineError as error:
            if error.status == 409:
                raise EngineError(
                    f"Image {name} is used by a container outside the platform: remove that container first.", 409
                ) from error
            raise
