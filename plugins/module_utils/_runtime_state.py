# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How containers are doing and what is left of them: changed files, state, sessions, foreigners, orphans (RUN-05 to 08).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import datetime
import posixpath
from collections.abc import Iterable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._container_inspect import configured_root, place_of
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import (
    ONEOFF_LABEL,
    PROJECT_LABEL,
    Snapshot,
    in_scope,
    labels_of,
    name_of,
    project_of,
    service_of,
)

#: Where programs are meant to write.
RUNTIME_TREES = ("/dev", "/home", "/proc", "/run", "/srv", "/sys", "/tmp", "/var", "/data", "/mnt")  # noqa: S108
#: What decides which programs run, and how.
PROGRAM_TREES = ("/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libexec", "/opt", "/sbin", "/usr", "/app")
#: What the engine itself or an interpreter writes.
HARMLESS = frozenset({"/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf", "/.dockerenv"})
KINDS = {0: "changed", 1: "added", 2: "deleted"}
#: Restarts within RECENT seconds that make a loop.
LOOP_RESTARTS = 3
RECENT = 600
_SHOWN = 3
_NANO = 1_000_000_000


def _below(path: str, trees: Iterable[str]) -> bool:
    return any(path == tree or path.startswith(tree + "/") for tree in trees)


def telling_changes(changes: Iterable[Mapping], mounted: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """(changes among programs and configuration, others) that are worth a word.

    Directories above a change are not, nor the places that the engine makes for what is mounted.
    """
    rows = [(str(item.get("Path")), item.get("Kind")) for item in changes]
    above = {posixpath.dirname(path) for path, _kind in rows}
    for path in mounted:
        while path not in ("/", ""):
            rows = [row for row in rows if row[0] != path]
            path = posixpath.dirname(path)
    programs, others = [], []
    for path, kind in sorted(rows):
        if (kind == 0 and path in above) or path in HARMLESS or _below(path, RUNTIME_TREES):
            continue
        parts = path.split("/")
        if "__pycache__" in parts or ".cache" in parts or "cache" in parts:
            continue
        (programs if _below(path, PROGRAM_TREES) else others).append(f"{KINDS.get(kind, kind)} {path}")
    return programs, others


def _mount_points(container: dict) -> list[str]:
    host = container.get("HostConfig") or {}
    found = [str(item.get("Destination")) for item in container.get("Mounts") or ()] + list(host.get("Tmpfs") or ())
    return sorted({posixpath.normpath(path) for path in found if path.startswith("/")})


def judge_changes(audit: Audit, snapshot: Snapshot) -> None:
    """RUN-05, the part about files."""
    if not snapshot.active():
        audit.not_applicable("RUN-05", "no container runs")
        return
    audit.decide("RUN-05")
    for container in snapshot.active():
        changes = snapshot.changes.get(container["Id"], [])
        if isinstance(changes, str):
            audit.unknown("RUN-05", f"{name_of(container)}: {changes}")
            continue
        for paths, severity in zip(telling_changes(changes, _mount_points(container)), (None, "low")):
            if paths:
                more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
                where = "programs and configuration" if severity is None else "other files"
                audit.find(
                    "RUN-05", name_of(container), f"{place_of(container)}: {where}", ", ".join(paths[:_SHOWN]) + more,
                    severity=severity,
                )  # fmt: skip


def _since(text: object, now: datetime.datetime) -> float | None:
    """Seconds since a time as the engine writes it."""
    try:
        moment = datetime.datetime.fromisoformat(str(text)[:19]).replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return None
    return (now - moment).total_seconds()


def _grace(check: Mapping) -> float:
    """Seconds after which a container is healthy or unhealthy, and not starting any more."""
    retries = (check.get("Retries") or 3) + 1
    each = ((check.get("Interval") or 30 * _NANO) + (check.get("Timeout") or 30 * _NANO)) / _NANO
    return (check.get("StartPeriod") or 0) / _NANO + retries * each


def state_faults(container: dict, now: datetime.datetime) -> list[tuple[str, str | None]]:
    """(what is wrong with its state, severity)."""
    state = container.get("State") or {}
    status = state.get("Status")
    found: list[tuple[str, str | None]] = []
    if state.get("OOMKilled"):
        found.append(("OOMKilled: it used more memory than its limit", None))
    if status == "paused" or state.get("Paused"):
        found.append(("Status: paused", None))
    if state.get("Dead") or status == "dead":
        found.append(("Status: dead", None))
    since = _since(state.get("StartedAt"), now)
    if status == "restarting":
        found.append(("Status: restarting", None))
    elif status == "running" and (container.get("RestartCount") or 0) >= LOOP_RESTARTS and (since or 0) < RECENT:
        found.append(("restarted by its policy again and again, last less than ten minutes ago", None))
    health = (state.get("Health") or {}).get("Status")
    if status == "running" and health == "unhealthy":
        found.append(("Health: unhealthy", None))
    elif status == "running" and health == "starting" and since is not None:
        if since > _grace((container.get("Config") or {}).get("Healthcheck") or {}):
            found.append(("Health: still starting after its start period and all retries", None))
    if status == "exited" and project_of(container) and labels_of(container).get(ONEOFF_LABEL) != "True":
        policy = ((container.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name")
        if state.get("ExitCode") and not state.get("OOMKilled"):
            found.append((f"Status: exited with code {state['ExitCode']}", None))
        elif policy in ("always", "unless-stopped") and not state.get("OOMKilled"):
            found.append((f"Status: exited with code 0, though its restart policy is {policy}", "low"))
    return found


def judge_state(audit: Audit, snapshot: Snapshot, now: datetime.datetime) -> None:
    """RUN-06."""
    if not snapshot.containers:
        audit.not_applicable("RUN-06", "there is no container")
        return
    audit.decide("RUN-06")
    for container in snapshot.containers:
        for text, severity in state_faults(container, now):
            where = f"{place_of(container)}: State"
            audit.find("RUN-06", name_of(container), where, text, severity=severity)


def _root_session(session: Mapping, container: dict) -> str:
    process = session.get("ProcessConfig") or {}
    user = str(process.get("user") or "")
    name = user.partition(":")[0]
    if process.get("privileged"):
        return "a privileged exec session runs"
    if name == "root" or (name.lstrip("+-").isdigit() and int(name.lstrip("+-")) == 0):
        return f"an exec session runs as user {user}"
    if not user and process.get("tty") and configured_root(container):
        return "an exec session with a terminal runs as root, the container's user"
    return ""


def judge_visitors(audit: Audit, snapshot: Snapshot, projects: Iterable[str]) -> None:
    """RUN-07."""
    audit.decide("RUN-07")
    if "execs" in snapshot.problems:
        audit.unknown("RUN-07", snapshot.problems["execs"])
    for container in snapshot.active():
        for session in snapshot.execs.get(container["Id"], ()):
            text = _root_session(session, container)
            if text:
                program = str((session.get("ProcessConfig") or {}).get("entrypoint") or "?").rpartition("/")[2]
                where = f"{place_of(container)}: exec session {program}"
                audit.find("RUN-07", name_of(container), where, text)
    if snapshot.networks is None:
        audit.unknown("RUN-07", snapshot.problems.get("networks", "the networks are not known"))
        return
    owners = {str(network.get("Name")): network for network in snapshot.networks}
    wanted = set(projects)
    for container in snapshot.listing:
        if container.get("State") not in ("running", "paused", "restarting"):
            continue
        for name in sorted((container.get("NetworkSettings") or {}).get("Networks") or {}):
            owner = str(((owners.get(name) or {}).get("Labels") or {}).get(PROJECT_LABEL) or "")
            if owner and owner != project_of(container) and (not wanted or owner in wanted):
                whose = f"project {project_of(container)}" if project_of(container) else "no project"
                audit.find(
                    "RUN-07",
                    name_of(container),
                    f"network {name}",
                    f"a container of {whose} on project {owner}'s network",
                )


def _repository(reference: str) -> str:
    name = reference.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    return head + slash + tail.partition(":")[0]


def _orphan(container: dict, expected: Mapping[str, Mapping]) -> str:
    """Why a container of a project is left over; empty when it is not."""
    service, project = service_of(container), project_of(container)
    model = expected.get(project)
    if model is not None and service not in (model.get("services") or {}):
        return f"service {service} is not expected"
    state = container.get("State")
    if labels_of(container).get(ONEOFF_LABEL) == "True" and state not in ("running", "paused", "restarting"):
        return f"a one-off container that is {state}"
    return f"never started, or not removed: {state}" if state in ("created", "dead") else ""


def judge_orphans(audit: Audit, snapshot: Snapshot, projects: Iterable[str], expected: Mapping[str, Mapping]) -> None:
    """RUN-08."""
    projects = set(projects)
    mine = [item for item in snapshot.listing if project_of(item) and in_scope(item, projects)]
    labelled = [
        item
        for group in (snapshot.networks, snapshot.volumes)
        for item in group or ()
        if (item.get("Labels") or {}).get(PROJECT_LABEL)
    ]
    if not mine and not labelled:
        audit.not_applicable("RUN-08", "there is no compose project")
        return
    audit.decide("RUN-08")
    for container in mine:
        why = _orphan(container, expected)
        if why:
            audit.find("RUN-08", name_of(container), place_of(container), why)
    used = {
        str(name) for item in snapshot.listing for name in (item.get("NetworkSettings") or {}).get("Networks") or ()
    }
    mounted = {str(mount.get("Name")) for item in snapshot.listing for mount in item.get("Mounts") or ()}
    for kind, group, taken in (("network", snapshot.networks, used), ("volume", snapshot.volumes, mounted)):
        if group is None:
            audit.unknown("RUN-08", snapshot.problems.get(f"{kind}s", f"the {kind}s are not known"))
        for item in group or ():
            project = (item.get("Labels") or {}).get(PROJECT_LABEL)
            name = str(item.get("Name"))
            if project and (not projects or project in projects) and name not in taken:
                audit.find("RUN-08", f"project {project}", f"{kind} {name}", f"no container uses this {kind}")
    _judge_images(audit, snapshot, mine, projects)


def _judge_images(audit: Audit, snapshot: Snapshot, mine: list[dict], projects: set[str]) -> None:
    if snapshot.images is None:
        audit.unknown("RUN-08", snapshot.problems.get("images", "the images are not known"))
        return
    in_use = {str(item.get("ImageID")) for item in snapshot.listing}
    by_id = {str(image.get("Id")): image for image in snapshot.images}
    repositories: dict[str, str] = {}
    for container in mine:
        references = [str(container.get("Image"))]
        references += (by_id.get(str(container.get("ImageID"))) or {}).get("RepoTags") or ()
        repositories.update(
            {_repository(text): project_of(container) for text in references if ":" in text or "/" in text}
        )
    for number, image in by_id.items():
        if number in in_use:
            continue
        tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
        label = (image.get("Labels") or {}).get(PROJECT_LABEL)
        known = tags or [text for text in image.get("RepoDigests") or () if not text.startswith("<none>")]
        owner = label if label and (not projects or label in projects) else ""
        owner = owner or next(
            (repositories[_repository(text)] for text in known if _repository(text) in repositories), ""
        )
        if owner:
            name = tags[0] if tags else number[:19]
            text = "no container uses this version" if tags else "untagged, and no container uses it"
            audit.find("RUN-08", f"project {owner}", f"image {name}", text)
