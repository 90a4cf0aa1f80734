# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host on which every check of the engine and the host passes, to weaken one thing at a time.

The engine's answers were recorded from a deployed stack on Debian's own packages; daemon.json is what the role writes,
and userns-remap.
"""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_daemon import audit_daemon
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles, Stat
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_host import audit_host
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_host import TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError
from ansible_collections.mcpstack.platform.plugins.module_utils._host_policy import HostPolicy
from ansible_collections.mcpstack.platform.plugins.module_utils._host_probe import Daemon, HostFacts

FIXTURES = next(
    parent / "tests" / "fixtures" for parent in Path(__file__).parents if (parent / "tests" / "fixtures").is_dir()
)
RECORD = json.loads((FIXTURES / "engine_answers.json").read_text())
TODAY = datetime.date(2026, 11, 21)

JSON = "/etc/docker/daemon.json"
UNIT = "/usr/lib/systemd/system/docker.service"
SOCKET_UNIT = "/usr/lib/systemd/system/docker.socket"
DROP_IN = "/etc/systemd/system/docker.service.d/local.conf"
STACK_UNIT = "/etc/systemd/system/mcpstack-secrets.service"
SCRIPT = "/usr/local/lib/mcpstack/secret_store.py"
RULES = "/etc/audit/rules.d/docker.rules"
LIST = "/var/lib/apt/lists/deb.example_dists_trixie-security_main_binary-amd64_Packages"
RELEASE = "/var/lib/apt/lists/deb.example_dists_trixie-security_InRelease"

DAEMON = {
    "live-restore": True,
    "log-driver": "json-file",
    "log-opts": {"max-size": "10m", "max-file": "3"},
    "log-level": "info",
    "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 65536, "Hard": 65536}},
    "userland-proxy": False,
    "icc": False,
    "no-new-privileges": True,
    "userns-remap": "default",
}
ARGUMENTS = ("-H", "fd://", "--containerd=/run/containerd/containerd.sock")
WATCHED = (
    "/usr/sbin/dockerd",
    "/usr/bin/containerd",
    "/usr/bin/containerd-shim-runc-v2",
    "/usr/sbin/runc",
    "/var/lib/docker",
    "/etc/docker",
    "/etc/default/docker",
    "/etc/containerd/config.toml",
    "/run/containerd",
    "/run/docker.sock",
    "/usr/lib/systemd/system",
)
SYSCTLS = {
    "kernel/kptr_restrict": "1",
    "kernel/dmesg_restrict": "1",
    "kernel/yama/ptrace_scope": "1",
    "kernel/unprivileged_bpf_disabled": "2",
    "kernel/randomize_va_space": "2",
    "fs/suid_dumpable": "0",
    "fs/protected_hardlinks": "1",
    "fs/protected_symlinks": "1",
    "fs/protected_fifos": "1",
    "fs/protected_regular": "2",
    "net/ipv4/conf/all/accept_source_route": "0",
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/all/rp_filter": "2",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/eth0/rp_filter": "0",
    "net/ipv4/tcp_syncookies": "1",
}
PACKAGES = {
    "docker.io": "26.1.5+dfsg1-9+deb13u1",
    "containerd": "1.7.24~ds1-6+deb13u1",
    "runc": "1.3.3+ds1-2",
    "openssl": "3.5.4-1~deb13u1",
}


class FakeEngine:
    """Answers what it is given; an EngineError in place of an answer is raised."""

    socket_path = "/var/run/docker.sock"

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def get(self, path, params=None):
        self.asked.append(path)
        answer = self.answers.get(path, EngineError(f"no {path}"))
        if isinstance(answer, Exception):
            raise answer
        return answer


def stanza(name, version, status="install ok installed"):
    return f"Package: {name}\nStatus: {status}\nArchitecture: amd64\nVersion: {version}\nDescription: x\n"


def _recorded():
    answers = copy.deepcopy(RECORD)
    answers["/info"]["SecurityOptions"] += ["name=apparmor", "name=userns"]
    for component in answers["/version"]["Components"]:
        if component["Name"] == "runc":
            # Debian's runc had no fix when this was recorded; the hardened host has one
            component["Version"], component["Details"]["GitCommit"] = "1.3.3+ds1", "1.3.3+ds1-2"
    return answers


class Host:
    """Files, their modes, the engine's answers, the facts and the policy; all of them may be changed."""

    def __init__(self):
        self.daemon = copy.deepcopy(DAEMON)
        self.raw: str | bytes | None = None
        self.arguments: tuple[str, ...] | None = ARGUMENTS
        self.drop_ins: dict[str, str] = {}
        self.facts: dict = {"listeners": [], "docker_user": None, "audit_rules": None}
        self.daemon_facts: dict = {"replaced": False, "listening": (("0.0.0.0", 80), ("0.0.0.0", 443))}
        self.policy: dict = {"today": TODAY, "declared_ports": [{"port": 80}, {"port": 443}]}
        self.api: dict | None = _recorded()
        self.unit_flags = "-H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS"
        self.packages = dict(PACKAGES)
        self.offered = {"openssl": "3.5.4-1~deb13u1", "docker.io": "26.1.5+dfsg1-9+deb13u1", "curl": "9.0-1"}
        self.files: dict[str, str | bytes | None] = {
            SOCKET_UNIT: (
                "[Socket]\nListenStream=/run/docker.sock\nSocketMode=0660\nSocketUser=root\nSocketGroup=docker\n"
            ),
            "/usr/lib/systemd/system/containerd.service": "[Service]\nExecStart=/usr/bin/containerd\n",
            "/etc/default/docker": "# DOCKER_OPTS=\n",
            "/etc/containerd/config.toml": "version = 2\n",
            "/etc/os-release": "ID=debian\nVERSION_CODENAME=trixie\n",
            "/sys/module/apparmor/parameters/enabled": "Y\n",
            "/proc/1/mountinfo": (
                "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 8:17 / /var/lib/docker rw - ext4 /dev/sdb1 rw\n"
            ),
            "/etc/group": "root:x:0:\nadm:x:4:alice\ndocker:x:102:\nusers:x:100:\n",
            "/etc/passwd": "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
            RULES: "# engine\n" + "".join(f"-w {path} -p rwxa -k docker\n" for path in WATCHED),
            RELEASE: "Origin: Debian\nDate: Fri, 20 Nov 2026 00:12:42 UTC\n",
            STACK_UNIT: f"[Service]\nExecStart=/usr/bin/python3 -I -B {SCRIPT} publish\n",
            SCRIPT: "# script\n",
            "/etc/mcpstack/compose/edge.yml": "services: {}\n",
            "/etc/mcpstack/edge/nginx.conf": "events {}\n",
            "/run/mcpstack/secrets/gateway/gateway-db/v1": "x",
        }
        self.files |= {f"/proc/sys/{name}": f"{value}\n" for name, value in SYSCTLS.items()}
        self.stats: dict[str, Stat] = {
            "/run/docker.sock": Stat("other", 0o660, 0, 102),
            "/run/containerd/containerd.sock": Stat("other", 0o660),
            "/run/containerd/containerd.sock.ttrpc": Stat("other", 0o660),
            "/var/lib/docker": Stat("directory", 0o710),
            "/var/lib/mcpstack": Stat("directory", 0o755),
            "/var/lib/mcpstack/pki/leaves/edge/current": Stat("link", 0o777),
            "/etc/mcpstack": Stat("directory", 0o750),
            "/etc/mcpstack/edge": Stat("directory", 0o750, 0, 64101),
            "/run/mcpstack/secrets": Stat("directory", 0o711),
            "/run/mcpstack/secrets/gateway": Stat("directory", 0o500, 64102, 64102),
            "/run/mcpstack/secrets/gateway/gateway-db": Stat("directory", 0o500, 64102, 64102),
            "/run/mcpstack/secrets/gateway/gateway-db/v1": Stat("file", 0o400, 64102, 64102),
            "/usr/bin/python3": Stat("file", 0o755),
            "/lib": Stat("link", 0o777),
            "/bin": Stat("link", 0o777),
            "/sbin": Stat("link", 0o777),
        }
        self.stats |= {path: Stat("file", 0o755) for path in WATCHED[:4]}

    def chmod(self, path, mode, uid=None, gid=None, kind=None):
        """Change what is known of a path; it appears when it was not there."""
        before = self.stats.get(path) or Stat("file")
        self.stats[path] = Stat(
            kind or before.kind, mode, before.uid if uid is None else uid, before.gid if gid is None else gid
        )

    def tree(self) -> MemoryFiles:
        files = dict(self.files)
        if self.raw is not None:
            files.setdefault(JSON, self.raw)
        elif self.daemon is not None:
            files.setdefault(JSON, json.dumps(self.daemon, indent=2) + "\n")
        files.setdefault(
            UNIT,
            f"[Service]\nEnvironmentFile=-/etc/default/docker\nExecStart=/usr/sbin/dockerd {self.unit_flags}\n",
        )
        files |= self.drop_ins
        files.setdefault(
            "/var/lib/dpkg/status", "\n".join(stanza(name, version) for name, version in self.packages.items())
        )
        files.setdefault(LIST, "\n".join(f"Package: {name}\nVersion: {v}\n" for name, v in self.offered.items()))
        files = {path: data for path, data in files.items() if data is not None}
        stats = {path: info for path, info in self.stats.items() if info is not None}
        return MemoryFiles(files, stats, ("/",))

    def result(self) -> dict:
        audit = Audit(TABLE)
        daemon = None
        if self.arguments is not None:
            daemon = Daemon(789, self.arguments, **self.daemon_facts)
        facts = HostFacts(daemon, "" if daemon else "no dockerd was found", **self.facts)
        engine = None if self.api is None else FakeEngine(self.api)
        policy = HostPolicy(**self.policy)
        files = self.tree()
        audit_daemon(audit, files, engine, facts, policy)
        audit_host(audit, files, engine, facts, policy)
        return audit.result()


def ids(result) -> set[str]:
    return {item["id"] for item in result["findings"]}


def places(result) -> set[tuple[str, str]]:
    return {(item["id"], item["where"]) for item in result["findings"]}


def status(result, check_id) -> str:
    return next(state["status"] for state in result["checks_run"] if state["id"] == check_id)


def reason(result, check_id) -> str:
    return next(state["reason"] for state in result["checks_run"] if state["id"] == check_id)
