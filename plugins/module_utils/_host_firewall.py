# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Published ports against what was declared and what the packet filter lets through (HST-12).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils import _listeners
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._host_policy import HostPolicy
from ansible_collections.mcpstack.platform.plugins.module_utils._host_probe import Answers, HostFacts


def _same(one: str, other: str) -> bool:
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return one == other


def declared(ports: Collection[Mapping], protocol: str, port: int, address: str) -> bool:
    """Whether somebody declared that this port may be reached."""
    for entry in ports:
        if entry.get("port") == port and (entry.get("protocol") or "tcp") == protocol:
            if not entry.get("address") or _same(str(entry["address"]), address):
                return True
    return False


#: Targets that refuse nothing.
_HARMLESS = frozenset(("RETURN", "ACCEPT", "LOG", "NFLOG", "MARK", "CONNMARK", "TRACE"))
#: Chains of programs that block single senders.
_BLOCKLISTS = ("f2b-", "fail2ban", "crowdsec", "sshguard")


def filters(rules: str) -> bool:
    """Whether DOCKER-USER holds a rule that refuses whole classes: a DROP, a REJECT or a jump to another chain.

    A rule against named senders (-s, or a set of them) is a blocklist, which leaves the port open to everybody else.
    """
    for line in rules.splitlines():
        match = re.match(r"-A DOCKER-USER (?:(.*) )?-[jg] (\S+)", line)
        if not match or match.group(2) in _HARMLESS or match.group(2).lower().startswith(_BLOCKLISTS):
            continue
        if re.search(r"(?<!! )(-s|--match-set) ", match.group(1) or ""):
            continue
        return True
    return False


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _published(containers: list) -> dict[tuple[str, str, int], set[str]] | None:
    """(container, protocol, port) -> addresses beyond loopback; None when the answer is not what the engine sends."""
    found: dict[tuple[str, str, int], set[str]] = {}
    try:
        for item in _listeners.published(containers):
            if not item["loopback"]:
                key = (str(item["container"]), str(item["protocol"]), int(item["port"]))
                found.setdefault(key, set()).add(str(item["address"]))
    except (ValueError, TypeError, AttributeError, LookupError):
        return None
    return found


def _ufw(files: Files) -> bool:
    try:
        text = files.read("/etc/ufw/ufw.conf", 1 << 16).decode("utf-8", "replace")
    except Unreadable:
        return False
    return re.search(r"(?mi)^\s*ENABLED\s*=\s*[\"']?yes", text) is not None


def _host_network(audit: Audit, facts: HostFacts, ports: Collection[Mapping], names: Mapping[str, str]) -> None:
    """Containers without a network of their own listen on the host itself."""
    for item in facts.listeners or ():
        container = item.get("container_id")
        # another id is that of a container this host itself runs in
        if container in names and not declared(ports, item["protocol"], item["port"], item["address"]):
            audit.find(
                "HST-12", names[container], f"{item['port']}/{item['protocol']}",
                f"{item['process']} of a container on the host's network listens on"
                f" {_place(item['address'], item['port'])}, not declared",
            )  # fmt: skip


def audit_ports(audit: Audit, files: Files, answers: Answers, facts: HostFacts, policy: HostPolicy) -> None:
    """HST-12."""
    containers = answers.containers()
    if containers is None:
        audit.unknown("HST-12", answers.reason("/containers/json"))
        return
    published = _published(containers)
    if published is None:
        audit.unknown("HST-12", "the engine's list of containers cannot be read")
        return
    note = "; UFW is on and does not see it: the engine forwards the port before" if _ufw(files) else ""
    if policy.declared_ports is not None:
        for (name, protocol, port), addresses in published.items():
            extra = sorted(item for item in addresses if not declared(policy.declared_ports, protocol, port, item))
            if extra:
                places = ", ".join(_place(address, port) for address in extra)
                audit.find("HST-12", name, f"{port}/{protocol}", f"published on {places}, not declared{note}")
        if facts.listeners is None and any(item["OnHost"] for item in containers):
            audit.unknown("HST-12", "the listening sockets of the host were not read")
        else:
            names = {item["Id"]: (item["Names"] or ["/?"])[0].lstrip("/") for item in containers}
            _host_network(audit, facts, policy.declared_ports, names)
    elif published and facts.docker_user is None:
        audit.unknown("HST-12", "no ports are declared, and the rules of DOCKER-USER could not be read")
    elif not filters(facts.docker_user or ""):
        for (name, protocol, port), addresses in published.items():
            places = ", ".join(_place(address, port) for address in sorted(addresses))
            audit.find(
                "HST-12", name, f"{port}/{protocol}",
                f"published on {places}, no ports are declared and DOCKER-USER refuses nothing{note}",
            )  # fmt: skip
    swarm = (answers.get("/info", dict) or {}).get("Swarm")
    if isinstance(swarm, dict) and swarm.get("LocalNodeState") not in (None, "", "inactive"):
        audit.unknown("HST-12", "ports that services of the Swarm publish are not looked at")
    audit.decide("HST-12")
