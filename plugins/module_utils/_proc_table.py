# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of containers as the kernel has them, read from /proc once.

PRIVATE: internal to the collection, may change in any release. Standard library only.

A process belongs to the container whose pid namespace it is in, or whose id is part of its control group's path (both
versions of control groups). The first finds processes that a tool moved to another control group, the second those of
containers that use the host's pid namespace, and those in namespaces that a container made itself.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import (
    LIMIT,
    Files,
    LocalFiles,
    Unreadable,
)

#: Longest status, control group or command line that is read.
_LIMIT = 1 << 17
_PIECE = 1 << 16
CONTAINER_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
#: By bit number.
CAPABILITIES = tuple(
    """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE""".split()
)
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


class ProcFiles(LocalFiles):
    """This machine's files, and where its links point."""

    def read(self, path: str, limit: int = LIMIT) -> bytes:
        """As LocalFiles, in pieces: a buffer of the limit's size for each small file of /proc costs more than the file."""
        try:
            handle = os.open(self._real(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise Unreadable(path, f"cannot be opened: {why}", "run this as root on the host itself") from error
        pieces, size = [], 0
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Unreadable(path, "is not a regular file", "name a regular file")
            while size <= limit:
                piece = os.read(handle, _PIECE)
                if not piece:
                    return b"".join(pieces)
                pieces.append(piece)
                size += len(piece)
        except OSError as error:  # a process that ended between open and read
            raise Unreadable(path, f"cannot be read: {error.strerror}", "try again") from error
        finally:
            os.close(handle)
        raise Unreadable(path, f"is larger than {limit} bytes", "split it, or check that it is the right file")

    def link(self, path: str) -> str:
        """The text of a symbolic link; empty when there is none or it may not be read."""
        try:
            return os.readlink(self._real(path))
        except (OSError, ValueError):
            return ""


@dataclass(frozen=True)
class Process:
    """One process. ``uids`` are real, effective, saved and file system uid as the reader's user namespace has them.

    inner_pid: its number in its own pid namespace. argv is read for processes of containers and never repeated.
    """

    pid: int
    parent: int
    name: str
    state: str
    inner_pid: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    caps: Mapping[str, int]
    no_new_privs: int | None
    seccomp: int | None
    argv: tuple[str, ...] = field(default=(), repr=False)

    @property
    def alive(self) -> bool:
        """A zombie does nothing any more."""
        return self.state not in ("Z", "X")


@dataclass(frozen=True)
class UidMap:
    """The mapping of a user namespace: (first inside, first outside, how many)."""

    ranges: tuple[tuple[int, int, int], ...] = ()

    def inside(self, uid: int) -> int:
        """The uid as the container has it; unmapped ones become the kernel's "nobody"."""
        if not self.ranges:
            return uid
        for inside, outside, count in self.ranges:
            if outside <= uid < outside + count:
                return inside + uid - outside
        return 65534

    @property
    def remapped(self) -> bool:
        return any(inside != outside for inside, outside, _count in self.ranges)


@dataclass
class ProcessTable:
    """By container id. ``readable`` is False when /proc itself could not be listed."""

    processes: dict[str, list[Process]] = field(default_factory=dict)
    maps: dict[str, UidMap] = field(default_factory=dict)
    readable: bool = True

    def of(self, container: str) -> list[Process]:
        """Processes of a container, its first one first."""
        return self.processes.get(container, [])


def _numbers(text: str, base: int = 10) -> tuple[int, ...]:
    try:
        return tuple(int(word, base) for word in text.split())
    except ValueError:
        return ()


def parse_status(pid: int, text: str, argv: tuple[str, ...] = ()) -> Process | None:
    """One /proc/PID/status. None when it is not one (the process may be gone, and its file empty)."""
    fields = {}
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name, value.strip())
    uids, gids = _numbers(fields.get("Uid", "")), _numbers(fields.get("Gid", ""))
    if len(uids) != 4 or len(gids) != 4:
        return None
    first = {name: _numbers(fields.get(name, ""))[:1] for name in ("PPid", "NoNewPrivs", "Seccomp")}
    inner = _numbers(fields.get("NSpid", "")) or (pid,)
    caps = {}
    for name in CAPABILITY_SETS:
        value = _numbers(fields.get(name, ""), 16)
        if value:
            caps[name] = value[0]
    return Process(
        pid, (first["PPid"] or (0,))[0], fields.get("Name", "?"), fields.get("State", "?")[:1], inner[-1], uids, gids,
        caps, (first["NoNewPrivs"] or (None,))[0], (first["Seccomp"] or (None,))[0], argv,
    )  # fmt: skip


def _read(files: Files, path: str) -> str:
    try:
        return files.read(path, _LIMIT).decode("utf-8", "replace")
    except Unreadable:
        return ""


def read_process(files: Files, pid: int) -> Process | None:
    """A process as it is now; None when it is gone."""
    status = _read(files, f"/proc/{pid}/status")
    if not status:
        return None
    argv = tuple(_read(files, f"/proc/{pid}/cmdline").rstrip("\0").split("\0"))
    return parse_status(pid, status, argv if argv != ("",) else ())


def _link(files: Files, path: str) -> str:
    return files.link(path) if isinstance(files, ProcFiles) else ""


def read_uid_map(files: Files, pid: int) -> UidMap:
    """The user namespace of a process."""
    rows = [_numbers(line) for line in _read(files, f"/proc/{pid}/uid_map").splitlines()]
    return UidMap(tuple((row[0], row[1], row[2]) for row in rows if len(row) == 3))


def scan(files: Files, containers: Mapping[str, int], on_host: Iterable[str] = ()) -> ProcessTable:
    """All processes of the containers, in one pass over /proc.

    containers: id -> the engine's number of the first process. on_host: ids that use the host's pid namespace.
    """
    table = ProcessTable()
    numbers = sorted(int(name) for name in files.names("/proc") if name.isdigit())
    if not numbers:
        table.readable = False
        return table
    on_host = set(on_host)
    home = _link(files, "/proc/1/ns/pid") or _link(files, "/proc/self/ns/pid")
    spaces = {}
    for container, pid in containers.items():
        space = _link(files, f"/proc/{pid}/ns/pid") if pid and container not in on_host else ""
        # a container that shares another one's pid namespace is told apart by its control group
        if space and space != home:
            spaces[space] = "" if space in spaces else container
    for pid in numbers:
        space = _link(files, f"/proc/{pid}/ns/pid")
        if space and space == home and not on_host:
            continue
        owner = spaces.get(space, "") if space else ""
        if not owner:
            found = CONTAINER_ID.findall(_read(files, f"/proc/{pid}/cgroup"))
            owner = next((name for name in found if name in containers), "")
        if not owner:
            continue
        process = read_process(files, pid)
        if process is not None:
            table.processes.setdefault(owner, []).append(process)
    for container, pid in containers.items():
        if pid:
            table.maps[container] = read_uid_map(files, pid)
    return table


def descendants(processes: Iterable[Process], roots: Iterable[int]) -> set[int]:
    """Numbers of the roots and everything that they started."""
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def capability_names(mask: int) -> list[str]:
    """Names of the bits; those the table does not know by number."""
    return [
        CAPABILITIES[bit] if bit < len(CAPABILITIES) else f"CAP_{bit}"
        for bit in range(mask.bit_length())
        if mask >> bit & 1
    ]


def capability_mask(names: Iterable[str]) -> int:
    """Bits of capability names (upper case, without CAP_); ALL is every bit."""
    mask = 0
    for name in names:
        if name == "ALL":
            return -1
        if name in CAPABILITIES:
            mask |= 1 << CAPABILITIES.index(name)
    return mask
