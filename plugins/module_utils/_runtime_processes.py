# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the processes of containers do: kernel truth (RUN-03), listeners (RUN-04), login servers and shells (RUN-05).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._container_inspect import configured_root, place_of
from ansible_collections.mcpstack.platform.plugins.module_utils._container_rules import (
    DEFAULT_CAPABILITIES,
    TRUE,
    capability,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import (
    Snapshot,
    name_of,
    project_of,
    service_of,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._listeners import parse_table
from ansible_collections.mcpstack.platform.plugins.module_utils._proc_table import (
    CAPABILITY_SETS,
    Process,
    ProcessTable,
    UidMap,
    capability_mask,
    capability_names,
    descendants,
    read_process,
)

#: Runtimes whose containers are plain processes of the host's kernel.
PLAIN_RUNTIMES = frozenset({"", "runc", "crun", "youki", "nvidia", "io.containerd.runc.v2", "io.containerd.crun.v2"})
LOGIN_SERVERS = frozenset({"sshd", "dropbear", "telnetd", "in.telnetd", "rlogind", "in.rlogind", "rshd", "in.rshd"})
SHELLS = frozenset({"sh", "ash", "bash", "dash", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "rbash"})
#: First port that Linux hands to clients, unless told otherwise.
EPHEMERAL = 32768
_TABLES = (("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp"))
_TABLE_LIMIT = 4 << 20
#: How often a process that looks wrong is looked at again: one that the runtime is just setting up is not yet confined.
_LOOKS = 5
_NAMES_SHOWN = 4


def session_processes(snapshot: Snapshot, table: ProcessTable) -> dict[str, set[int]]:
    """Numbers of the processes that running exec sessions started, by container."""
    found = {}
    for container, sessions in snapshot.execs.items():
        roots = [number for number in (session.get("Pid") for session in sessions) if number]
        found[container] = descendants(table.of(container), roots)
    return found


def _option(container: dict, wanted: str) -> str | None:
    """The value of a security option, the last one; None when it is not set."""
    value = None
    for entry in (container.get("HostConfig") or {}).get("SecurityOpt") or ():
        entry = str(entry).strip()
        name, _rest, rest = entry.partition("=" if "=" in entry else ":")
        if name == wanted:
            value = rest
    return value


def promised_capabilities(container: dict) -> int:
    """Mask of what the configuration grants at most; everything is -1."""
    host = container.get("HostConfig") or {}
    if host.get("Privileged"):
        return -1
    dropped = {capability(str(name)) for name in host.get("CapDrop") or ()}
    added = {capability(str(name)) for name in host.get("CapAdd") or ()}
    if "ALL" in added:  # the engine looks at this first: dropping ALL does not undo it
        return ~capability_mask(dropped - {"ALL"})
    return capability_mask((set() if "ALL" in dropped else DEFAULT_CAPABILITIES - dropped) | added)


def promises_no_new_privileges(container: dict, engine_default: bool) -> bool:
    """Whether the configuration says no-new-privileges."""
    value = _option(container, "no-new-privileges")
    return engine_default if value is None else value in TRUE or value == ""


def _names(mask: int) -> str:
    names = capability_names(mask)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def faults(
    process: Process, inside: UidMap, capabilities: int, no_new_privileges: bool, filtered: bool, root: bool
) -> list[tuple[str, str]]:
    """(kind, what was seen) of every promise that the kernel does not keep for a process."""
    found = []
    for name in CAPABILITY_SETS:
        excess = process.caps.get(name, 0) & ~capabilities
        if excess:
            found.append(("capabilities", f"{name} {process.caps[name]:016x}: {_names(excess)}"))
    if no_new_privileges and process.no_new_privs == 0:
        found.append(("privileges", "NoNewPrivs 0"))
    if filtered and process.seccomp is not None and process.seccomp != 2:
        found.append(("system calls", f"Seccomp {process.seccomp}"))
    if not root and any(inside.inside(uid) == 0 for uid in process.uids):
        found.append(("user", f"Uid {' '.join(str(uid) for uid in process.uids)}"))
    return found


def judge_kernel(
    audit: Audit,
    snapshot: Snapshot,
    table: ProcessTable,
    sessions: Mapping[str, set[int]],
    files: Files,
    pause: Callable[[], None],
) -> None:
    """RUN-03."""
    if not snapshot.active():
        audit.not_applicable("RUN-03", "no container runs")
        return
    if not table.readable:
        audit.unknown("RUN-03", "/proc cannot be listed")
        return
    audit.decide("RUN-03")
    default = "name=no-new-privileges" in snapshot.security
    engine_filters = any(
        item.startswith("name=seccomp") and not item.endswith("=unconfined") for item in snapshot.security
    )
    suspects: list[tuple[dict, Process, tuple]] = []
    for container in snapshot.active():
        runtime = str((container.get("HostConfig") or {}).get("Runtime") or "")
        processes = [item for item in table.of(container["Id"]) if item.alive]
        if runtime not in PLAIN_RUNTIMES:
            audit.unknown("RUN-03", f"{name_of(container)}: runtime {runtime} has a kernel or sandbox of its own")
            continue
        if not processes:
            if (container.get("State") or {}).get("Status") != "restarting":
                audit.unknown("RUN-03", f"{name_of(container)}: none of its processes was found in /proc")
            continue
        privileged = bool((container.get("HostConfig") or {}).get("Privileged"))
        profile = _option(container, "seccomp")
        promises = (
            table.maps.get(container["Id"], UidMap()),
            promised_capabilities(container),
            promises_no_new_privileges(container, default),
            not privileged and profile != "unconfined" and (engine_filters or profile is not None),
            configured_root(container),
        )
        for process in processes:
            if process.pid in sessions.get(container["Id"], ()):  # RUN-07 speaks of those
                continue
            if any(name not in process.caps for name in ("CapEff", "CapBnd")) or process.no_new_privs is None:
                audit.unknown("RUN-03", f"{name_of(container)}: its process status in /proc is incomplete")
            if faults(process, *promises):
                suspects.append((container, process, promises))
    seen: dict[tuple[str, str, str], list[str]] = {}
    for container, process, promises in _settle(suspects, files, pause):
        for kind, text in faults(process, *promises):
            seen.setdefault((name_of(container), process.name, kind), []).append(text)
    for (container_name, process_name, _kind), texts in seen.items():
        text = "; ".join(dict.fromkeys(texts))
        audit.find("RUN-03", container_name, f"container {container_name}: process {process_name}", text)


def _settle(
    suspects: list[tuple[dict, Process, tuple]], files: Files, pause: Callable[[], None]
) -> list[tuple[dict, Process, tuple]]:
    """Those that still look wrong after a moment: what runc sets up has every privilege until its last step."""
    for _look in range(_LOOKS):
        if not suspects:
            break
        pause()
        again = []
        for container, process, promises in suspects:
            now = read_process(files, process.pid)
            if now is not None and now.alive and now.inner_pid == process.inner_pid and faults(now, *promises):
                again.append((container, now, promises))
        suspects = again
    return suspects


def _expected_ports(container: dict, declared: Mapping[str, Iterable[tuple[int, str]]]) -> set[tuple[int, str]]:
    config, host = container.get("Config") or {}, container.get("HostConfig") or {}
    found = set()
    for key in (*(config.get("ExposedPorts") or ()), *(host.get("PortBindings") or ())):
        first, _rest, protocol = str(key).partition("/")
        low, _rest, high = first.partition("-")
        if low.isdigit() and (high or low).isdigit():
            found.update((number, protocol or "tcp") for number in range(int(low), int(high or low) + 1))
    for name in (service_of(container), name_of(container), f"{project_of(container)}/{service_of(container)}"):
        found.update(declared.get(name, ()))
    return found


def _in_use(files: Files, pid: int) -> dict[str, bool]:
    """Which tables hold a socket at all. The kernel walks a table of the whole host to print a single row of tcp."""
    found = {}
    for name, suffix in (("sockstat", ""), ("sockstat6", "6")):
        try:
            text = files.read(f"/proc/{pid}/net/{name}", _TABLE_LIMIT).decode("ascii", "replace")
        except Unreadable:
            continue
        for kind in ("tcp", "udp"):
            match = re.search(rf"^{kind.upper()}{suffix}: inuse ([0-9]+)", text, re.MULTILINE)
            if match:
                found[kind + suffix] = match[1] != "0"
    return found


def listening(files: Files, pid: int) -> tuple[set[tuple[int, str]], bool]:
    """((port, protocol) that listen beyond loopback in the network namespace of a process, whether it could be read)."""
    found: set[tuple[int, str]] = set()
    in_use = _in_use(files, pid)
    read = "tcp" in in_use
    for name, protocol in _TABLES:
        if not in_use.get(name, True):
            continue
        try:
            text = files.read(f"/proc/{pid}/net/{name}", _TABLE_LIMIT).decode("ascii", "replace")
            rows = parse_table(text, protocol)
        except (Unreadable, ValueError):
            if in_use.get(name):
                return found, False
            continue
        read = read or name in ("tcp", "tcp6")
        found.update((port, protocol) for _kind, address, port, _uid, _inode in rows if not address.is_loopback)
    return found, read


def _spell(ports: Iterable[tuple[int, str]]) -> str:
    return ", ".join(f"{port}/{protocol}" for port, protocol in sorted(ports)) or "none"


def judge_listeners(
    audit: Audit, snapshot: Snapshot, files: Files, declared: Mapping[str, Iterable[tuple[int, str]]]
) -> None:
    """RUN-04. Containers that share a network namespace are judged together."""
    groups: dict[str, list[dict]] = {}
    for container in snapshot.active():
        mode = str((container.get("HostConfig") or {}).get("NetworkMode") or "")
        if mode not in ("host", "none"):
            owner = mode.partition(":")[2] if mode.startswith("container:") else container["Id"]
            groups.setdefault(owner, []).append(container)
    if not groups:
        audit.not_applicable("RUN-04", "no container with a network of its own runs")
        return
    audit.decide("RUN-04")
    silent = []
    for owner, members in sorted(groups.items(), key=lambda item: name_of(item[1][0])):
        head = next((item for item in members if item["Id"] == owner), members[0])
        pid = (head.get("State") or {}).get("Pid") or 0
        if not pid:
            continue  # between two starts
        name = name_of(head)
        found, read = listening(files, pid)
        if not read:
            audit.unknown("RUN-04", f"{name}: its socket tables in /proc cannot be read")
            continue
        meant = set().union(*(_expected_ports(item, declared) for item in members))
        extra = {
            (port, protocol)
            for port, protocol in found - meant
            if protocol == "tcp" or port < EPHEMERAL  # above it an unconnected UDP socket is a client's
        }
        if extra and not meant:
            silent.append(f"{name} ({_spell(extra)})")
        else:
            for port, protocol in sorted(extra):
                audit.find(
                    "RUN-04", name, f"{place_of(head)}: {port}/{protocol}", f"listens; declared: {_spell(meant)}"
                )
        published = set()
        for item in members:
            for key, entries in ((item.get("NetworkSettings") or {}).get("Ports") or {}).items():
                port, _rest, protocol = str(key).partition("/")
                if entries and port.isdigit():
                    published.add((int(port), protocol))
        for port, protocol in sorted(published - found):
            if protocol in ("tcp", "udp"):
                audit.find(
                    "RUN-04", name, f"{place_of(head)}: {port}/{protocol}", "published, but nothing listens",
                    severity="low", title="Published port leads nowhere",
                    fix="Remove the publish, or publish the port on which the service listens.",
                )  # fmt: skip
    if silent:
        audit.unknown("RUN-04", f"declares no port at all, and listens: {', '.join(silent)}")


def shell_without_work(argv: tuple[str, ...]) -> bool:
    """Whether a shell reads its commands from a terminal or a pipe: neither a script nor -c."""
    if not argv:
        return False
    words = list(argv)
    name = words[0].rpartition("/")[2].lstrip("-")
    if name == "busybox" and len(words) > 1:
        words.pop(0)
        name = words[0]
    if name not in SHELLS:
        return False
    takes_value = False
    for word in words[1:]:
        if takes_value:
            takes_value = False
        elif word in ("-o", "+o", "-O", "+O", "--rcfile", "--init-file"):
            takes_value = True
        elif re.fullmatch(r"[-+][A-Za-z]*", word) and not word.startswith("--"):
            if "c" in word:
                return False
            if "s" in word or "i" in word:
                return True
        elif not word.startswith("--"):
            return False  # a script
    return True


def judge_programs(audit: Audit, snapshot: Snapshot, table: ProcessTable) -> None:
    """RUN-05, the part about processes."""
    if not table.readable:
        audit.unknown("RUN-05", "/proc cannot be listed")
        return
    for container in snapshot.active():
        processes = [item for item in table.of(container["Id"]) if item.alive]
        if not processes:
            if (container.get("State") or {}).get("Status") != "restarting":
                audit.unknown("RUN-05", f"{name_of(container)}: none of its processes was found in /proc")
            continue
        for process in processes:
            program = process.argv[0].partition(" ")[0].rpartition("/")[2].rstrip(":") if process.argv else ""
            server = next((name for name in (process.name, program) if name in LOGIN_SERVERS), "")
            if server:
                text = f"{server} runs: a login server"
            elif shell_without_work(process.argv):
                text = f"{process.name} runs and takes commands from a terminal or a pipe"
            else:
                continue
            audit.find("RUN-05", name_of(container), f"{place_of(container)}: process {process.name}", text)
