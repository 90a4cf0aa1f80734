# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a container may do, in words that are neither Compose's nor those of the engine's inspect.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Two adapters fill a ``ContainerView`` (a service of a Compose project, a running container) and ``_container_rules``
judges it. In every field None means "not stated" and ``Unknown`` means "cannot be known here": of the first the default
of engine or image counts, of the second nothing may be said. Names of capabilities, options and paths stay spelt as they
were found; the rules normalise them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Unknown:
    """Cannot be known here, and why: a clause that follows "because"."""

    reason: str


#: What an image holds when only its name is at hand.
IMAGE_UNSEEN = Unknown("the image was not looked at")


def known(value: T | Unknown | None) -> T | None:
    """The value, or None where it is not stated or cannot be known."""
    return None if isinstance(value, Unknown) else value


@dataclass(frozen=True)
class Mount:
    """One mount that is not a plain tmpfs.

    type: bind, volume, npipe, cluster, image. source: path on the host, or name of the volume; None for an anonymous one.
    propagation: None for the default. driver, driver_opts: of the volume.
    shared_with: other services or containers that mount the same volume writable.
    exists: whether the source is on the host; None when nobody looked. creates: the engine makes a missing source.
    """

    type: str
    source: str | None
    target: str
    read_only: bool = False
    propagation: str | None = None
    driver: str | None = None
    driver_opts: Mapping[str, str] = field(default_factory=dict)
    shared_with: tuple[str, ...] = ()
    exists: bool | None = None
    creates: bool = True


@dataclass(frozen=True)
class Tmpfs:
    """A temporary file system; ``options`` in the order in which the engine applies them, the size among them."""

    target: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Device:
    """A device of the host: path (or the name of a CDI device), path inside, cgroup permissions."""

    host: str
    container: str = ""
    permissions: str = "rwm"


@dataclass(frozen=True)
class DeviceRequest:
    """Devices asked of a driver, mostly GPUs. ``count`` -1 means all of them."""

    driver: str | None = None
    count: int | None = None
    ids: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Port:
    """A published port. ``published`` and ``target`` are first and last of a range; published None: chosen by the engine.

    address: of the host as written; None for "every address of both families".
    """

    target: tuple[int, int]
    published: tuple[int, int] | None
    address: str | None = None
    protocol: str = "tcp"


@dataclass(frozen=True)
class Network:
    """A network the container is on. ``ipv6`` None: the engine's default decides."""

    name: str
    internal: bool | Unknown = False
    driver: str | None = None
    ipv6: bool | Unknown | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    subnets: tuple[str, ...] = ()
    external: bool = False
    place: str = ""


@dataclass(frozen=True)
class Healthcheck:
    """``test`` as the engine takes it, beginning with CMD, CMD-SHELL or NONE; empty for "that of the image"."""

    test: tuple[str, ...] = ()
    disabled: bool = False


@dataclass(frozen=True)
class Logging:
    """Driver None: the engine's default driver."""

    driver: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def _nowhere(_field: str, _key: object = None) -> str:
    return ""


@dataclass(frozen=True)
class ContainerView:
    """One container, running or stated.

    name: of the service, as policies know it. subject: what findings name. place: where the container as a whole is stated.
    places: ``(field, key) -> where``; ``field`` is a field of this class, ``key`` an index or a name in it, or None.
    cpus: processors as a number, 0 for none stated by the engine. memswap: memory and swap together, -1 without limit.
    restart: no, always, unless-stopped, on-failure or on-failure:N.
    process_uids: users of the processes as the kernel has them; None where nobody looked.
    environment: values are read for a few well-known settings only and never repeated.
    peers: names of the services or containers of the project; its own may be among them.
    """

    name: str
    subject: str
    place: str
    places: Callable[..., str] = field(default=_nowhere, repr=False, compare=False)
    image: str | Unknown | None = None
    image_user: str | Unknown | None = IMAGE_UNSEEN
    image_healthcheck: Healthcheck | Unknown | None = IMAGE_UNSEEN
    user: str | Unknown | None = None
    process_uids: frozenset[int] | None = None
    privileged: bool | Unknown | None = None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    read_only: bool | Unknown | None = None
    tmpfs: tuple[Tmpfs, ...] = ()
    memory: int | Unknown | None = None
    memswap: int | Unknown | None = None
    cpus: float | Unknown | None = None
    cpu_quota: int | Unknown | None = None
    cpu_shares: int | Unknown | None = None
    cpuset: str | Unknown | None = None
    pids: int | Unknown | None = None
    ulimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    oom_kill_disable: bool | Unknown | None = None
    oom_score_adj: int | Unknown | None = None
    restart: str | Unknown | None = None
    healthcheck: Healthcheck | Unknown | None = None
    network_mode: str | Unknown | None = None
    pid_mode: str | Unknown | None = None
    ipc_mode: str | Unknown | None = None
    uts_mode: str | Unknown | None = None
    cgroup_mode: str | Unknown | None = None
    userns_mode: str | Unknown | None = None
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()
    device_requests: tuple[DeviceRequest, ...] = ()
    ports: tuple[Port, ...] = ()
    networks: tuple[Network, ...] = ()
    logging: Logging | Unknown | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    scale: int = 1
    peers: frozenset[str] = frozenset()

    def where(self, name: str, key: object = None) -> str:
        """Where a field, or one entry of it, is stated; the container as a whole where nothing better is known."""
        return self.places(name, key) or self.place


@dataclass(frozen=True)
class EngineDefaults:
    """What the engine does for a container that does not state it. None: not known."""

    no_new_privileges: bool | None = None
    log_driver: str | None = None
    log_options: Mapping[str, str] = field(default_factory=dict)
    userns_remap: bool | None = None


@dataclass(frozen=True)
class DeclaredPort:
    """A port of the host that is meant to be open; ``address`` None: on every address."""

    port: int
    address: str | None = None
    protocol: str = "tcp"


@dataclass(frozen=True)
class Policy:
    """What the operator declares. What is None is not declared, and the rules fall back on what is usual.

    edge_services: who may publish ports beyond loopback. declared_ports: which.
    gpu_services: who may have GPUs; None: everybody. socket_proxies: who may mount the engine's socket.
    internal_networks: networks that must have no route out; None: judged by what is on them.
    network_members: for each network named here, the only services that may be on it.
    quiet_networks: networks that are not internal, and must not masquerade. hostless_networks: networks on which the host
        has no address. tool_services: agents and tools, which must have no route out.
    restart: policies that count as deliberate.
    oneshots: services whose containers are there for one command; nobody asks how they are, and nothing restarts them.
    """

    edge_services: frozenset[str] | None = None
    declared_ports: tuple[DeclaredPort, ...] = ()
    gpu_services: frozenset[str] | None = None
    socket_proxies: frozenset[str] = frozenset()
    internal_networks: frozenset[str] | None = None
    network_members: Mapping[str, frozenset[str]] = field(default_factory=dict)
    quiet_networks: frozenset[str] = frozenset()
    hostless_networks: frozenset[str] = frozenset()
    tool_services: frozenset[str] = frozenset()
    restart: frozenset[str] = frozenset({"on-failure", "unless-stopped"})
    oneshots: frozenset[str] = frozenset()
    engine: EngineDefaults = field(default_factory=EngineDefaults)
