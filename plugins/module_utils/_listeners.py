# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who listens on this host, and whether the platform opened more than it declared.

Two sources, because either alone is blind: the kernel's socket tables (what is bound on the host) and the engine's list
of published ports (which may be forwarded by the firewall without any socket). Each listener gets an owner:

``stack``    a process of one of the project's containers, of one of its service uids, or a port one of them publishes
``engine``   the container engine itself, on a port that no container publishes: its remote API
``foreign``  anything else; reported, never a reason to fail, except on a port the platform declares as its own
``unknown``  the socket's process could not be found; fails when it cannot be told apart from the stack
"""

from __future__ import annotations

import ipaddress
import os
import re

UIDS = range(64101, 65000)
ENGINE_PROCESSES = ("dockerd", "docker-proxy", "containerd")
TABLES = {"tcp": "tcp", "tcp6": "tcp", "udp": "udp", "udp6": "udp"}
# TCP: LISTEN. UDP: bound without a peer.
LISTENING = {"tcp": "0A", "udp": "07"}
CONTAINER_ID = re.compile(r"(?<![0-9a-f])([0-9a-f]{64})(?![0-9a-f])")


class ListenersError(Exception):
    """The tables of this host cannot be read."""


def parse_address(text):
    """The address in /proc/net: 32-bit words in host byte order (little endian on what we support)."""
    raw = b"".join(bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8))
    address = ipaddress.ip_address(raw)
    return getattr(address, "ipv4_mapped", None) or address


def parse_table(text, protocol):
    """Listening sockets of one table: (protocol, address, port, uid, inode)."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != LISTENING[protocol]:
            continue
        local, _colon, port = fields[1].rpartition(":")
        remote_port = fields[2].rpartition(":")[2]
        if protocol == "udp" and int(remote_port, 16):
            continue
        found.append((protocol, parse_address(local), int(port, 16), int(fields[7]), int(fields[9])))
    return found


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError:
        return None


def holders(proc, inodes):
    """inode -> (pid, process name, uid, container id) for the sockets asked for."""
    found = {}
    for entry in sorted((name for name in os.listdir(proc) if name.isdigit()), key=int):
        directory = os.path.join(proc, entry, "fd")
        try:
            descriptors = os.listdir(directory)
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                target = os.readlink(os.path.join(directory, descriptor))
            except OSError:
                continue
            match = re.fullmatch(r"socket:\[([0-9]+)\]", target)
            inode = int(match.group(1)) if match else None
            if inode not in inodes or inode in found:
                continue
            name = (_read(os.path.join(proc, entry, "comm")) or "?").strip()
            status = re.search(r"^Uid:\s+\d+\s+(\d+)", _read(os.path.join(proc, entry, "status")) or "", re.MULTILINE)
            inside = CONTAINER_ID.search(_read(os.path.join(proc, entry, "cgroup")) or "")
            found[inode] = (
                int(entry),
                name,
                int(status.group(1)) if status else None,
                inside.group(1) if inside else None,
            )
    return found


def sockets(proc="/proc"):
    """Every listening socket of the host's network namespace that is not on loopback."""
    # Process 1 is in the host's namespace even where this process is not; where it may not be looked at, take our own.
    rows, read = [], 0
    for table, protocol in TABLES.items():
        text = _read(os.path.join(proc, "1", "net", table))
        text = _read(os.path.join(proc, "self", "net", table)) if text is None else text
        if text is None:
            continue
        read += 1
        rows += [row for row in parse_table(text, protocol) if not row[1].is_loopback]
    if not read:
        raise ListenersError(f"{proc}/1/net/tcp cannot be read. Run this as root on the target.")
    known = holders(proc, {row[4] for row in rows})
    out = []
    for protocol, address, port, uid, inode in rows:
        pid, process, effective, container = known.get(inode, (None, None, None, None))
        out.append(
            {
                "protocol": protocol,
                "address": str(address),
                "port": port,
                "pid": pid,
                "process": process,
                "uid": uid if effective is None else effective,
                "container_id": container,
                # A socket that no process holds (inode 0 or a kernel service such as NFS or WireGuard).
                "kernel": inode == 0,
            }
        )
    return out


def published(containers):
    """What containers publish, from the engine's list: container id, service, project, protocol, address, port."""
    out = []
    for container in containers:
        labels = container.get("Labels") or {}
        for port in container.get("Ports") or ():
            if not port.get("PublicPort"):
                continue
            address = ipaddress.ip_address(port.get("IP") or "0.0.0.0")  # noqa: S104
            out.append(
                {
                    "container_id": container.get("Id"),
                    "container": (container.get("Names") or ["/?"])[0].lstrip("/"),
                    "project": labels.get("com.docker.compose.project"),
                    "protocol": port.get("Type", "tcp"),
                    "address": str(address),
                    "port": port["PublicPort"],
                    "loopback": address.is_loopback,
                }
            )
    return out


def _declared(declared, item):
    for entry in declared:
        if entry["port"] != item["port"] or entry.get("protocol", "tcp") != item["protocol"]:
            continue
        wanted = entry.get("address")
        if wanted is None or ipaddress.ip_address(wanted) == ipaddress.ip_address(item["address"]):
            return True
    return False


def _place(item):
    address = f"[{item['address']}]" if ":" in item["address"] else item["address"]
    return f"{address}:{item['port']}/{item['protocol']}"


def check(found, containers, declared, project):
    """Listeners with their owner, and all problems as where, what, fix.

    ``found`` is what sockets() returns, ``containers`` the engine's list or None when there is no engine.
    """
    ours = {
        c.get("Id") for c in containers or () if (c.get("Labels") or {}).get("com.docker.compose.project") == project
    }
    ports = published(containers or ())
    by_port = {}
    for port in ports:
        by_port.setdefault((port["protocol"], port["port"]), []).append(port)
    listeners, problems = [], []
    for item in found:
        matches = by_port.get((item["protocol"], item["port"]), [])
        holder = next((m for m in matches if m["project"] == project), matches[0] if matches else None)
        item = {**item, "container": None}
        if item["process"] in ENGINE_PROCESSES:
            if holder:
                item["owner"] = "stack" if holder["project"] == project else "foreign"
                item["container"] = holder["container"]
            else:
                item["owner"] = "engine"
        elif item["container_id"] in ours or item["uid"] in UIDS:
            item["owner"] = "stack"
        elif item["process"] is None and not item["kernel"]:
            item["owner"] = "unknown"
        else:
            item["owner"] = "foreign"
        item["declared"] = _declared(declared, item)
        listeners.append(item)
        where = _place(item)
        who = f"{item['process']} (pid {item['pid']})" if item["process"] else "a process that could not be found"
        if item["owner"] == "stack" and not item["declared"]:
            problems.append(
                {
                    "where": where,
                    "what": f"{item['container'] or who} of the platform listens beyond loopback and was not declared",
                    "fix": "remove the publish from the service, bind it to 127.0.0.1, or declare the port",
                }
            )
        elif item["owner"] == "engine" and not item["declared"]:
            problems.append(
                {
                    "where": where,
                    "what": f"{who} serves the engine itself to the network, which gives root to whoever can reach it",
                    "fix": "remove tcp:// from the engine's hosts and use the unix socket",
                }
            )
        elif item["owner"] == "unknown" and not item["declared"]:
            problems.append(
                {
                    "where": where,
                    "what": "it cannot be told which process listens here, so it may be the platform's",
                    "fix": "run this as root on the target itself, not inside a container",
                }
            )
        elif item["owner"] == "foreign" and item["declared"]:
            problems.append(
                {
                    "where": where,
                    "what": f"{who} holds a port that the platform declares as its own",
                    "fix": "stop that program, or publish the platform on another port",
                }
            )
    seen = {(item["protocol"], item["port"]) for item in listeners if item["owner"] == "stack"}
    for port in ports:
        if port["project"] != project or port["loopback"]:
            continue
        key = (port["protocol"], port["port"])
        if key not in seen and not _declared(declared, port):
            problems.append(
                {
                    "where": _place(port),
                    "what": f"{port['container']} of the platform publishes this port and it was not declared",
                    "fix": "remove the publish from the service, bind it to 127.0.0.1, or declare the port",
                }
            )
        seen.add(key)
    for entry in declared:
        protocol = entry.get("protocol", "tcp")
        address = entry.get("address")
        if address is not None and ipaddress.ip_address(address).is_loopback:
            continue
        if (protocol, entry["port"]) not in seen and not any(
            item["port"] == entry["port"] and item["protocol"] == protocol for item in listeners
        ):
            problems.append(
                {
                    "where": f"{entry['port']}/{protocol}",
                    "what": "is declared, but nothing of the platform listens there",
                    "fix": "check that the edge is running and publishes the port",
                }
            )
    return listeners, problems


def describe(problems):
    """All problems as text, one per line."""
    return "\n".join(f"{p['where']}: {p['what']}. Fix: {p['fix']}." for p in problems)
