# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a project is expected to run: a small JSON model that a deploy writes and an audit reads.

PRIVATE: internal to the collection, may change in any release. Standard library only.

``{"project": name, "services": {name: service}}``. Every key of a service may be missing: what is not in the model is
not compared. Lists are sorted and hold one short text per entry, so that a difference is readable:

image          reference, as stated
image_id       sha256:... that the reference named when it was deployed
user           user[:group]; empty for that of the image
privileged, read_only    true or false
cap_add, cap_drop        names in upper case without CAP_
security_opt   name:value, no-new-privileges with its value; a seccomp profile without its text
pid, ipc, uts, userns_mode, network_mode    as stated, empty for the default
devices        host:container:permissions
mounts         bind:SOURCE:TARGET:ro|rw, volume:NAME:TARGET:ro|rw, tmpfs:TARGET:OPTIONS
ports          ADDRESS:PORT:TARGET/PROTOCOL, the first two as stated
expose         PORT/PROTOCOL
environment_keys, environment_optional    names; the second ones have no value in the project
limits         memory, memswap (bytes), cpus, pids; 0 for none, memswap only where stated
networks       names as the engine has them
config_hash    label com.docker.compose.config-hash
on_demand      true: it belongs to a profile, so there is a container of it only while somebody runs one
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

#: What a model may say of a service, and of which type it is.
FIELDS: dict[str, type] = {
    "image": str, "image_id": str, "user": str, "privileged": bool, "read_only": bool, "cap_add": list,
    "cap_drop": list, "security_opt": list, "pid": str, "ipc": str, "uts": str, "userns_mode": str,
    "network_mode": str, "devices": list, "mounts": list, "ports": list, "expose": list, "environment_keys": list,
    "environment_optional": list, "limits": dict, "networks": list, "config_hash": str,
    "on_demand": bool,
}  # fmt: skip
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True", ""})


class ModelError(ValueError):
    """A model that cannot be used: a sentence."""


def to_bytes(value: object) -> int:
    """Bytes of a size as Compose writes it (512m, "268435456", 1.5gb); 0 for none or no size."""
    if isinstance(value, bool) or value is None:
        return 0
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?\s*", str(value).lower())
    return int(float(match.group(1)) * _UNITS[match.group(2)]) if match else 0


def _number(value: object) -> float:
    try:
        return max(float(str(value)), 0.0)
    except ValueError:
        return 0.0


def capability_names(names: Iterable | None) -> list[str]:
    """Upper case, without the prefix, sorted."""
    return sorted({str(name).strip().upper().removeprefix("CAP_") for name in names or ()})


def security_options(entries: Iterable | None) -> list[str]:
    """name:value in one spelling, sorted."""
    found = set()
    for entry in entries or ():
        entry = str(entry).strip()
        name, _rest, value = entry.partition("=" if "=" in entry else ":")
        if name == "no-new-privileges":
            value = "true" if value in _TRUE else "false"
        elif name == "seccomp" and value not in ("unconfined", "builtin"):
            value = "profile"
        found.add(f"{name}:{value}")
    return sorted(found)


def mount_text(kind: str, source: object, target: object, read_only: object) -> str:
    """One mount in one line."""
    return f"{kind}:{source or ''}:{target}:{'ro' if read_only else 'rw'}"


def tmpfs_text(target: object, options: Iterable[str]) -> str:
    """A tmpfs with its options in one order, sizes in bytes and modes without leading zeros."""
    spelt = set()
    for option in options:
        name, equals, value = option.strip().partition("=")
        if name == "size" and to_bytes(value):
            value = str(to_bytes(value))
        elif name == "mode":
            value = value.lstrip("0") or "0"
        if name and name != "rw":  # the engine's default
            spelt.add(name + equals + value)
    return f"tmpfs:{target}:{','.join(sorted(spelt))}"


def device_text(host: object, container: object, permissions: object) -> str:
    """One device in one line."""
    return f"{host}:{container or host}:{permissions or 'rwm'}"


def port_text(address: object, published: object, target: object, protocol: object) -> str:
    """One published port in one line."""
    number = "" if published in (None, 0, "0") else str(published)
    return f"{address or ''}:{number}:{target}/{protocol or 'tcp'}"


def _list(value: object) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _volume_mount(entry: Mapping, project: str, volumes: Mapping) -> str:
    kind = str(entry.get("type") or "volume")
    target = entry.get("target")
    if kind == "tmpfs":
        options = entry.get("tmpfs") or {}
        texts = [f"size={options['size']}"] if options.get("size") else []
        if options.get("mode"):
            texts.append(f"mode={int(options['mode']):o}")
        return tmpfs_text(target, texts)
    source = entry.get("source")
    if kind == "volume" and source:
        source = _real_name(str(source), project, volumes)
    return mount_text(kind, source, target, entry.get("read_only"))


def _real_name(key: str, project: str, declared: Mapping) -> str:
    """What the engine calls a volume or network of the project."""
    stated = declared.get(key) or {}
    if stated.get("name"):
        return str(stated["name"])
    return key if stated.get("external") or not project else f"{project}_{key}"


def _files(service: Mapping, kind: str, declared: Mapping) -> list[str]:
    found = []
    for entry in service.get(kind) or ():
        entry = {"source": entry} if isinstance(entry, str) else entry
        path = (declared.get(str(entry.get("source"))) or {}).get("file")
        default = f"/run/secrets/{entry.get('source')}" if kind == "secrets" else f"/{entry.get('source')}"
        target = str(entry.get("target") or default)
        if kind == "secrets" and not target.startswith("/"):
            target = f"/run/secrets/{target}"
        if path:
            found.append(mount_text("bind", path, target, True))
    return found


def _limits(service: Mapping) -> dict:
    stated = ((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    limits = {
        "memory": to_bytes(service.get("mem_limit") or stated.get("memory")),
        "cpus": _number(service.get("cpus") or stated.get("cpus") or 0),
        "pids": int(_number(service.get("pids_limit") or stated.get("pids") or 0)),
    }
    if service.get("memswap_limit") is not None:
        swap = service["memswap_limit"]
        limits["memswap"] = -1 if str(swap).startswith("-") else to_bytes(swap)
    return limits


def _service(service: Mapping, project: str, top: Mapping[str, Mapping]) -> dict:
    environment = service.get("environment") or {}
    if not isinstance(environment, Mapping):
        pairs = (str(entry).partition("=") for entry in environment)
        environment = {name: value if equals else None for name, equals, value in pairs}
    mounts = [_volume_mount(entry, project, top["volumes"]) for entry in service.get("volumes") or ()]
    for entry in _list(service.get("tmpfs")):
        target, _rest, options = str(entry).partition(":")
        mounts.append(tmpfs_text(target, options.split(",")))
    mounts += _files(service, "secrets", top["secrets"]) + _files(service, "configs", top["configs"])
    mode = str(service.get("network_mode") or "")
    networks = service.get("networks")
    keys = list(networks) if networks else [] if mode else ["default"]
    devices = []
    for entry in service.get("devices") or ():
        if isinstance(entry, Mapping):
            devices.append(device_text(entry.get("source"), entry.get("target"), entry.get("permissions")))
        else:
            devices.append(device_text(*(str(entry).split(":") + ["", ""])[:3]))
    ports = [
        port_text(entry.get("host_ip"), entry.get("published"), entry.get("target"), entry.get("protocol"))
        for entry in service.get("ports") or ()
    ]
    exposed = [str(entry) for entry in _list(service.get("expose"))]
    labels = service.get("labels") or {}
    model = {
        "image": str(service.get("image") or ""),
        "user": str(service.get("user") or ""),
        "privileged": bool(service.get("privileged")),
        "read_only": bool(service.get("read_only")),
        "cap_add": capability_names(service.get("cap_add")),
        "cap_drop": capability_names(service.get("cap_drop")),
        "security_opt": security_options(service.get("security_opt")),
        **{key: str(service.get(key) or "") for key in ("pid", "ipc", "uts", "userns_mode")},
        "network_mode": mode,
        "devices": sorted(devices),
        "mounts": sorted(mounts),
        "ports": sorted(ports),
        "expose": sorted(text if "/" in text else f"{text}/tcp" for text in exposed),
        "environment_keys": sorted(str(name) for name, value in environment.items() if value is not None),
        "environment_optional": sorted(str(name) for name, value in environment.items() if value is None),
        "limits": _limits(service),
        "networks": sorted(_real_name(str(key), project, top["networks"]) for key in keys),
    }
    if not model["image"]:
        del model["image"]  # built here: Compose chooses the name
    if service.get("profiles"):
        model["on_demand"] = True
    hashed = labels.get("com.docker.compose.config-hash") if isinstance(labels, Mapping) else None
    if hashed:
        model["config_hash"] = str(hashed)
    return model


def model_from_services(
    services: Mapping[str, Mapping],
    project: str = "",
    *,
    volumes: Mapping | None = None,
    networks: Mapping | None = None,
    secrets: Mapping | None = None,
    configs: Mapping | None = None,
    image_ids: Mapping[str, str] | None = None,
    config_hashes: Mapping[str, str] | None = None,
) -> dict:
    """The model of merged service dicts, as ``docker compose config --format json`` prints them.

    project: its name; volumes and networks are then called PROJECT_NAME, as Compose does. volumes, networks, secrets,
    configs: the top level of the project, for those with a name or a file of their own. image_ids, config_hashes: by
    service, what the deploy knows (``docker compose config --hash '*'``).
    """
    top = {
        "volumes": volumes or {}, "networks": networks or {}, "secrets": secrets or {}, "configs": configs or {},
    }  # fmt: skip
    found = {}
    for name in sorted(services):
        model = _service(services[name], project, top)
        if (image_ids or {}).get(name):
            model["image_id"] = str((image_ids or {})[name])
        if (config_hashes or {}).get(name):
            model["config_hash"] = str((config_hashes or {})[name])
        found[name] = model
    return {"project": project, "services": found}


def model_from_project(
    project: Mapping, image_ids: Mapping[str, str] | None = None, config_hashes: Mapping[str, str] | None = None
) -> dict:
    """The model of a whole project, as ``docker compose config --format json`` prints it."""
    return model_from_services(
        project.get("services") or {}, str(project.get("name") or ""),
        volumes=project.get("volumes"), networks=project.get("networks"), secrets=project.get("secrets"),
        configs=project.get("configs"), image_ids=image_ids, config_hashes=config_hashes,
    )  # fmt: skip


def read_model(text: str) -> dict:
    """Check a model somebody wrote. Raises ModelError."""
    try:
        model = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"is not JSON: {error}") from error
    if not isinstance(model, dict) or not isinstance(model.get("project"), str) or not model["project"]:
        raise ModelError('needs "project", the name of the compose project')
    services = model.get("services")
    if not isinstance(services, dict) or not all(isinstance(service, dict) for service in services.values()):
        raise ModelError('needs "services", an object with an object for each service')
    for name, service in services.items():
        for key, value in service.items():
            if key not in FIELDS:
                raise ModelError(f"services.{name}: {key!r} is none of {', '.join(sorted(FIELDS))}")
            if not isinstance(value, FIELDS[key]):
                raise ModelError(f"services.{name}.{key}: is no {FIELDS[key].__name__}")
            if isinstance(value, list) and not all(isinstance(item, str) for item in value):
                raise ModelError(f"services.{name}.{key}: holds something else than text")
        limits = service.get("limits") or {}
        for key, value in limits.items():
            if key not in ("memory", "memswap", "cpus", "pids") or isinstance(value, bool):
                raise ModelError(f"services.{name}.limits: {key!r} is no limit")
            if not isinstance(value, (int, float)):
                raise ModelError(f"services.{name}.limits.{key}: is no number")
    return model
