# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operator of a host has declared, for the audits of the engine and of the host.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


def _utc_day() -> datetime.date:
    return datetime.datetime.now(datetime.timezone.utc).date()


@dataclass(frozen=True)
class HostPolicy:
    """Declarations; the defaults are those of a host that runs this collection's stack and nothing else.

    docker_group_members: who may be in the docker group, beside root.
    declared_ports: ``{port, protocol, address}`` that may be reached from outside; protocol is tcp and address any
        without them. None: nothing is declared, so that each published port needs a rule in DOCKER-USER.
    stack_roots: trees that must belong to root. secret_roots: trees of secrets. unit_prefixes: how the names of the
        stack's units start. service_uids: who may own data in stack_roots and secrets, beside root.
    swarm: whether the host is meant to be in a Swarm.
    sysctls: accepted values by name, in place of or in addition to the table; an empty list passes a setting over.
    root_containers: whether any running container has a process of the host's root; None: not known.
    updates: whether to read the package index. today: the day that decides about its age.
    """

    docker_group_members: Collection[str] = ()
    declared_ports: Collection[Mapping] | None = None
    stack_roots: tuple[str, ...] = ("/etc/mcpstack", "/var/lib/mcpstack", "/run/mcpstack")
    secret_roots: tuple[str, ...] = ("/run/mcpstack/secrets",)
    unit_prefixes: tuple[str, ...] = ("mcpstack", "run-mcpstack")
    service_uids: Collection[int] = range(64101, 65000)
    swarm: bool = False
    sysctls: Mapping[str, Collection[str]] = field(default_factory=dict)
    root_containers: bool | None = None
    updates: bool = True
    today: datetime.date = field(default_factory=_utc_day)
