# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator declares about containers, out of the options of a module. PRIVATE: may change in any release."""

from __future__ import annotations

from collections.abc import Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import (
    DeclaredPort,
    EngineDefaults,
    Policy,
)

#: Options with which a module asks for the policy; documented by the fragment ``mcpstack.platform.container_policy``.
ARGUMENTS = {
    "edge_services": {"type": "list", "elements": "str"},
    "declared_ports": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "port": {"type": "int", "required": True},
            "address": {"type": "str"},
            "protocol": {"type": "str", "choices": ["tcp", "udp", "sctp"], "default": "tcp"},
        },
    },
    "gpu_services": {"type": "list", "elements": "str"},
    "socket_proxies": {"type": "list", "elements": "str", "default": []},
    "tool_services": {"type": "list", "elements": "str", "default": []},
    "internal_networks": {"type": "list", "elements": "str"},
    "network_members": {"type": "dict", "default": {}},
    "networks_without_egress": {"type": "list", "elements": "str", "default": []},
    "networks_without_host": {"type": "list", "elements": "str", "default": []},
    "oneshot_services": {"type": "list", "elements": "str", "default": []},
    "restart_policies": {"type": "list", "elements": "str", "default": ["on-failure", "unless-stopped"]},
}

#: What a file cannot tell of the engine that will run it.
ENGINE = {
    "type": "dict",
    "options": {
        "no_new_privileges": {"type": "bool"},
        "log_driver": {"type": "str"},
        "log_options": {"type": "dict", "default": {}},
        "userns_remap": {"type": "bool"},
    },
}


def _names(value: object) -> frozenset[str] | None:
    return None if value is None else frozenset(str(name) for name in value)  # type: ignore[attr-defined]


def policy_of(options: Mapping) -> Policy:
    """The policy that the options declare. Raises ValueError with a sentence."""
    members = {}
    for network, services in (options.get("network_members") or {}).items():
        if not isinstance(services, (list, tuple)):
            raise ValueError(f"network_members.{network}: is no list; name the services that may be on the network")
        members[str(network)] = frozenset(str(name) for name in services)
    engine = options.get("engine") or {}
    return Policy(
        edge_services=_names(options.get("edge_services")),
        declared_ports=tuple(
            DeclaredPort(entry["port"], entry.get("address"), entry.get("protocol") or "tcp")
            for entry in options.get("declared_ports") or ()
        ),
        gpu_services=_names(options.get("gpu_services")),
        socket_proxies=_names(options.get("socket_proxies")) or frozenset(),
        internal_networks=_names(options.get("internal_networks")),
        network_members=members,
        quiet_networks=_names(options.get("networks_without_egress")) or frozenset(),
        hostless_networks=_names(options.get("networks_without_host")) or frozenset(),
        tool_services=_names(options.get("tool_services")) or frozenset(),
        restart=_names(options.get("restart_policies")) or Policy().restart,
        oneshots=_names(options.get("oneshot_services")) or frozenset(),
        engine=EngineDefaults(
            no_new_privileges=engine.get("no_new_privileges"),
            log_driver=engine.get("log_driver"),
            log_options={key: str(value) for key, value in (engine.get("log_options") or {}).items()},
            userns_remap=engine.get("userns_remap"),
        ),
    )
