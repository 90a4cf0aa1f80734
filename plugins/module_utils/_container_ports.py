# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules about whom a container can reach and who can reach it: published ports, networks, open administration.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Of one published port the worst is reported, once: open administration (NET-06), a service that is never published
(NET-03), every address (NET-01), a well-known port (NET-02).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._container_images import (
    CLOSED_ADMIN,
    DATA_IMAGES,
    DATA_PORTS,
    OPEN_ADMIN,
    short_name,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import (
    ContainerView,
    Network,
    Policy,
    Port,
    Unknown,
    known,
)

#: What the edge may publish when nothing else is declared.
EDGE_PORTS = frozenset({80, 443})
FIRST_UNPRIVILEGED = 1024
#: Ports of the engine's own API.
ENGINE_PORTS = frozenset({2375, 2376})
#: What is looked at of a command line.
_MOST_WORDS, _LONGEST_WORD = 500, 4000
_FALSE = frozenset({"false", "0", "no", "off", ""})
_SWITCHES = (
    (re.compile(r"^--web\.enable-admin-api(=true)?$"), "anybody who reaches it may delete the data"),
    (re.compile(r"^--web\.enable-lifecycle(=true)?$"), "anybody who reaches it may stop or reload it"),
    (re.compile(r"^--api\.insecure(=true)?$", re.I), "the dashboard and its API are open on port 8080"),
    (re.compile(r"^--auth[= ]none$"), "there is no login"),
    (re.compile(r"^--(Notebook|Server)App\.(token|password)=['\"]{0,2}$"), "there is no login"),
    (re.compile(r"^--IdentityProvider\.token=['\"]{0,2}$"), "there is no login"),
    (
        re.compile(r"^--inspect(-brk)?=(0\.0\.0\.0|\[::\])(:\d+)?$"),
        "a debugger that runs any code listens on every address",
    ),
    (
        re.compile(r"-agentlib:jdwp=\S*address=(\*|0\.0\.0\.0):"),
        "a debugger that runs any code listens on every address",
    ),
)
_SETTINGS = {
    "GF_AUTH_ANONYMOUS_ENABLED": (frozenset({"true", "1"}), "nobody is asked who they are"),
    "TRAEFIK_API_INSECURE": (frozenset({"true", "1"}), "the dashboard and its API are open on port 8080"),
    "xpack.security.enabled": (frozenset({"false"}), "nobody is asked who they are"),
    "plugins.security.disabled": (frozenset({"true"}), "nobody is asked who they are"),
    "DISABLE_SECURITY_PLUGIN": (frozenset({"true"}), "nobody is asked who they are"),
    "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": (frozenset({"true"}), "nobody is asked who they are"),
    "ME_CONFIG_BASICAUTH": (frozenset({"false"}), "there is no login"),
    "DOCKER_TLS_CERTDIR": (frozenset({""}), "the engine's API answers without TLS"),
}


def reach(address: str | None) -> str:
    """all, loopback, one (a single address) or unreadable."""
    text = (address or "").strip().strip("[]")
    if text in ("", "*"):
        return "all"
    if text.lower() == "localhost":
        return "loopback"
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "unreadable"
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    if mapped.is_unspecified:
        return "all"
    return "loopback" if mapped.is_loopback else "one"


def _family(address: str | None) -> int | None:
    """4, 6, or None for both."""
    text = (address or "").strip().strip("[]")
    return None if text in ("", "*") else 6 if ":" in text else 4


def spell(port: Port) -> str:
    """The port as Compose's short form has it."""

    def numbers(pair: tuple[int, int]) -> str:
        return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}-{pair[1]}"

    address = (port.address or "").strip("[]")
    if address:
        address = (f"[{address}]" if ":" in address else address) + ":"
    published = numbers(port.published) + ":" if port.published else ":" if address else ""
    return f"{address}{published}{numbers(port.target)}/{port.protocol}"


def declared(view: ContainerView, port: Port, policy: Policy) -> bool:
    """Whether the operator says that this port of the host is meant to be open."""
    if policy.edge_services is not None and view.name not in policy.edge_services:
        return False
    if port.published is None or port.published[1] - port.published[0] > 65535:
        return False
    numbers = range(port.published[0], port.published[1] + 1)
    if not policy.declared_ports:
        return policy.edge_services is not None and all(number in EDGE_PORTS for number in numbers)
    text = (port.address or "").strip().strip("[]")
    return all(
        any(
            entry.port == number
            and entry.protocol == port.protocol
            and (
                entry.address is None
                or entry.address.strip("[]") == text
                or reach(entry.address) == reach(text) == "all"
            )
            for entry in policy.declared_ports
        )
        for number in numbers
    )


def admin_plane(view: ContainerView) -> tuple[str, bool] | None:
    """(name, asks who is there) of an administration or interface that has no business in public; None for all else."""
    image = short_name(known(view.image))
    if image in OPEN_ADMIN:
        name, proof = OPEN_ADMIN[image]
        words = (*(view.entrypoint or ()), *(view.command or ()))
        asks = proof is not None and (
            any(proof in word for word in words)
            or any(
                key.startswith(proof) and (value or "").lower() not in _FALSE for key, value in view.environment.items()
            )
        )
        return name, asks
    return (image, True) if image in CLOSED_ADMIN else None


def is_data(view: ContainerView) -> bool:
    """Whether this is a database, cache or queue."""
    return short_name(known(view.image)) in DATA_IMAGES


def _flags(words: tuple[str, ...]) -> list[str]:
    """Words of a command; one that is a command line of its own ("sh -c 'prometheus --flag'") taken apart."""
    cut = [word[:_LONGEST_WORD] for word in words[:_MOST_WORDS]]
    return [part for word in cut for part in (word.split() if " --" in word else [word])]


def _open_switches(view: ContainerView) -> list[tuple[str, object, str, str]]:
    """(field, key, what was seen, what it means) of every flag or setting that opens administration."""
    found = []
    for field in ("entrypoint", "command"):
        for word in _flags(getattr(view, field) or ()):
            found += [(field, None, word[:80], why) for pattern, why in _SWITCHES if pattern.search(word)]
    for key, (values, why) in _SETTINGS.items():
        value = view.environment.get(key)
        if value is not None and value.strip().lower() in values:
            found.append(("environment", key, f"{key}={value.strip()}", why))
    for key in ("NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "JAVA_OPTS"):
        for word in (view.environment.get(key) or "")[:_LONGEST_WORD].split():
            found += [
                ("environment", key, f"{key} with {word[:60]}", why)
                for pattern, why in _SWITCHES
                if pattern.search(word)
            ]
    return found


def _judge_port(audit: Audit, view: ContainerView, policy: Policy, port: Port, place: str) -> bool:
    """NET-01, NET-02, NET-03 or NET-06 of one port. Whether something was found."""
    scope = reach(port.address)
    text = spell(port)
    if scope == "unreadable":
        audit.unknown("NET-01", f"{view.subject}: the address of {text} cannot be read")
        return False
    edge = policy.edge_services is not None and view.name in policy.edge_services
    if scope != "loopback" and not declared(view, port, policy):
        plane = admin_plane(view)
        if (plane and not plane[1]) or ENGINE_PORTS & set(
            range(port.target[0], min(port.target[1], port.target[0] + 99) + 1)
        ):
            name = plane[0] if plane else "the engine's API"
            audit.find("NET-06", view.subject, place, f"{text} is {name}, which asks nobody who they are")
            return True
        outsider = policy.edge_services is not None and not edge
        if outsider or plane or is_data(view) or DATA_PORTS.intersection(port.target):
            what = f" of {plane[0]}" if plane else ""
            audit.find("NET-03", view.subject, place, f"{text}{what} is open beyond loopback")
            return True
        if scope == "all":
            audit.find("NET-01", view.subject, place, text)
            return True
    if port.published and port.published[0] < FIRST_UNPRIVILEGED and not edge and not declared(view, port, policy):
        audit.find("NET-02", view.subject, place, text)
        return True
    return False


def _judge_family(audit: Audit, view: ContainerView, port: Port, place: str) -> None:
    """NET-07: a port that is open on IPv6 for a container that has none."""
    if _family(port.address) == 4 or reach(port.address) in ("loopback", "unreadable") or not view.networks:
        return
    answers = [network.ipv6 for network in view.networks]
    if any(answer is True for answer in answers):
        return
    unknown = next((answer for answer in answers if isinstance(answer, Unknown)), None)
    if unknown is not None:
        audit.unknown("NET-07", f"{view.subject}: {unknown.reason}")
        return
    names = ", ".join(network.name for network in view.networks)
    audit.find("NET-07", view.subject, place, f"{spell(port)} is open on IPv6, and {names} has no IPv6")


def _judge_ports(audit: Audit, view: ContainerView, policy: Policy) -> bool:
    """Whether a published port is open beyond loopback."""
    public = False
    for index, port in enumerate(view.ports):
        place = view.where("ports", index)
        public = public or reach(port.address) in ("all", "one")
        if not _judge_port(audit, view, policy, port, place):
            _judge_family(audit, view, port, place)
    return public


def _judge_tier(audit: Audit, view: ContainerView, policy: Policy) -> None:
    """NET-04, NET-05 and NET-08 of one container."""
    if known(view.network_mode) in ("bridge", "default"):
        audit.find("NET-04", view.subject, view.where("network_mode"), "network_mode: bridge")
    for network in view.networks:
        if network.name == "bridge":
            audit.find("NET-04", view.subject, view.where("networks", network.name), "network bridge")
        allowed = policy.network_members.get(network.name)
        if allowed is not None and view.name not in allowed:
            audit.find(
                "NET-05",
                view.subject,
                view.where("networks", network.name),
                f"{view.name} is not meant to be on {network.name}",
            )
    if policy.internal_networks is None and is_data(view) and view.networks:
        if not any(network.internal is True or isinstance(network.internal, Unknown) for network in view.networks):
            names = ", ".join(network.name for network in view.networks)
            audit.find(
                "NET-05", view.subject, view.where("networks"), f"{names}: not internal, and a data service is on it",
                severity="medium",
            )  # fmt: skip
    if view.name in policy.tool_services:
        for network in view.networks:
            if network.internal is False and not _quiet(network):
                audit.find(
                    "NET-08", view.subject, view.where("networks", network.name), f"{network.name} has a route out"
                )


def judge_reach(audit: Audit, view: ContainerView, policy: Policy) -> None:
    """NET-01 to NET-08 of one container."""
    audit.decide("NET-01", "NET-02", "NET-03", "NET-04", "NET-05", "NET-06", "NET-07")
    if policy.tool_services:
        audit.decide("NET-08")
    else:
        audit.not_applicable("NET-08", "no tool or agent service and no network of limited reach is declared")
    mode = known(view.network_mode) or ""
    public = mode == "host"
    if mode not in ("host", "none"):
        public = _judge_ports(audit, view, policy)
    _judge_tier(audit, view, policy)
    for field, key, seen, why in _open_switches(view):
        audit.find(
            "NET-06",
            view.subject,
            view.where(field, key),
            f"{seen}: {why}",
            severity="critical" if public else "medium",
        )


def _quiet(network: Network) -> bool:
    """Whether what is on this network cannot call out through the host's address."""
    option = "com.docker.network.bridge."
    if str(network.options.get(option + "enable_ip_masquerade", "true")).strip().lower() in ("false", "0", "f"):
        return True
    isolated = [network.options.get(f"{option}gateway_mode_ipv{version}") == "isolated" for version in "46"]
    return isolated[0] and (isolated[1] or network.ipv6 is not True)


def _hostless(network: Network) -> bool:
    """Whether the host has no address on this network."""
    value = str(network.options.get("com.docker.network.bridge.inhibit_ipv4", "false")).strip().lower()
    return (
        value in ("true", "1", "t") or network.options.get("com.docker.network.bridge.gateway_mode_ipv4") == "isolated"
    )


def judge_networks(
    audit: Audit, networks: Iterable[Network], policy: Policy, subject: Mapping[str, str] | None = None
) -> None:
    """NET-05 and NET-08 of the networks themselves, against what is declared of them.

    subject: what a finding about a network names, by its name; "network NAME" without it.
    """
    networks = sorted(networks, key=lambda network: network.name)
    audit.decide("NET-05")
    if policy.quiet_networks or policy.hostless_networks:
        audit.decide("NET-08")
    ranges: list[tuple[str, ipaddress.IPv4Network | ipaddress.IPv6Network]] = []
    for network in networks:
        name = (subject or {}).get(network.name, f"network {network.name}")
        if isinstance(network.internal, Unknown):
            if network.name in (policy.internal_networks or ()):
                audit.unknown("NET-05", f"{name}: {network.internal.reason}")
        elif network.name in (policy.internal_networks or ()) and not network.internal:
            audit.find("NET-05", name, network.place, f"{network.name} is not internal")
        if network.driver in ("macvlan", "ipvlan"):
            text = (
                f"{network.name} is {network.driver}: its containers are on the host's own network, past its firewall"
            )
            audit.find("NET-05", name, network.place, text, severity="medium")
        if network.name in policy.quiet_networks and not network.internal and not _quiet(network):
            audit.find("NET-08", name, network.place, f"{network.name} masquerades: what is on it can call out")
        if network.name in policy.hostless_networks and not _hostless(network):
            audit.find("NET-08", name, network.place, f"the host has an address on {network.name}")
        for text in network.subnets:
            try:
                fresh = ipaddress.ip_network(text, strict=False)
            except ValueError:
                continue
            audit.decide("NET-08")
            clash = next(
                (other for other, taken in ranges if taken.version == fresh.version and taken.overlaps(fresh)), None
            )
            if clash is not None:
                audit.find("NET-08", name, network.place, f"{text} overlaps a subnet of {clash}")
            elif fresh.is_link_local or (fresh.version == 4 and fresh.overlaps(ipaddress.ip_network("169.254.0.0/16"))):
                audit.find(
                    "NET-08", name, network.place, f"{text} holds the link-local range, where clouds keep credentials"
                )
            elif fresh.is_global and fresh.prefixlen < fresh.max_prefixlen:
                audit.find(
                    "NET-08", name, network.place, f"{text} is a range of the internet, which it hides", severity="low"
                )
            ranges.append((network.name, fresh))
