# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running containers against the expected model and the lock (RUN-01, RUN-02).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._container_inspect import environment, place_of
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import (
    HASH_LABEL,
    ONEOFF_LABEL,
    Snapshot,
    labels_of,
    name_of,
    project_of,
    service_of,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._expected_model import (
    capability_names,
    device_text,
    mount_text,
    port_text,
    security_options,
    tmpfs_text,
)

_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_SHOWN = 3
#: Differences that give nobody more rights.
_MILDER = {"environment_keys": "medium", "limits": "medium", "image": "medium", "config_hash": "medium"}


def _mounts(container: dict) -> list[str]:
    host = container.get("HostConfig") or {}
    found = []
    for mount in container.get("Mounts") or ():
        kind = str(mount.get("Type") or "bind")
        if kind == "tmpfs":
            continue
        source = mount.get("Name") if kind == "volume" else mount.get("Source")
        if kind == "volume" and _ANONYMOUS.fullmatch(str(source)):
            source = ""
        found.append(mount_text(kind, source, mount.get("Destination"), not mount.get("RW")))
    for target, options in (host.get("Tmpfs") or {}).items():
        found.append(tmpfs_text(target, str(options or "").split(",")))
    for mount in host.get("Mounts") or ():
        if mount.get("Type") == "tmpfs":
            asked = mount.get("TmpfsOptions") or {}
            texts = [f"size={asked['SizeBytes']}"] if asked.get("SizeBytes") else []
            if asked.get("Mode"):
                texts.append(f"mode={asked['Mode']:o}")
            found.append(tmpfs_text(mount.get("Target"), texts))
    return sorted(found)


def observed(container: dict) -> dict:
    """A container in the words of the model."""
    host, config = container.get("HostConfig") or {}, container.get("Config") or {}
    options = security_options(host.get("SecurityOpt"))
    if host.get("MaskedPaths") == [] and not host.get("Privileged"):
        options = sorted({*options, "systempaths:unconfined"})
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    return {
        "image": str(config.get("Image") or ""),
        "user": str(config.get("User") or ""),
        "privileged": bool(host.get("Privileged")),
        "read_only": bool(host.get("ReadonlyRootfs")),
        "cap_add": capability_names(host.get("CapAdd")),
        "cap_drop": capability_names(host.get("CapDrop")),
        "security_opt": options,
        "pid": str(host.get("PidMode") or ""),
        "ipc": str(host.get("IpcMode") or ""),
        "uts": str(host.get("UTSMode") or ""),
        "userns_mode": str(host.get("UsernsMode") or ""),
        "network_mode": str(host.get("NetworkMode") or ""),
        "devices": sorted(
            device_text(item.get("PathOnHost"), item.get("PathInContainer"), item.get("CgroupPermissions"))
            for item in host.get("Devices") or ()
        ),
        "mounts": _mounts(container),
        "ports": sorted(
            port_text(entry.get("HostIp"), entry.get("HostPort"), *(key.split("/") + ["tcp"])[:2])
            for key, entries in (host.get("PortBindings") or {}).items()
            for entry in entries or ()
        ),
        "environment_keys": sorted(environment(container)),
        "limits": {
            "memory": host.get("Memory") or 0,
            "memswap": host.get("MemorySwap") or 0,
            "cpus": (host.get("NanoCpus") or 0) / 1e9,
            "pids": max(host.get("PidsLimit") or 0, 0),
        },
        "networks": sorted(networks),
        "config_hash": str(labels_of(container).get(HASH_LABEL) or ""),
    }


def _some(items: Iterable[str]) -> str:
    items = sorted(items)
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _lists(name: str, meant: Iterable[str], seen: Iterable[str]) -> str:
    """What is there too much and what is missing."""
    meant, seen = set(meant), set(seen)
    parts = []
    if seen - meant:
        parts.append(f"not rendered: {_some(seen - meant)}")
    if meant - seen:
        parts.append(f"missing: {_some(meant - seen)}")
    return f"{name}: {'; '.join(parts)}" if parts else ""


def _shared(mode: str) -> str:
    """service:NAME of a project is container:ID of the engine."""
    return "of another container" if mode.startswith(("container:", "service:")) else mode


def _figure(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def differences(expected: Mapping, container: dict, image: Mapping | None) -> list[tuple[str, str]]:
    """(field, what differs) between a service of the model and its container. image: its inspect, None when not known."""
    seen = observed(container)
    found = []
    image_config = (image or {}).get("Config") or {}
    for name, meant in expected.items():
        if name in ("image_id", "environment_optional", "expose", "on_demand"):
            continue
        text = ""
        actual = seen[name]
        if name == "user" and not meant:
            if image is not None and actual != str(image_config.get("User") or ""):
                text = f"user: {actual or 'root'}, that of the image is {image_config.get('User') or 'root'}"
        elif name in ("pid", "ipc", "uts", "userns_mode", "network_mode"):
            default = name == "ipc" and not meant and actual in ("private", "shareable", "none")
            plain = (
                name == "network_mode" and not meant and _shared(actual) not in ("host", "none", "of another container")
            )
            if not default and not plain and _shared(str(meant)) != _shared(actual):
                text = f"{name}: {actual or 'not set'}, rendered: {meant or 'not set'}"
        elif name == "mounts":
            declared = set((container.get("Config") or {}).get("Volumes") or ())
            own = {f"volume::{target}:rw" for target in declared} - set(meant)
            text = _lists(name, meant, set(actual) - own)
        elif name == "environment_keys":
            given = {str(entry).partition("=")[0] for entry in image_config.get("Env") or ()} | {"PATH"}
            given |= set(expected.get("environment_optional") or ())
            extra = set() if image is None else set(actual) - given
            text = _lists("environment", meant, (set(actual) & set(meant)) | extra)
        elif name == "limits":
            wrong = [
                f"{key} {_figure(actual[key])}, rendered: {_figure(value)}"
                for key, value in sorted(meant.items())
                if abs(float(actual[key]) - float(value)) > 1e-6
            ]
            text = f"limits: {_some(wrong)}" if wrong else ""
        elif isinstance(meant, list):
            text = _lists(name, meant, actual)
        elif meant != actual and (meant or name not in ("image", "config_hash")):
            text = f"{name}: {actual}, rendered: {meant}"
        if text:
            found.append((name, text))
    return found


def judge_drift(audit: Audit, snapshot: Snapshot, expected: Mapping[str, Mapping], projects: Iterable[str]) -> None:
    """RUN-01. ``expected``: models by project."""
    if not expected:
        audit.unknown("RUN-01", "no expected model was given")
        return
    audit.decide("RUN-01")
    uncovered = {project_of(item) for item in snapshot.active()} - set(expected) - {""}
    if uncovered:
        audit.unknown("RUN-01", f"no expected model of {', '.join(sorted(uncovered))}")
    wanted = set(projects)
    for project, model in sorted(expected.items()):
        if wanted and project not in wanted:
            continue
        mine = [item for item in snapshot.active() if project_of(item) == project]
        for service, meant in sorted((model.get("services") or {}).items()):
            on_demand = bool(meant.get("on_demand"))
            containers = [
                item
                for item in mine
                if service_of(item) == service and (on_demand or labels_of(item).get(ONEOFF_LABEL) != "True")
            ]
            ended = any(
                project_of(item) == project and service_of(item) == service and item.get("State") == "exited"
                for item in snapshot.listing
            )
            if not containers and not ended and not on_demand:
                audit.find(
                    "RUN-01", f"{project}/{service}", f"project {project}: service {service}",
                    "there is no container of this service", severity="medium",
                )  # fmt: skip
            for container in containers:
                image = snapshot.image_details.get(str(container.get("Image")))
                if image is None and "environment_keys" in meant:
                    audit.unknown("RUN-01", f"{name_of(container)}: the environment of its image is not known")
                for field, text in differences(meant, container, image):
                    where = f"{place_of(container)}: {field}"
                    audit.find("RUN-01", name_of(container), where, text, severity=_MILDER.get(field))


def _plain(reference: str) -> str:
    """A reference as the engine lists it."""
    for prefix in ("docker.io/library/", "index.docker.io/library/", "docker.io/", "index.docker.io/", "library/"):
        if reference.startswith(prefix):
            reference = reference[len(prefix) :]
            break
    name, at, digest = reference.partition("@")
    if at:
        return f"{_untagged(name)}@{digest}"
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _untagged(name: str) -> str:
    head, slash, tail = name.rpartition("/")
    return head + slash + tail.partition(":")[0]


def _short(number: str) -> str:
    return number[:19]


def _same(number: str, wanted: str) -> bool:
    """Whether an id is the one that is wanted, which may be a beginning of at least twelve digits."""
    plain, wanted = number.removeprefix("sha256:"), wanted.removeprefix("sha256:")
    return len(wanted) >= 12 and plain.startswith(wanted)


def judge_images(audit: Audit, snapshot: Snapshot, expected: Mapping[str, Mapping]) -> None:
    """RUN-02."""
    if not snapshot.active():
        audit.not_applicable("RUN-02", "no container runs")
        return
    audit.decide("RUN-02")
    tags = {tag: str(image.get("Id")) for image in snapshot.images or () for tag in image.get("RepoTags") or ()}
    digests = {str(image.get("Id")): image.get("RepoDigests") or [] for image in snapshot.images or ()}
    unpinned = []
    for container in snapshot.active():
        number, reference = str(container.get("Image") or ""), str((container.get("Config") or {}).get("Image") or "")
        model = (expected.get(project_of(container)) or {}).get("services") or {}
        locked = str((model.get(service_of(container)) or {}).get("image_id") or "")
        where = f"{place_of(container)}: Image"
        if locked:
            if not _same(number, locked):
                text = f"runs {_short(number)}, expected {_short(locked)}"
                audit.find("RUN-02", name_of(container), where, text)
            continue
        if _same(number, reference):
            continue  # named by its id
        name, at, digest = reference.partition("@")
        if at:
            if snapshot.images is None:
                audit.unknown("RUN-02", snapshot.problems.get("images", "the images are not known"))
            elif not any(entry.endswith(f"@{digest}") for entry in digests.get(number, ())) and number != digest:
                text = f"runs {_short(number)}, which is not {_short(digest)} of its reference"
                audit.find("RUN-02", name_of(container), where, text)
            continue
        tag = name.rpartition("/")[2].partition(":")[2]
        if re.fullmatch(r"[0-9a-f]{12,64}", tag) and _same(number, tag):
            continue
        now = tags.get(_plain(reference))
        if now and now != number:
            text = f"runs {_short(number)}, and {reference} is {_short(now)} by now"
            audit.find("RUN-02", name_of(container), where, text)
        else:
            unpinned.append(name_of(container))
    if unpinned:
        audit.unknown("RUN-02", f"neither a lock nor a digest says which image is meant: {', '.join(sorted(unpinned))}")
