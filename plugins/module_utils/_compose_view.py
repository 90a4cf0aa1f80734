# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service of a Compose project as the neutral view that the rules for containers judge.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_load import Project
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import (
    ContainerView,
    Device,
    DeviceRequest,
    Healthcheck,
    Logging,
    Mount,
    Network,
    Port,
    Tmpfs,
    Unknown,
)

#: Where a field of the view is found in a service; the fields that need more are in ``_places``.
KEYS = {
    "command": "command",
    "cap_add": "cap_add",
    "cap_drop": "cap_drop",
    "cgroup_mode": "cgroup",
    "cpu_quota": "cpu_quota",
    "cpu_shares": "cpu_shares",
    "cpus": "cpus",
    "device_cgroup_rules": "device_cgroup_rules",
    "devices": "devices",
    "entrypoint": "entrypoint",
    "environment": "environment",
    "healthcheck": "healthcheck",
    "image": "image",
    "ipc_mode": "ipc",
    "logging": "logging",
    "memory": "mem_limit",
    "memswap": "memswap_limit",
    "network_mode": "network_mode",
    "networks": "networks",
    "oom_kill_disable": "oom_kill_disable",
    "oom_score_adj": "oom_score_adj",
    "pid_mode": "pid",
    "pids": "pids_limit",
    "ports": "ports",
    "privileged": "privileged",
    "read_only": "read_only",
    "restart": "restart",
    "security_opt": "security_opt",
    "ulimits": "ulimits",
    "user": "user",
    "userns_mode": "userns_mode",
    "uts_mode": "uts",
}

#: Most services that are named as writers of one volume.
MOST_NAMED = 8


def _map(value: object) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    """A scalar as Compose hands it on; None where nothing is stated."""
    return None if value is None or isinstance(value, (Mapping, list)) else values.text(value)


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, (str, int, float)):
        value = [value]
    return tuple(values.text(item) for item in value) if isinstance(value, list) else ()


def _whole(value: object) -> int | None:
    found = values.number(value)
    return int(found) if found is not None and abs(found) < 1 << 62 else None


def _ports(project: Project, name: str, service: Mapping) -> list[tuple[Port, int]]:
    """Ports with their index; the parts of a range, which Compose writes as entries of their own, become one again."""
    order: dict[str, int] = {}
    parts: list[tuple[int, str, str, int, tuple[int, int], Port, int]] = []
    for port in values.ports(service):
        try:
            outside = [int(part) for part in port.published.split("-")] if port.published else []
        except ValueError:
            outside = []
        published = (outside[0], outside[-1]) if any(outside) else None
        line = order.setdefault(project.where(name, "ports", port.index), len(order))
        fresh = Port((port.target, port.target), published, port.host_ip or None, port.protocol)
        parts.append((line, port.host_ip, port.protocol, port.target, published or (0, 0), fresh, port.index))
    found: list[tuple[Port, int]] = []
    last = -1
    for line, *_rest, fresh, index in sorted(parts, key=lambda part: part[:5]):
        if line == last and (joined := _joined(found[-1][0], fresh)) is not None:
            found[-1] = (joined, found[-1][1])
        else:
            found.append((fresh, index))
        last = line
    return found


def _joined(one: Port, other: Port) -> Port | None:
    """Two ports as one range; None when the second does not follow the first."""
    if (one.address, one.protocol) != (other.address, other.protocol) or other.target[0] != one.target[1] + 1:
        return None
    if one.published is None or other.published is None:
        return replace(one, target=(one.target[0], other.target[1])) if one.published == other.published else None
    if other.published[0] != one.published[1] + 1:
        return None
    return replace(one, target=(one.target[0], other.target[1]), published=(one.published[0], other.published[1]))


def _network(project: Project, name: str) -> Network:
    body = _map(project.networks.get(name))
    external = bool(body.get("external"))
    ipam = _map(body.get("ipam")).get("config")
    subnets = tuple(
        str(entry["subnet"]) for entry in (ipam if isinstance(ipam, list) else []) if _map(entry).get("subnet")
    )
    elsewhere = Unknown(f"network {name} is made outside of this project")
    real = _text(body.get("name")) or name
    return Network(
        # the engine's own networks keep their meaning under whatever key a file gives them
        name=real if external and real in ("host", "bridge", "none") else name,
        internal=elsewhere if external else values.flag(body.get("internal")) is True,
        driver=_text(body.get("driver")),
        ipv6=elsewhere if external else values.flag(body.get("enable_ipv6")),
        options={str(key): _text(value) or "" for key, value in _map(body.get("driver_opts")).items()},
        subnets=subnets,
        external=external,
        place=project.place("networks", name),
    )


def networks(project: Project) -> dict[str, Network]:
    """Every network of the project that a service is on, or that is declared."""
    used = {name for service in project.services.values() for name in values.networks(service)}
    return {name: _network(project, name) for name in sorted(used | set(project.networks))}


def writers(project: Project, services: Iterable[str]) -> dict[str, list[str]]:
    """Names of the services that write a named volume, by volume: sorted, and no more than are worth naming."""
    found: dict[str, set[str]] = {}
    for name in services:
        for mount in values.volumes(project.services[name]):
            if mount.type == "volume" and mount.source and not mount.read_only:
                found.setdefault(mount.source, set()).add(name)
    return {volume: sorted(names)[:MOST_NAMED] for volume, names in found.items()}


def _restart(service: Mapping) -> str | None:
    """The policy of the container: ``restart``, or what ``deploy.restart_policy`` becomes under Compose."""
    stated = _text(service.get("restart"))
    policy = _map(_map(service.get("deploy")).get("restart_policy"))
    if stated is None and policy:
        condition = _text(policy.get("condition")) or "any"
        if condition == "on-failure":
            attempts = _whole(policy.get("max_attempts"))
            return f"on-failure:{attempts}" if attempts else "on-failure"
        return "no" if condition == "none" else "unless-stopped" if condition == "unless-stopped" else "always"
    return stated


def privileged_steps(service: Mapping) -> list[tuple[str, tuple]]:
    """What runs privileged beside the container itself: commands started in it, and its build. With where it is stated."""
    found = []
    for key in ("post_start", "pre_stop"):
        hooks = service.get(key)
        for index, hook in enumerate(hooks if isinstance(hooks, list) else []):
            if values.flag(_map(hook).get("privileged")):
                found.append((f"{key} with privileged: true", (key, index)))
    if values.flag(_map(service.get("build")).get("privileged")):
        found.append(("build with privileged: true", ("build", "privileged")))
    return found


def _device_requests(service: Mapping) -> list[tuple[DeviceRequest, tuple]]:
    base = ("deploy", "resources", "reservations", "devices")
    listed: object = service
    for key in base:
        listed = _map(listed).get(key)
    found = []
    sources: list[tuple[object, tuple]] = [(listed, base), (service.get("gpus"), ("gpus",))]
    for entries, keypath in sources:
        if entries == "all":
            found.append((DeviceRequest("nvidia", -1, (), ("gpu",)), keypath))
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            entry = _map(entry)
            count = entry.get("count")
            request = DeviceRequest(
                driver=_text(entry.get("driver")),
                count=-1 if count == "all" else _whole(count),
                ids=_texts(entry.get("device_ids")),
                capabilities=_texts(entry.get("capabilities")),
            )
            found.append((request, (*keypath, index)))
    return found


def _places(
    project: Project, name: str, special: Mapping[str, tuple], mounts: list[tuple], tmpfs: list[tuple]
) -> Callable:
    def where(field: str, key: object = None) -> str:
        if field in ("mounts", "tmpfs"):
            listed = mounts if field == "mounts" else tmpfs
            return project.where(name, *listed[key]) if isinstance(key, int) else project.where(name)
        if field in ("ports", "device_requests") and isinstance(key, int):
            return project.where(name, *special[field][key])
        keypath = special.get(field) or ((KEYS[field],) if field in KEYS else ())
        if key is not None:
            keypath = (*keypath, key)
        return project.where(name, *keypath)

    return where


@dataclass(frozen=True)
class Context:
    """What the views of all services share. host: files of the host on which the project runs, if they are known."""

    project: Project
    networks: Mapping[str, Network]
    writers: Mapping[str, list[str]]
    peers: frozenset[str]
    host: Files | None = None


def context(project: Project, services: Iterable[str], host: Files | None = None) -> Context:
    """The context of a project of which these services are judged."""
    return Context(project, networks(project), writers(project, services), frozenset(project.services), host)


def view(shared: Context, name: str) -> ContainerView:
    """The view of one service."""
    project, nets, host = shared.project, shared.networks, shared.host
    service = project.services[name]
    limits = values.limits(service)
    mounts: list[Mount] = []
    mount_keys: list[tuple] = []
    tmpfs: list[Tmpfs] = []
    tmpfs_keys: list[tuple] = []
    for mount in values.volumes(service):
        if mount.type == "tmpfs":
            options = tuple(
                option if value is True else f"{option}={value}"
                for option, value in mount.options.items()
                if value not in (None, "")
            )
            tmpfs.append(Tmpfs(mount.target, options))
            tmpfs_keys.append((mount.key, mount.index))
            continue
        mounts.append(_mount(project, name, mount, shared.writers, host))
        mount_keys.append((mount.key, mount.index))
    if values.flag(service.get("use_api_socket")):
        mounts.append(Mount("bind", "/var/run/docker.sock", "/var/run/docker.sock"))
        mount_keys.append(("use_api_socket",))
    for mount, keypath in (*_granted_files(project, service, host), *_inherited(project, name, host)):
        mounts.append(mount)
        mount_keys.append(keypath)
    ports = _ports(project, name, service)
    requests = _device_requests(service)
    special = {
        "cpus": limits.cpus_key,
        "memory": limits.memory_key,
        "pids": limits.pids_key,
        "ports": [("ports", index) for _port, index in ports],
        "device_requests": [keypath for _request, keypath in requests],
    }
    check = values.healthcheck(service)
    log = values.logging(service)
    credentials = _text(service.get("user"))
    return ContainerView(
        name=name,
        subject=f"service {name}",
        place=project.where(name),
        places=_places(project, name, special, mount_keys, tmpfs_keys),
        image=_text(service.get("image")),
        user=credentials,
        privileged=values.flag(service.get("privileged")),
        cap_add=_texts(service.get("cap_add")),
        cap_drop=_texts(service.get("cap_drop")),
        security_opt=_texts(service.get("security_opt")),
        read_only=values.flag(service.get("read_only")),
        tmpfs=tuple(tmpfs),
        memory=limits.memory,
        memswap=limits.swap,
        cpus=limits.cpus,
        cpu_quota=limits.cpu_quota,
        cpu_shares=limits.cpu_shares,
        cpuset=limits.cpuset or None,
        pids=limits.pids,
        ulimits={key: (limit.soft, limit.hard) for key, limit in values.ulimits(service).items()},
        oom_kill_disable=values.flag(service.get("oom_kill_disable")),
        oom_score_adj=_whole(service.get("oom_score_adj")),
        restart=_restart(service),
        healthcheck=None if check is None else Healthcheck(check.test, check.disabled),
        network_mode=_text(service.get("network_mode")),
        pid_mode=_text(service.get("pid")),
        ipc_mode=_text(service.get("ipc")),
        uts_mode=_text(service.get("uts")),
        cgroup_mode=_text(service.get("cgroup")),
        userns_mode=_text(service.get("userns_mode")),
        mounts=tuple(mounts),
        devices=tuple(Device(*device[:3]) for device in values.devices(service)),
        device_cgroup_rules=_texts(service.get("device_cgroup_rules")),
        device_requests=tuple(request for request, _keypath in requests),
        ports=tuple(port for port, _index in ports),
        networks=tuple(nets[net] for net in values.networks(service) if net in nets),
        logging=Logging(log.driver or None, log.options) if service.get("logging") else None,
        sysctls={key: value or "" for key, value in values.pairs(service.get("sysctls"), "").items()},
        environment=project.environment(name),
        command=_words(service, "command"),
        entrypoint=_words(service, "entrypoint"),
        labels=values.labels(service),
        scale=values.replicas(service),
        peers=shared.peers,
    )


def _granted_files(project: Project, service: Mapping, host: Files | None) -> list[tuple[Mount, tuple]]:
    """Secrets and configs that are files of the host: Compose binds them read-only."""
    found = []
    for key, grants, declared in (
        ("secrets", values.secrets(service), project.secrets),
        ("configs", values.configs(service), project.configs),
    ):
        for grant in grants:
            source = _text(_map(declared.get(grant.source)).get("file"))
            if source:
                mount = Mount("bind", source, grant.target, True, exists=_exists(source, host), creates=False)
                found.append((mount, (key, grant.index)))
    return found


def _inherited(project: Project, name: str, host: Files | None) -> list[tuple[Mount, tuple]]:
    """Mounts taken from another service with ``volumes_from``."""
    found = []
    listed = project.services[name].get("volumes_from")
    for index, entry in enumerate(listed if isinstance(listed, list) else []):
        source, _rest, mode = str(entry).partition(":")
        if source == name or source not in project.services:
            continue
        for mount in values.volumes(project.services[source]):
            if mount.type != "tmpfs":
                taken = replace(_mount(project, name, mount, {}, host), exists=None)
                found.append((replace(taken, read_only=taken.read_only or mode == "ro"), ("volumes_from", index)))
    return found


def _exists(path: str, host: Files | None) -> bool | None:
    if host is None or not path.startswith("/") or not host.knows(path):
        return None
    return host.stat(path) is not None


def _words(service: Mapping, key: str) -> tuple[str, ...] | None:
    words = values.command(service, key)
    return None if words is None else tuple(words)


def _mount(
    project: Project, name: str, mount: values.Mount, shared: Mapping[str, list[str]], host: Files | None
) -> Mount:
    exists = None
    volume: Mapping = {}
    others: tuple[str, ...] = ()
    if mount.type == "bind":
        exists = _exists(mount.source, host)
    elif mount.type == "volume" and mount.source:
        volume = _map(project.volumes.get(mount.source))
        others = tuple(other for other in shared.get(mount.source, ()) if other != name)
    return Mount(
        type=mount.type,
        source=mount.source or None,
        target=mount.target,
        read_only=mount.read_only,
        propagation=mount.propagation or None,
        driver=_text(volume.get("driver")),
        driver_opts={str(key): _text(value) or "" for key, value in _map(volume.get("driver_opts")).items()},
        shared_with=others,
        exists=exists,
        creates=values.flag(mount.options.get("create_host_path")) is not False,
    )
