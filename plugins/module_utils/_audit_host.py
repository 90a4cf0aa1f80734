# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges the host of a Docker engine: HST-01 to HST-13.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Modes are compared by bits, never as numbers: 606 is smaller than 660 and open to everybody.
"""

from __future__ import annotations

import posixpath
import re

from ansible_collections.mcpstack.platform.plugins.module_utils import _unit_files
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Stat, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._daemon_settings import Settings, load
from ansible_collections.mcpstack.platform.plugins.module_utils._host_audit_rules import audit_rules
from ansible_collections.mcpstack.platform.plugins.module_utils._host_firewall import audit_ports
from ansible_collections.mcpstack.platform.plugins.module_utils._host_kernel import audit_kernel
from ansible_collections.mcpstack.platform.plugins.module_utils._host_policy import HostPolicy
from ansible_collections.mcpstack.platform.plugins.module_utils._host_probe import SOCKET, Answers, HostFacts
from ansible_collections.mcpstack.platform.plugins.module_utils._host_stack import audit_stack, walk
from ansible_collections.mcpstack.platform.plugins.module_utils._host_updates import audit_updates

SUBJECT = "host"
DATA_ROOT = "/var/lib/docker"
CONFIG = "/etc/docker"
CERTIFICATES = "/etc/docker/certs.d"
UNITS = ("docker.service", "docker.socket", "containerd.service")
CONTAINERD = (
    "/run/containerd/containerd.sock",
    "/run/containerd/containerd.sock.ttrpc",
    "/run/docker/containerd/containerd.sock",
    "/run/docker/containerd/containerd.sock.ttrpc",
    "/run/docker/containerd/containerd-debug.sock",
)
#: Directories that the host itself fills: a file system for one of them is none for the engine.
_SHARED = frozenset(("/", "/var", "/var/lib", "/usr", "/home", "/opt", "/srv"))
_WALK_LIMIT = 4000


def shown(info: Stat) -> str:
    """Mode and owner as they are reported."""
    return f"mode {info.mode:04o}, owner {info.uid}:{info.gid}"


class _Host:
    """What the checks of one host need."""

    def __init__(self, audit: Audit, files: Files, answers: Answers, facts: HostFacts, policy: HostPolicy):
        self.audit, self.files, self.answers, self.facts, self.policy = audit, files, answers, facts, policy
        self.settings: Settings = load(files, facts.daemon)
        self.info: dict = answers.get("/info", dict) or {}

    def find(self, check_id: str, where: str, evidence: str, **more) -> None:
        self.audit.find(check_id, SUBJECT, where, evidence, **more)

    def texts(self, key: str) -> list[tuple[str, str]]:
        """String values of a setting of the engine, with their place."""
        return [(seen.value, seen.where) for seen in self.settings.seen(key) if isinstance(seen.value, str)]

    @property
    def data_root(self) -> str:
        root = self.info.get("DockerRootDir")
        if isinstance(root, str) and root.startswith("/"):
            return posixpath.normpath(root)
        for value, _where in self.texts("data-root"):
            if value.startswith("/"):
                return posixpath.normpath(value)
        return DATA_ROOT

    def owned(self, check_id: str, path: str, allowed: int, **more) -> bool:
        """Report a path that is not root's or has a bit beyond ``allowed``; whether it exists."""
        info = self.files.stat(path)
        if info is None:
            return False
        if info.uid != 0 or info.gid != 0 or info.mode & ~allowed & 0o7777:
            self.find(check_id, path, f"{shown(info)}; allowed {allowed:04o}, owner 0:0", **more)
        return True


# -- HST-01, HST-02 -----------------------------------------------------------------------------------------------------


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def mounts(text: str) -> dict[str, str]:
    """Mount point -> device number, the last mount on a point, from /proc/self/mountinfo."""
    found = {}
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= 6 and re.fullmatch(r"[0-9]+:[0-9]+", fields[2]) and fields[4].startswith("/"):
            found[_unescape(fields[4])] = fields[2]
    return found


def _file_system(host: _Host) -> None:
    table: dict[str, str] = {}
    for path in ("/proc/1/mountinfo", "/proc/self/mountinfo"):
        try:
            table = mounts(host.files.read(path).decode("utf-8", "replace"))
        except Unreadable:
            continue
        if table:
            break
    if "/" not in table:
        host.audit.unknown("HST-01", "the mounts of this host cannot be read")
        return
    root = host.data_root
    info = host.files.stat(root, follow=False)
    if info is not None and info.kind == "link":
        host.audit.unknown("HST-01", f"{root} is a link, and the engine did not say where its data really is")
        return
    if info is None and not host.info:
        if host.files.knows(root):
            host.audit.not_applicable("HST-01", f"{root} does not exist")
        else:
            host.audit.unknown("HST-01", f"{root} is not among the files at hand")
        return
    point = root
    while point not in table and point != "/":
        point = posixpath.dirname(point)
    if table[point] == table["/"]:
        host.find("HST-01", root, f"on the file system of /, device {table['/']}")
    elif point != root and point in _SHARED:
        host.find("HST-01", root, f"on the file system of {point}, which the host fills as well")
    host.audit.decide("HST-01")


def _rows(files: Files, path: str) -> list[list[str]]:
    text = files.read(path).decode("utf-8", "replace")
    return [line.split(":") for line in text.splitlines() if line and not line.startswith(("#", "+", "-"))]


def _group_ids(host: _Host, names: set[str]) -> dict[str, int]:
    """Numbers of groups by name. Raises Unreadable."""
    found = {}
    for row in _rows(host.files, "/etc/group"):
        if len(row) >= 3 and row[0] in names and row[2].isdecimal() and len(row[2]) < 11:
            found[row[0]] = int(row[2])
    return found


def _engine_groups(host: _Host) -> set[str]:
    return {"docker"} | {value for value, _where in host.texts("group") if value}


def _docker_group(host: _Host) -> None:
    names = _engine_groups(host)
    allowed = {str(name) for name in host.policy.docker_group_members}
    try:
        numbers = set(_group_ids(host, names).values())
        members: dict[str, str] = {}
        for row in _rows(host.files, "/etc/group"):
            if len(row) >= 4 and row[2].isdecimal() and len(row[2]) < 11 and int(row[2]) in numbers:
                for user in row[3].split(","):
                    if user.strip():
                        members[user.strip()] = f"/etc/group, group {row[0]}"
        for row in _rows(host.files, "/etc/passwd"):
            if len(row) >= 4 and row[3].isdecimal() and len(row[3]) < 11 and int(row[3]) in numbers:
                members.setdefault(row[0], "/etc/passwd, primary group")
    except Unreadable as error:
        host.audit.unknown("HST-02", str(error))
        return
    members.pop("root", None)
    for user in sorted(set(members) - allowed):
        host.audit.find("HST-02", f"user {user}", members[user].partition(",")[0],
                        f"{user} is root through {members[user]}, and not on the allow-list")  # fmt: skip
    host.audit.decide("HST-02")


# -- HST-05 to HST-09: modes --------------------------------------------------------------------------------------------


def _units(host: _Host) -> None:
    seen = False
    for unit in UNITS:
        for folder in _unit_files.directories(host.files):
            info = host.files.stat(f"{folder}/{unit}")
            if info is not None and info.kind != "other":
                seen |= host.owned("HST-05", f"{folder}/{unit}", 0o644)
        for folder in _unit_files.drop_in_directories(host.files, unit):
            host.owned("HST-05", folder, 0o755)
            for name in host.files.names(folder):
                info = host.files.stat(f"{folder}/{name}")
                if name.endswith(".conf") and info is not None and info.kind != "other":
                    seen |= host.owned("HST-05", f"{folder}/{name}", 0o644)
    if seen:
        host.audit.decide("HST-05")
    elif host.files.knows("/etc/systemd/system/docker.service"):
        host.audit.not_applicable("HST-05", "there is no unit of the engine")
    else:
        host.audit.unknown("HST-05", "the units of systemd are not among the files at hand")


def _configuration(host: _Host) -> None:
    seen = False
    for path, info in walk(host.files, CONFIG, _WALK_LIMIT):
        if info is None:
            host.audit.unknown("HST-06", f"{path} holds more than {_WALK_LIMIT} entries")
        elif info.kind == "directory":
            seen |= host.owned("HST-06", path, 0o755)
        elif info.kind == "file" and not path.startswith(CERTIFICATES + "/"):
            seen |= host.owned("HST-06", path, 0o644)
    extra = ["/etc/default/docker", "/etc/sysconfig/docker", "/etc/containerd/config.toml"]
    if host.settings.file.path != f"{CONFIG}/daemon.json":
        extra.append(host.settings.file.path)
    for path in extra:
        seen |= host.owned("HST-06", path, 0o644)
    seen |= host.owned("HST-06", "/etc/containerd", 0o755)
    if seen:
        host.audit.decide("HST-06")
    elif host.files.knows(CONFIG):
        host.audit.not_applicable("HST-06", "the engine has no configuration on this host")
    else:
        host.audit.unknown("HST-06", f"{CONFIG} is not among the files at hand")


def _socket_paths(host: _Host) -> list[str]:
    found = ["/run/docker.sock", getattr(host.answers.engine, "socket_path", "") or SOCKET]
    for seen in host.settings.seen("hosts"):
        for entry in seen.value if isinstance(seen.value, list) else ():
            if entry.strip().lower().startswith("unix://"):
                found.append(entry.strip()[7:])
    found += [item.value for item in host.settings.sockets if item.name == "ListenStream" and item.value[:1] == "/"]
    plain = [path[4:] if path.startswith("/var/run/") else path for path in found if path.startswith("/")]
    return list(dict.fromkeys(plain))


def _socket_unit(host: _Host) -> None:
    """What the socket will be like after the next start."""
    wanted = {"SocketUser": ("root", "0", ""), "SocketGroup": ("docker", "root", "0", "")}
    last = {item.name: item for item in host.settings.sockets if item.name != "ListenStream"}
    for name, item in sorted(last.items()):
        if name == "SocketMode":
            mode = int(item.value, 8) if re.fullmatch(r"[0-7]{1,5}", item.value) else None
            if mode is None or mode & 0o117:
                host.find("HST-07", item.where, f"SocketMode={item.value}; no bit of 0117 may be set")
        elif name in wanted and item.value not in wanted[name]:
            host.find("HST-07", item.where, f"{name}={item.value}", severity="high")
    if host.settings.sockets and "SocketMode" not in last:
        host.find("HST-07", _socket_place(host), "SocketMode is not set, systemd's default is 0666")


def _socket_place(host: _Host) -> str:
    return next((item.where.rpartition(":")[0] for item in host.settings.sockets), "docker.socket")


def _socket(host: _Host) -> None:
    try:
        groups = {0, *_group_ids(host, {"docker"}).values()}
    except Unreadable as error:
        host.audit.unknown("HST-07", str(error))
        return
    seen = found = False
    for path in _socket_paths(host):
        info = host.files.stat(path)
        if info is None:
            continue
        seen = True
        if info.mode & 0o117:
            host.find("HST-07", path, f"{shown(info)}; no bit of 0117 may be set")
            found = True
        elif info.uid != 0 or info.gid not in groups:
            host.find("HST-07", path, f"{shown(info)}; owner is not root:docker", severity="high")
            found = True
    if not found:
        _socket_unit(host)
    if seen:
        host.audit.decide("HST-07")
    elif all(host.files.knows(path) for path in _socket_paths(host)):
        host.audit.not_applicable("HST-07", "the engine has no socket: it does not run")
    else:
        host.audit.unknown("HST-07", "the socket is not among the files at hand")


def _containerd(host: _Host) -> None:
    seen = False
    for path in CONTAINERD:
        seen |= host.owned("HST-08", path, 0o660)
    if seen:
        host.audit.decide("HST-08")
    elif all(host.files.knows(path) for path in CONTAINERD):
        host.audit.not_applicable("HST-08", "there is no socket of containerd")
    else:
        host.audit.unknown("HST-08", "the sockets of containerd are not among the files at hand")


def _secret_file(host: _Host, path: str, key: bool) -> bool:
    info = host.files.stat(path)
    if info is None or info.kind == "directory":
        return False
    allowed = 0o440 if key and info.gid != 0 else 0o400 if key else 0o444
    beyond = info.mode & ~allowed & 0o7777
    what = "private key" if key else "certificate"
    if info.uid != 0 or beyond & ~0o200:
        host.find("HST-09", path, f"{what}: {shown(info)}; allowed {allowed:04o}")
    elif beyond:
        host.find("HST-09", path, f"{what}: {shown(info)}; allowed {allowed:04o}", severity="low")
    return True


def _certificates(host: _Host) -> None:
    seen = False
    for path, info in walk(host.files, CERTIFICATES, _WALK_LIMIT):
        if info is None:
            host.audit.unknown("HST-09", f"{path} holds more than {_WALK_LIMIT} entries")
        elif info.kind == "file" and path.endswith((".crt", ".cert", ".pem", ".key")):
            seen |= _secret_file(host, path, path.endswith(".key"))
    for key in ("tlscacert", "tlscert", "tlskey"):
        for value, _where in host.texts(key):
            seen |= _secret_file(host, value, key == "tlskey")
    if seen:
        host.audit.decide("HST-09")
    elif host.files.knows(CERTIFICATES):
        host.audit.not_applicable("HST-09", "the engine has no certificates")
    else:
        host.audit.unknown("HST-09", f"{CERTIFICATES} is not among the files at hand")


# -- all ------------------------------------------------------------------------------------------------------------------


def audit_host(audit: Audit, files: Files, engine, facts: HostFacts | None, policy: HostPolicy) -> None:
    """Decide HST-01 to HST-13.

    engine: anything with ``get(path)`` that raises EngineError, an ``Answers`` that already holds answers, or None.
    facts: what ``_host_probe.probe`` found; None when only files are at hand.
    """
    answers = engine if isinstance(engine, Answers) else Answers(engine)
    host = _Host(audit, files, answers, facts or HostFacts(), policy)
    for check in (_file_system, _docker_group, _units, _configuration, _socket, _containerd, _certificates):
        check(host)
    audit_rules(audit, files, host.data_root, host.facts.audit_rules)
    if policy.updates:
        audit_updates(audit, files, policy.today)
    else:
        audit.unknown("HST-10", "the package index was not asked for")
    audit_kernel(audit, files, policy.sysctls)
    audit_ports(audit, files, answers, host.facts, policy)
    audit_stack(audit, files, policy)
