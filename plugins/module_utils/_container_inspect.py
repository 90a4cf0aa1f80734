# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container as the engine's inspect has it, in the words of ``ContainerView``.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping

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
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import (
    NETWORK_LABEL,
    Snapshot,
    labels_of,
    name_of,
    project_of,
    service_of,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._proc_table import ProcessTable

#: Where inspect states a field of the view.
_PLACES = {
    "privileged": "HostConfig.Privileged",
    "cap_add": "HostConfig.CapAdd",
    "cap_drop": "HostConfig.CapDrop",
    "security_opt": "HostConfig.SecurityOpt",
    "user": "Config.User",
    "read_only": "HostConfig.ReadonlyRootfs",
    "tmpfs": "HostConfig.Tmpfs",
    "memory": "HostConfig.Memory",
    "memswap": "HostConfig.MemorySwap",
    "cpus": "HostConfig.NanoCpus",
    "cpu_shares": "HostConfig.CpuShares",
    "pids": "HostConfig.PidsLimit",
    "ulimits": "HostConfig.Ulimits",
    "oom_kill_disable": "HostConfig.OomKillDisable",
    "oom_score_adj": "HostConfig.OomScoreAdj",
    "restart": "HostConfig.RestartPolicy",
    "healthcheck": "Config.Healthcheck",
    "network_mode": "HostConfig.NetworkMode",
    "pid_mode": "HostConfig.PidMode",
    "ipc_mode": "HostConfig.IpcMode",
    "uts_mode": "HostConfig.UTSMode",
    "cgroup_mode": "HostConfig.CgroupnsMode",
    "userns_mode": "HostConfig.UsernsMode",
    "mounts": "Mounts",
    "devices": "HostConfig.Devices",
    "device_cgroup_rules": "HostConfig.DeviceCgroupRules",
    "device_requests": "HostConfig.DeviceRequests",
    "ports": "NetworkSettings.Ports",
    "networks": "NetworkSettings.Networks",
    "logging": "HostConfig.LogConfig",
    "environment": "Config.Env",
    "command": "Config.Cmd",
    "entrypoint": "Config.Entrypoint",
}


def place_of(container: dict, field: str = "") -> str:
    """Where a finding about a container, or one field of its inspect, is."""
    base = f"container {name_of(container)}"
    return f"{base}: {_PLACES[field]}" if field in _PLACES else base


def environment(container: dict) -> dict[str, str]:
    """The environment as a mapping; of a name that comes twice the last counts."""
    pairs = (str(entry).partition("=") for entry in (container.get("Config") or {}).get("Env") or ())
    return {name: value for name, _equals, value in pairs}


def health_of(container: dict) -> Healthcheck | None:
    """The check that the engine runs: that of the container, or of its image."""
    check = (container.get("Config") or {}).get("Healthcheck") or {}
    test = tuple(str(word) for word in check.get("Test") or ())
    return Healthcheck(test) if test else None


def _number(text: object) -> int | None:
    return int(str(text)) if str(text).isdigit() else None


def ports_of(container: dict) -> tuple[Port, ...]:
    """What is published now; of a container without a network, what it is configured to publish.

    Both families of one port become one entry without an address, which is what was asked of the engine.
    """
    actual = (container.get("NetworkSettings") or {}).get("Ports") or {}
    bound = {key: entries for key, entries in actual.items() if entries}
    configured = (container.get("HostConfig") or {}).get("PortBindings") or {}
    for key, entries in configured.items():
        if entries and key not in bound:
            bound[key] = entries
    found = set()
    for key, entries in bound.items():
        target, _rest, protocol = key.partition("/")
        inside = _number(target)
        if inside is None:
            continue
        outside: dict[int | None, set[str]] = {}
        for entry in entries:
            outside.setdefault(_number(entry.get("HostPort")) or None, set()).add(str(entry.get("HostIp") or ""))
        for number, addresses in outside.items():
            if "" in addresses or addresses >= {"0.0.0.0", "::"}:  # noqa: S104
                addresses = {""} | (addresses - {"0.0.0.0", "::"})  # noqa: S104
            for address in addresses:
                published = (number, number) if number else None
                found.add(Port((inside, inside), published, address or None, protocol or "tcp"))
    return tuple(
        sorted(found, key=lambda port: (port.target, port.protocol, port.published or (0, 0), port.address or ""))
    )


def _tmpfs(host: dict) -> tuple[Tmpfs, ...]:
    found = [
        Tmpfs(target, tuple(option for option in str(options or "").split(",") if option))
        for target, options in (host.get("Tmpfs") or {}).items()
    ]
    for mount in host.get("Mounts") or ():
        if mount.get("Type") == "tmpfs":
            asked = mount.get("TmpfsOptions") or {}
            options = [":".join(pair) if len(pair) > 1 else pair[0] for pair in asked.get("Options") or () if pair]
            if asked.get("SizeBytes"):
                options.append(f"size={asked['SizeBytes']}")
            found.append(Tmpfs(str(mount.get("Target")), tuple(options)))
    return tuple(sorted(found, key=lambda item: item.target))


def _mounts(container: dict, volumes: Mapping[str, dict], writers: Mapping[str, set[str]]) -> tuple[Mount, ...]:
    found = []
    for mount in container.get("Mounts") or ():
        kind = str(mount.get("Type") or "bind")
        if kind == "tmpfs":
            continue
        volume = str(mount.get("Name") or "") if kind == "volume" else ""
        shared = writers.get(volume, set()) - {service_of(container)} if volume and mount.get("RW") else set()
        found.append(
            Mount(
                type=kind,
                source=volume or mount.get("Source") or None,
                target=str(mount.get("Destination") or ""),
                read_only=not mount.get("RW"),
                propagation=mount.get("Propagation") or None,
                driver=mount.get("Driver") or None,
                driver_opts={k: str(v) for k, v in ((volumes.get(volume) or {}).get("Options") or {}).items()},
                shared_with=tuple(sorted(shared)),
            )
        )
    return tuple(sorted(found, key=lambda item: (item.target, item.source or "")))


def network_view(network: dict, project: str = "") -> Network:
    """A network by the name that its project gives it, or by its own where it belongs to nobody or another one."""
    labels = network.get("Labels") or {}
    own = project and labels.get("com.docker.compose.project") == project
    configs = (network.get("IPAM") or {}).get("Config") or ()
    return Network(
        name=str((own and labels.get(NETWORK_LABEL)) or network.get("Name")),
        internal=bool(network.get("Internal")),
        driver=network.get("Driver"),
        ipv6=bool(network.get("EnableIPv6")),
        options={key: str(value) for key, value in (network.get("Options") or {}).items()},
        subnets=tuple(str(item.get("Subnet")) for item in configs if _subnet(item.get("Subnet"))),
        external=not own,
        place=f"network {network.get('Name')}",
    )


def _subnet(text: object) -> bool:
    try:
        ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        return False
    return True


def _networks(container: dict, networks: Mapping[str, dict] | None) -> tuple[Network, ...]:
    found = []
    for name, endpoint in ((container.get("NetworkSettings") or {}).get("Networks") or {}).items():
        if name in ("host", "none"):
            continue
        network = (networks or {}).get(str((endpoint or {}).get("NetworkID"))) or (networks or {}).get(name)
        if network:
            found.append(network_view(network, project_of(container)))
        else:
            unseen = Unknown("the engine did not say what this network is like")
            found.append(Network(name, internal=unseen, ipv6=unseen))
    return tuple(sorted(found, key=lambda item: item.name))


def _restart(host: dict) -> str:
    policy = host.get("RestartPolicy") or {}
    name = str(policy.get("Name") or "no")
    count = policy.get("MaximumRetryCount") or 0
    return f"{name}:{count}" if name == "on-failure" and count else name


def _words(value: str | Iterable | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(str(word) for word in value)


def _strings(value: Iterable | None) -> tuple[str, ...]:
    return tuple(str(item) for item in value or ())


def configured_root(container: dict) -> bool:
    """Whether the configured user is root, or none, in any spelling."""
    name = str((container.get("Config") or {}).get("User") or "").partition(":")[0].strip()
    digits = name.lstrip("+-")
    return name in ("", "root") or (digits.isdigit() and int(digits) == 0)


def _user(container: dict, table: ProcessTable, sessions: Collection[int]) -> tuple[str, frozenset[int] | None]:
    """(the user, uids of the processes where they decide instead of the user).

    They do for a container that begins as root and for one whose user is a name. A number without a group gets the group
    that the kernel has.
    """
    user = str((container.get("Config") or {}).get("User") or "")
    processes = [item for item in table.of(container["Id"]) if item.alive and item.pid not in sessions]
    if not processes:
        return user, None
    inside = table.maps.get(container["Id"])
    uids = frozenset((inside.inside(uid) if inside else uid) for item in processes for uid in item.uids)
    if configured_root(container):
        return user, uids
    name, _rest, group = user.partition(":")
    if not name.isdigit():
        return user, uids - {0}  # a process of root is then not what was configured: RUN-03
    if not group and not (inside and inside.remapped):
        return f"{name}:{processes[0].gids[1]}", None
    return user, None


def writers_of(snapshot: Snapshot) -> dict[str, set[str]]:
    """Services that mount a volume writable, by its name."""
    found: dict[str, set[str]] = {}
    for container in snapshot.containers:
        for mount in container.get("Mounts") or ():
            if mount.get("Type") == "volume" and mount.get("Name") and mount.get("RW"):
                found.setdefault(str(mount["Name"]), set()).add(service_of(container))
    return found


def view_of(
    container: dict,
    snapshot: Snapshot,
    table: ProcessTable,
    sessions: Collection[int] = (),
    writers: Mapping[str, set[str]] | None = None,
) -> ContainerView:
    """The container as it runs. ``sessions``: numbers of processes that exec sessions started."""
    host, config = container.get("HostConfig") or {}, container.get("Config") or {}
    volumes = {str(item.get("Name")): item for item in snapshot.volumes or ()}
    by_network = {str(item.get("Id")): item for item in snapshot.networks or ()}
    by_network.update({str(item.get("Name")): item for item in snapshot.networks or ()})
    networks = _networks(container, by_network)
    mode = str(host.get("NetworkMode") or "") or None
    if mode in ("default", "bridge") and any(network.name == "bridge" for network in networks):
        mode = None  # the network itself says it
    user, uids = _user(container, table, sessions)
    project = project_of(container)
    # Where control groups of a container's own are not the engine's default, "host" is what nobody asked for.
    cgroup = host.get("CgroupnsMode") if "name=cgroupns" in snapshot.security else None
    return ContainerView(
        name=service_of(container),
        subject=name_of(container),
        place=place_of(container),
        places=lambda field, _key=None: place_of(container, field),
        image=str(config.get("Image") or "") or None,
        image_user=None,
        image_healthcheck=None,
        user=user or None,
        process_uids=uids,
        privileged=bool(host.get("Privileged")),
        cap_add=_strings(host.get("CapAdd")),
        cap_drop=_strings(host.get("CapDrop")),
        security_opt=_strings(host.get("SecurityOpt")),
        read_only=bool(host.get("ReadonlyRootfs")),
        tmpfs=_tmpfs(host),
        memory=host.get("Memory") or None,
        memswap=host.get("MemorySwap") or None,
        cpus=(host.get("NanoCpus") or 0) / 1e9 or None,
        cpu_quota=host.get("CpuQuota") or None,
        cpu_shares=host.get("CpuShares") or None,
        cpuset=host.get("CpusetCpus") or None,
        pids=host.get("PidsLimit"),
        ulimits={str(item["Name"]): (item.get("Soft", 0), item.get("Hard", 0)) for item in host.get("Ulimits") or ()},
        oom_kill_disable=bool(host.get("OomKillDisable")),
        oom_score_adj=host.get("OomScoreAdj") or 0,
        restart=_restart(host),
        healthcheck=health_of(container),
        network_mode=mode,
        pid_mode=host.get("PidMode") or None,
        ipc_mode=host.get("IpcMode") or None,
        uts_mode=host.get("UTSMode") or None,
        cgroup_mode=cgroup or None,
        userns_mode=host.get("UsernsMode") or None,
        mounts=_mounts(container, volumes, writers_of(snapshot) if writers is None else writers),
        devices=tuple(
            Device(
                str(item.get("PathOnHost")), str(item.get("PathInContainer") or ""), str(item.get("CgroupPermissions"))
            )
            for item in host.get("Devices") or ()
        ),
        device_cgroup_rules=_strings(host.get("DeviceCgroupRules")),
        device_requests=tuple(
            DeviceRequest(
                item.get("Driver") or None,
                item.get("Count"),
                _strings(item.get("DeviceIDs")),
                tuple(str(word) for group in item.get("Capabilities") or () for word in group),
            )
            for item in host.get("DeviceRequests") or ()
        ),
        ports=ports_of(container),
        networks=networks,
        logging=Logging(
            (host.get("LogConfig") or {}).get("Type") or None,
            {key: str(value) for key, value in ((host.get("LogConfig") or {}).get("Config") or {}).items()},
        ),
        sysctls={key: str(value) for key, value in (host.get("Sysctls") or {}).items()},
        environment=environment(container),
        command=_words(config.get("Cmd")),
        entrypoint=_words(config.get("Entrypoint")),
        labels=labels_of(container),
        peers=frozenset(
            service_of(item) for item in snapshot.containers if item is not container and project_of(item) == project
        ),
    )
