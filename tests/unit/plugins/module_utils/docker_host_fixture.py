# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host as it was recorded from the deployed stack: the engine's answers and its /proc, to weaken one thing at a time."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_containers as containers
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_runtime as runtime
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit, merge_results
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_docker import judge_snapshot
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_runtime import TABLE as RUN_TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import Policy
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import collect
from ansible_collections.mcpstack.platform.plugins.module_utils._expected_model import model_from_project
from ansible_collections.mcpstack.platform.plugins.module_utils._proc_table import CAPABILITIES, ProcFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._runtime_processes import session_processes

FIXTURES = next(
    parent / "tests" / "fixtures" for parent in Path(__file__).parents if (parent / "tests" / "fixtures").is_dir()
)
_TEXT = (FIXTURES / "docker_host.json").read_text()
RECORD = json.loads(_TEXT)
CONFIG = json.loads((FIXTURES / "docker_host_config.json").read_text())
NOW = datetime.datetime(2026, 11, 21, 13, 0, tzinfo=datetime.timezone.utc)
POLICY = Policy(edge_services=frozenset({"edge"}))
DECLARED = {"edge": ["8082"]}
DEFAULT = 0xA80425FB  # what the engine grants by default
EVERYTHING = (1 << len(CAPABILITIES)) - 1


class FakeEngine:
    """Answers as the recorded engine did; counts what it is asked."""

    def __init__(self, host):
        self.host, self.asked = host, []

    def get(self, path, params=None, timeout=None):
        try:
            return self._answer(path)
        except (AttributeError, KeyError, StopIteration, TypeError) as error:
            raise EngineError(f"no such thing: {path}", 404) from error

    def _answer(self, path):
        self.asked.append(path)
        if path in self.host.refused:
            raise EngineError(f"refused {path}", self.host.refused[path])
        data = self.host.data
        lists = {
            "/containers/json": "listing",
            "/networks": "networks",
            "/volumes": "volumes",
            "/images/json": "images",
        }
        if path in lists:
            return data[lists[path]]
        if path == "/info":
            return data["info"]
        _empty, kind, rest = path.split("/", 2)
        number, _, what = rest.rpartition("/")
        if kind == "containers" and what == "json":
            return next(item for item in data["containers"] if item["Id"] == number)
        if kind == "containers" and what == "changes":
            return data["changes"].get(number)
        if kind == "exec":
            return data["execs"][number]
        if kind == "images":
            return data["image_details"][number]
        raise AssertionError(path)

    def close(self):
        pass


class MemoryProc(ProcFiles):
    """The same /proc without a disk."""

    def __init__(self, processes):
        super().__init__()
        self._processes = processes

    def _entry(self, path):
        parts = path.split("/", 3)
        return self._processes.get(parts[2], {}).get(parts[3]) if len(parts) == 4 and parts[1] == "proc" else None

    def read(self, path, limit=0):
        content = self._entry(path)
        if content is None:
            raise Unreadable(path, "is not there", "look elsewhere")
        return b"".join(word.encode() + b"\0" for word in content) if isinstance(content, list) else content.encode()

    def link(self, path):
        return self._entry(path) or ""

    def names(self, path):
        return sorted(self._processes) if path == "/proc" else []


class Host:
    """The recorded host. Change ``data`` and ask again; ``refused`` holds paths that the engine answers with a status."""

    def __init__(self):
        self.data = json.loads(_TEXT)  # quicker than a deep copy
        self.data.update(execs={}, changes={})
        self.refused = {}

    def container(self, service):
        """The inspect of a service's container."""
        return next(
            item
            for item in self.data["containers"]
            if item["Config"]["Labels"]["com.docker.compose.service"] == service
        )

    def summary(self, service):
        """Its row in the engine's list."""
        return next(item for item in self.data["listing"] if item["Labels"]["com.docker.compose.service"] == service)

    def processes(self, service):
        """Its rows of /proc, by number."""
        number = self.container(service)["Id"]
        return {pid: row for pid, row in self.data["proc"].items() if number in row["cgroup"]}

    def status(self, pid, **fields):
        """Change fields of a process's status."""
        lines = []
        for line in self.data["proc"][str(pid)]["status"].splitlines():
            name = line.partition(":")[0]
            lines.append(f"{name}:\t{fields[name]}" if name in fields else line)
        self.data["proc"][str(pid)]["status"] = "\n".join(lines) + "\n"

    def add_process(self, service, pid, argv, parent=0, inner=99, **fields):
        """Another process of a container, as its first one."""
        first = str(self.container(service)["State"]["Pid"])
        row = {key: value for key, value in self.data["proc"][first].items() if not key.startswith("net/")}
        self.data["proc"][str(pid)] = {**row, "cmdline": argv}
        name = argv[0].rpartition("/")[2][:15]
        self.status(pid, **{"Name": name, "PPid": parent or first, "NSpid": f"{pid}\t{inner}", **fields})

    def kernel_follows(self, service):
        """What the kernel would have if the container had been started from its configuration as it now is."""
        container = self.container(service)
        host = container["HostConfig"]
        options = [str(item).replace("=", ":", 1) for item in host["SecurityOpt"] or ()]
        named = {name.strip().upper().removeprefix("CAP_") for name in host["CapAdd"] or ()}
        dropped = {name.strip().upper().removeprefix("CAP_") for name in host["CapDrop"] or ()}
        bits = {name: 1 << bit for bit, name in enumerate(CAPABILITIES)}
        base = 0 if "ALL" in dropped else DEFAULT & ~sum(bits.get(name, 0) for name in dropped)
        bound = EVERYTHING if host["Privileged"] or "ALL" in named else base | sum(bits[name] for name in named)
        user = str(container["Config"]["User"] or "0").partition(":")
        uid = int(user[0]) if user[0].lstrip("+").isdigit() else 0 if user[0] in ("", "root") else 1000
        gid = int(user[2]) if user[2].isdigit() else uid
        mine = bound if uid == 0 else 0
        nnp = any(item in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges:1") for item in options)
        filtered = not (host["Privileged"] or "seccomp:unconfined" in options)
        for pid in self.processes(service):
            self.status(
                pid, CapBnd=f"{bound:016x}", CapPrm=f"{mine:016x}", CapEff=f"{mine:016x}", NoNewPrivs=int(nnp),
                Seccomp=2 if filtered else 0, Uid="\t".join([str(uid)] * 4), Gid="\t".join([str(gid)] * 4),
            )  # fmt: skip

    def write(self, root):
        """The /proc of the host below a directory."""
        for pid, row in self.data["proc"].items():
            base = Path(root) / "proc" / pid
            for name, content in row.items():
                path = base / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if name.startswith("ns/"):
                    path.symlink_to(content)
                elif isinstance(content, list):
                    path.write_bytes(b"".join(word.encode() + b"\0" for word in content))
                else:
                    path.write_text(content)
        return ProcFiles(str(root))

    def audit(self, root=None, *, policy=POLICY, projects=(), expected=None, declared=DECLARED, pause=lambda: None):
        """The merged result of both cores; ``root``: write /proc to this directory and read it from there."""
        files = self.write(root) if root else MemoryProc(self.data["proc"])
        snapshot = collect(FakeEngine(self), projects, details=expected is not None)
        table = runtime.processes_of(snapshot, files)
        first, second = Audit(containers.TABLE), Audit(RUN_TABLE)
        sessions = session_processes(snapshot, table)
        containers.audit_containers(first, snapshot, table, policy, sessions, projects)
        runtime.audit_runtime(
            second, snapshot, table, files, sessions, projects=projects, expected=expected, declared=declared, now=NOW,
            pause=pause,
        )  # fmt: skip
        return merge_results([first.result(), second.result()])

    def robust(self):
        """As the module asks: an answer of any shape gives a result."""
        snapshot = collect(FakeEngine(self), (), details=True)
        files = MemoryProc(self.data["proc"])
        table = runtime.processes_of(snapshot, files)
        moment = {"now": NOW, "pause": lambda: None}
        return merge_results(judge_snapshot(snapshot, table, files, {}, (expected_model(), []), **moment))


def expected_model():
    """The model of the recorded project, as a deploy writes it."""
    ids = {service: RECORD_IDS[service] for service in CONFIG["services"]}
    return {"mcpstack": model_from_project(CONFIG, image_ids=ids, config_hashes=RECORD_HASHES)}


RECORD_IDS = {item["Config"]["Labels"]["com.docker.compose.service"]: item["Image"] for item in RECORD["containers"]}
RECORD_HASHES = {
    item["Config"]["Labels"]["com.docker.compose.service"]: item["Config"]["Labels"]["com.docker.compose.config-hash"]
    for item in RECORD["containers"]
}


def found(result):
    """(id, subject) of every finding."""
    return {(item["id"], item["subject"]) for item in result["findings"]}


def states(result):
    """Status by check."""
    return {item["id"]: item["status"] for item in result["checks_run"]}


def reason(result, number):
    """Why a check stands as it does."""
    return next(item["reason"] for item in result["checks_run"] if item["id"] == number)
