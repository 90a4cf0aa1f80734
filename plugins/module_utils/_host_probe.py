# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the audits of the engine and the host need beyond files: who owns the socket, and what the engine answers.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils import _listeners
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError

SOCKET = "/var/run/docker.sock"
_CHUNK = 1 << 17


@dataclass(frozen=True)
class Daemon:
    """The dockerd that owns the socket.

    args: its command line without the program. replaced: the program on disk is no longer the one that runs.
    listening: its TCP listeners as (address, port); None when they cannot be read.
    """

    pid: int
    args: tuple[str, ...]
    replaced: bool = False
    listening: tuple[tuple[str, int], ...] | None = ()


@dataclass(frozen=True)
class HostFacts:
    """What was found out about a running host.

    daemon: None when it was not found, and ``daemon_problem`` says why.
    listeners: as ``_listeners.sockets`` returns them; None when they were not read.
    docker_user: the rules of the chain DOCKER-USER as ``iptables -S`` prints them; None when they could not be read.
    audit_rules: the active rules as ``auditctl -l`` prints them; None when nobody asked for them.
    """

    daemon: Daemon | None = None
    daemon_problem: str = "the processes of this host were not looked at"
    listeners: list[dict] | None = None
    docker_user: str | None = None
    audit_rules: str | None = None


def as_list(value: object) -> list:
    """A list of an answer; the engine writes null for an empty one."""
    return value if isinstance(value, list) else []


class Answers:
    """The engine's answers, each asked for once; an answer that did not come is None and leaves its reason.

    known: answers that somebody already has, by path.
    """

    def __init__(self, engine, known: Mapping[str, object] | None = None):
        self.engine = engine
        self._problems: dict[str, str] = {}
        self._known = {path: answer for path, answer in (known or {}).items() if answer is not None}

    def get(self, path: str, kind: type):
        """The parsed answer, or None; also None when it is of another type than ``kind``."""
        if path not in self._known:
            if self.engine is None:
                self._problems[path] = "no engine was asked"
                return None
            try:
                self._known[path] = self.engine.get(path)
            except (EngineError, OSError, ValueError) as error:
                self._known[path], self._problems[path] = None, str(error)
        answer = self._known[path]
        if answer is not None and not isinstance(answer, kind):
            self._problems[path] = f"the answer is no {kind.__name__}"
            return None
        return answer

    def containers(self) -> list[dict] | None:
        """The engine's list of containers, as far as it has the shape that the engine gives it."""
        answer = self.get("/containers/json", list)
        if answer is None:
            return None
        found = []
        for item in answer:
            if isinstance(item, dict):
                ports = [port for port in as_list(item.get("Ports")) if isinstance(port, dict)]
                names = [name for name in as_list(item.get("Names")) if isinstance(name, str)]
                labels = item.get("Labels")
                labels = labels if isinstance(labels, dict) else {}
                config = item.get("HostConfig")
                mode = config.get("NetworkMode") if isinstance(config, dict) else None
                found.append(
                    {
                        "Id": str(item.get("Id")),
                        "Names": names,
                        "Ports": ports,
                        "Labels": labels,
                        # another container's network may be the host's; no answer may be anything
                        "OnHost": not isinstance(mode, str) or mode == "host" or mode.startswith("container:"),
                    }
                )
        return found

    def reason(self, path: str) -> str:
        """Why there is no answer."""
        return f"the engine did not answer {path}: {self._problems.get(path, 'no reason given')}"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as handle:
            return handle.read(_CHUNK)
    except OSError:
        return b""


def _descriptors(proc: str, pid: int) -> set[int] | None:
    """Inodes of a process's sockets; None when they may not be read."""
    folder = os.path.join(proc, str(pid), "fd")
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    inodes = set()
    for name in names:
        try:
            match = re.fullmatch(r"socket:\[([0-9]+)\]", os.readlink(os.path.join(folder, name)))
        except OSError:
            continue
        if match:
            inodes.add(int(match.group(1)))
    return inodes


def _listening(proc: str, pid: int, inodes: set[int] | None) -> tuple[tuple[str, int], ...] | None:
    if inodes is None:
        return None
    found = set()
    for table in ("tcp", "tcp6"):
        text = _read(os.path.join(proc, str(pid), "net", table)).decode("ascii", "replace")
        try:
            rows = _listeners.parse_table(text, "tcp")
        except (ValueError, IndexError):
            return None
        found.update((str(address), port) for _tcp, address, port, _uid, inode in rows if inode in inodes)
    return tuple(sorted(found))


def _is_dockerd(proc: str, pid: int) -> bool:
    return _read(os.path.join(proc, str(pid), "comm")).strip() == b"dockerd"


def _bound_inodes(proc: str, socket_path: str) -> set[int]:
    """Inodes of sockets that are bound to the path, as the kernel lists them."""
    wanted = {socket_path, os.path.realpath(socket_path)}
    wanted |= {path[4:] if path.startswith("/var/run/") else "/var" + path for path in wanted if "/run/" in path[:9]}
    found = set()
    for line in _read(os.path.join(proc, "net", "unix")).decode("utf-8", "replace").splitlines()[1:]:
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[7] in wanted and fields[6].isdecimal():
            found.add(int(fields[6]))
    return found


def peer_pid(socket_path: str, timeout: float = 5) -> int:
    """Who listens on a unix socket, as the kernel recorded it; 0 when nobody does or it cannot be told."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(socket_path)
            size = struct.calcsize("3i")
            return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
    except (OSError, ValueError):
        return 0


def find_daemon(socket_path: str = SOCKET, proc: str = "/proc") -> tuple[Daemon | None, str]:
    """The dockerd behind the socket, or None and the reason.

    The kernel names who called listen(). With socket activation that is systemd, which hands the socket on; then it is
    the one dockerd that holds the same socket. The newest dockerd, or the only one by name, may be somebody else's.
    """
    pid = peer_pid(socket_path)
    if not pid:
        return None, f"nobody answers on {socket_path}"
    if not _is_dockerd(proc, pid):
        candidates = [int(name) for name in os.listdir(proc) if name.isdigit() and _is_dockerd(proc, int(name))]
        bound = _bound_inodes(proc, socket_path)
        holders = [number for number in candidates if bound & (_descriptors(proc, number) or set())]
        if len(holders) != 1:
            return None, f"it cannot be told which process serves {socket_path} ({len(holders)} of them hold it)"
        pid = holders[0]
    words = _read(os.path.join(proc, str(pid), "cmdline")).decode("utf-8", "replace").rstrip("\0").split("\0")
    try:
        replaced = os.readlink(os.path.join(proc, str(pid), "exe")).endswith(" (deleted)")
    except OSError:
        replaced = False
    return Daemon(pid, tuple(words[1:]), replaced, _listening(proc, pid, _descriptors(proc, pid))), ""


def read_docker_user() -> str | None:
    """The rules of DOCKER-USER; None when there is no tool, no chain or no permission to read it."""
    tool = shutil.which("iptables", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, "-w", "2", "-S", "DOCKER-USER"], capture_output=True, timeout=10, check=False, text=True
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout if done.returncode == 0 else None


def probe(
    socket_path: str = SOCKET, *, firewall: bool = False, listeners: bool = True, proc: str = "/proc"
) -> HostFacts:
    """Look at the running host. firewall: also ask for the rules of DOCKER-USER, which costs one process."""
    daemon, problem = find_daemon(socket_path, proc)
    found = None
    if listeners:
        try:
            found = _listeners.sockets(proc)
        except (_listeners.ListenersError, OSError, ValueError):
            found = None
    return HostFacts(daemon, problem, found, read_docker_user() if firewall else None)
