# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the values of a service mean, whatever spelling Compose allowed for them.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Every function takes the mapping of one service, as ``Project.services`` holds it or as a file has it, and never fails:
what is not of the right form is left out (``_compose_load.load`` has reported it).
``index`` is the position in the list the entry came from, for ``Project.where(service, "ports", index)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Port:
    """One published or exposed port. ``published`` is "" (any free port), "8080" or a range "8080-8090".

    host_ip is as written without brackets: "" means every address of both families.
    """

    host_ip: str
    published: str
    target: int
    protocol: str = "tcp"
    mode: str = "ingress"
    index: int = 0


@dataclass(frozen=True)
class Mount:
    """One mount. type is bind, volume, tmpfs, npipe, cluster or image; source is "" for an anonymous volume or tmpfs.

    options holds what the long form adds: nocopy, subpath, size, mode, create_host_path, recursive, selinux, consistency.
    Entries of ``tmpfs:`` come last, with type tmpfs, their mount options as ``{"noexec": True, "size": "64m"}`` and
    key "tmpfs".
    """

    type: str
    source: str
    target: str
    read_only: bool = False
    propagation: str = ""
    options: Mapping = field(default_factory=dict)
    index: int = 0
    key: str = "volumes"


@dataclass(frozen=True)
class Grant:
    """A secret or config that a service gets, and the file it finds it in."""

    source: str
    target: str
    uid: str | None = None
    gid: str | None = None
    mode: int | None = None
    index: int = 0


@dataclass(frozen=True)
class Limits:
    """Limits as the engine gets them; None where nothing is set, -1 where it is set to unlimited.

    cpus is of the container, memory and swap in bytes (swap is memory plus swap, as memswap_limit), pids a number.
    The *_key say which key decided, for ``Project.where(service, *key)``.
    """

    cpus: float | None = None
    memory: int | None = None
    swap: int | None = None
    reservation: int | None = None
    pids: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_shares: int | None = None
    cpuset: str = ""
    cpus_key: tuple = ()
    memory_key: tuple = ()
    pids_key: tuple = ()


@dataclass(frozen=True)
class Dependency:
    """One entry of depends_on, or what links, volumes_from and shared namespaces imply."""

    service: str
    condition: str = "service_started"
    required: bool = True
    restart: bool = False
    key: str = "depends_on"


@dataclass(frozen=True)
class Ulimit:
    """Soft and hard value; equal when one number was given; -1 is unlimited."""

    soft: int
    hard: int


@dataclass(frozen=True)
class Logging:
    """driver is "" where the engine's default counts."""

    driver: str = ""
    options: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class Healthcheck:
    """test is () when the image's own counts; disabled also when test is NONE. Durations in seconds, None if unset."""

    test: tuple[str, ...] = ()
    disabled: bool = False
    interval: float | None = None
    timeout: float | None = None
    retries: int | None = None
    start_period: float | None = None
    start_interval: float | None = None
    shell: bool = False


def ports(service: Mapping) -> list[Port]:
    """All published ports; ranges of equal length are taken apart as Compose does."""
    raise NotImplementedError


def volumes(service: Mapping) -> list[Mount]:
    """All mounts: ``volumes``, then ``tmpfs``."""
    raise NotImplementedError


def environment(service: Mapping) -> dict[str, str | None]:
    """``environment`` without env_file; None: the value is taken from whoever runs Compose, and is not known."""
    raise NotImplementedError


def labels(service: Mapping) -> dict[str, str]:
    """``labels`` by name."""
    raise NotImplementedError


def limits(service: Mapping) -> Limits:
    """deploy.resources.limits and the older keys as one."""
    raise NotImplementedError


def depends_on(service: Mapping, implied: bool = False) -> list[Dependency]:
    """Sorted by name. implied: also links, volumes_from, network_mode, ipc, pid, uts, cgroup of another service."""
    raise NotImplementedError


def secrets(service: Mapping) -> list[Grant]:
    """Secrets, with the path in the container."""
    raise NotImplementedError


def configs(service: Mapping) -> list[Grant]:
    """Configs, with the path in the container."""
    raise NotImplementedError


def networks(service: Mapping) -> dict[str, Mapping]:
    """Networks by name with their settings; {"default": {}} where none is named; empty with network_mode."""
    raise NotImplementedError


def command(service: Mapping, key: str = "command") -> list[str] | None:
    """``command`` or ``entrypoint`` as a list of words; None where the image's own counts, [] where it is emptied."""
    raise NotImplementedError


def security_opt(service: Mapping) -> list[tuple[str, str, int]]:
    """(name, value, index), split at the first ``=`` or ``:``, name lower case; value "" for a bare word."""
    raise NotImplementedError


def ulimits(service: Mapping) -> dict[str, Ulimit]:
    """By name."""
    raise NotImplementedError


def logging(service: Mapping) -> Logging:
    """Driver and options."""
    raise NotImplementedError


def healthcheck(service: Mapping) -> Healthcheck | None:
    """None where the service says nothing."""
    raise NotImplementedError


def replicas(service: Mapping) -> int:
    """How many containers: scale, deploy.replicas, or 1."""
    raise NotImplementedError


def devices(service: Mapping) -> list[tuple[str, str, str, int]]:
    """(source, target, permissions, index)."""
    raise NotImplementedError


def size(value: object) -> int | None:
    """Bytes of "512m", "1.5gb", 1024; None if it is no size."""
    raise NotImplementedError


def duration(value: object) -> float | None:
    """Seconds of "1m30s"; None if it is no duration."""
    raise NotImplementedError


def flag(value: object) -> bool | None:
    """true and false in the spellings Compose takes, None for anything else."""
    raise NotImplementedError
