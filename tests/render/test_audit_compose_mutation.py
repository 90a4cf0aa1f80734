# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rendered stack has no finding, and each control of it that is weakened gives its own finding and no other.

Every field that the templates write is either weakened here, in several spellings and for every service, or listed in
EQUIVALENT with the reason why weakening it changes nothing that an audit could hold against it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import yaml
from ansible.template import Templar

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_compose import audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import DeclaredPort, Policy
from ansible_collections.mcpstack.platform.plugins.plugin_utils._stack_files import render
from ansible_collections.mcpstack.platform.plugins.plugin_utils._templates import Renderer
from ansible_collections.mcpstack.platform.tests.render.conftest import Role
from ansible_collections.mcpstack.platform.tests.render.test_stack import SERVICES

GONE = object()
PROJECT = "/etc/mcpstack/compose/project.yml"

#: Fields that are written and that no mutation here has to touch: why a weaker value is none.
EQUIVALENT = {
    "profiles": "a service behind a profile is judged as any other",
    "restart, health check and logging of a one-shot service": "it is declared as there for one command; its output goes to who gives it",
    "network that no service joins": "nothing runs in it; once a service joins, it is judged",
    "ipc removed": "the engine's default is private since 20.10",
    "shm_size": "memory of /dev/shm counts against mem_limit, so a larger one gives nothing away",
    "ulimits.core removed": "the engine's own default counts, which is not in the file",
    "ulimits.nofile removed": "the engine's own default counts, which is not in the file",
    "logging.options.max-file": "max-size alone bounds the log: without max-file one file is kept",
    "restart on-failure": "which of the bounded policies is used is a choice, not a weakness",
    "tmpfs noexec, nosuid, nodev removed": "the engine sets all three unless an option undoes them",
    "tmpfs mode, uid, gid": "everything in the container has one user",
    "tmpfs removed": "fewer places can be written to",
    "entrypoint": "what a program does is judged by the audit of that program",
    "command": "what a program does is judged by the audit of that program; secrets on it are weakened here",
    "environment": "settings are judged by the audit of the program; secrets in it are weakened here",
    "healthcheck timing": "how often and how long is asked is a matter of operation",
    "stop_signal": "a matter of operation",
    "stop_grace_period": "a matter of operation",
    "depends_on condition": "the order of the start is no control; a missing service is weakened here",
    "labels": "nothing is read from them",
    "bind.create_host_path": "matters only for a source that is missing, which is a finding of its own on the host",
    "volume": "a named volume without options has nothing to weaken; options are added here",
    "network driver removed": "bridge is the default",
}
#: The networks that no service joins, as the stack is rendered here, and what is not asked of a one-shot service.
EXCUSED = frozenset({"project: egress macvlan", "project: egress metadata range"})
ONE_SHOT = frozenset({"CMP-14", "CMP-15", "CMP-28"})
#: The keys of a service that are weakened below or stand in EQUIVALENT.
COVERED = {
    "image", "pull_policy", "user", "read_only", "cap_drop", "security_opt", "privileged", "ipc", "mem_limit",
    "memswap_limit", "cpus", "pids_limit", "shm_size", "ulimits", "restart", "logging", "tmpfs", "entrypoint", "command",
    "environment", "healthcheck", "stop_signal", "stop_grace_period", "networks", "ports", "depends_on", "volumes", "labels",
    "profiles",
}  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """The rendered project as data: by file."""

    files: dict[str, dict]
    policy: Policy

    def judge(self, changed: dict[str, dict] | None = None, text: dict[str, str] | None = None) -> list[dict]:
        bodies = {
            **self.text,
            **{path: yaml.dump(body, Dumper=Dumper) for path, body in (changed or {}).items()},
            **(text or {}),
        }
        return audit(MemoryFiles(bodies), list(bodies), policy=self.policy)["findings"]

    @property
    def text(self) -> dict[str, str]:
        if not _TEXT:
            _TEXT.update({path: yaml.dump(body, Dumper=Dumper) for path, body in self.files.items()})
        return _TEXT


_TEXT: dict[str, str] = {}
Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@pytest.fixture(scope="module")
def stack() -> Stack:
    base = Role("_stack", {})
    variables, parts = dict(base.variables), []
    for name, options in SERVICES.items():
        one = Role(name, options)
        parts.append(one.value(f"_mcpstack_{name}_part"))
        variables.update(one.variables)
    found = render(Renderer(base.loader, Templar(loader=base.loader, variables=variables), variables), parts)
    content = {item["dest"]: item["content"] for item in found.files if item["dest"] in found.compose_files}
    files = {path: yaml.safe_load(content[path]) for path in found.compose_files}
    members: dict[str, set[str]] = {"default": set()}
    for body in files.values():
        for name, service in body.get("services", {}).items():
            for network in service["networks"]:
                members.setdefault(network, set()).add(name)
    policy = Policy(
        edge_services=frozenset({"edge"}),
        declared_ports=(DeclaredPort(80), DeclaredPort(443)),
        gpu_services=frozenset({"model-runner"}),
        internal_networks=frozenset({"app", "data", "model"}),
        network_members={name: frozenset(services) for name, services in members.items()},
        quiet_networks=frozenset({"edge"}),
        hostless_networks=frozenset({"app", "model"}),
        oneshots=frozenset({"admin"}),
    )
    return Stack(files, policy)


Change = Callable[[dict], object]


def put(*path: str | int, value: object) -> Change:
    """Set or remove what is at a path; missing mappings on the way are made."""

    def change(service: dict) -> None:
        target = service
        for key in path[:-1]:
            target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
        if value is GONE:
            target.pop(path[-1], None)
        else:
            target[path[-1]] = copy.deepcopy(value)

    return change


def each(path: str, expected: str, *values: object) -> Iterator[tuple[str, Change, str]]:
    keys = path.split("/")
    for value in values:
        yield f"{path} = {'(removed)' if value is GONE else value!r}", put(*keys, value=value), expected


def both(*changes: Change) -> Change:
    def change(service: dict) -> None:
        for one in changes:
            one(service)

    return change


def replaced(path: str, index: int, old: str, new: str) -> Change:
    def change(service: dict) -> None:
        assert old in service[path][index]
        service[path][index] = service[path][index].replace(old, new)

    return change


def more(path: str, value: object) -> Change:
    return lambda service: service.setdefault(path, []).append(copy.deepcopy(value))


def weaker(service: dict) -> Iterator[tuple[str, Change, str]]:
    """(what is weakened and how, the change, the one check that has to appear)."""
    uid = service["user"].partition(":")[0]
    yield from each(
        "user", "CMP-06",
        "0:0", "root", "0", "00:00", "+0", "", "root:root", GONE, f"0:{uid}", f"{uid}:0", f"{uid}:root", uid, "postgres",
        "${NOBODY_SET_THIS-0}:0", ":0",
    )  # fmt: skip
    yield from each("read_only", "CMP-08", False, GONE, "${READ_ONLY-false}", "${READ_ONLY-no}")
    yield from each("cap_drop", "CMP-02", GONE, [], ["NET_RAW"], ["CAP_ALL"], ["CAP_NET_RAW", "chown"])
    for name in (
        "ALL",
        "all",
        "CAP_SYS_ADMIN",
        "sys_module",
        "SYS_PTRACE",
        "NET_ADMIN",
        "cap_net_raw",
        "DAC_OVERRIDE",
        "MKNOD",
    ):
        yield from each("cap_add", "CMP-03", [name])
    yield from each("cap_add", "CMP-04", ["NET_BIND_SERVICE"], ["cap_chown"])
    yield from each(
        "security_opt", "CMP-05",
        GONE, [], ["no-new-privileges:false"], ["no-new-privileges=false"], ["no-new-privileges:0"],
        ["no-new-privileges:true", "no-new-privileges:false"], ["apparmor=docker-default"], ["no_new_privileges:true"],
        ["no-new-privileges:${NNP-false}"],
    )  # fmt: skip
    for option, check in (
        ("seccomp:unconfined", "CMP-25"), ("seccomp=unconfined", "CMP-25"), ("apparmor:unconfined", "CMP-26"),
        ("apparmor=unconfined", "CMP-26"), ("label:disable", "CMP-26"), ("label=disable", "CMP-26"),
        ("systempaths=unconfined", "CMP-26"), ("systempaths:unconfined", "CMP-26"),
    ):  # fmt: skip
        yield f"security_opt + {option}", more("security_opt", option), check
    yield from each("privileged", "CMP-01", True, "${PRIVILEGED-true}", "${PRIVILEGED:-yes}")
    yield from each("ipc", "CMP-18", "host")
    yield from each("ipc", "CMP-20", "shareable", "container:abc")
    yield from each("pid", "CMP-18", "host")
    yield from each("pid", "CMP-20", "container:abc")
    yield from each("uts", "CMP-18", "host")
    yield from each("cgroup", "CMP-18", "host")
    yield from each("userns_mode", "CMP-19", "host")
    yield from each("mem_limit", "CMP-10", GONE, 0, "0", "0b")
    yield from each("memswap_limit", "CMP-10", GONE, -1, "64g", 0)
    yield from each("cpus", "CMP-11", GONE, 0, "0.0")
    yield "cpus -> shares", both(put("cpus", value=GONE), put("cpu_shares", value=512)), "CMP-11"
    yield from each("pids_limit", "CMP-12", GONE, 0, -1)
    yield from each("ulimits/nofile", "CMP-13", -1, {"soft": -1, "hard": -1}, {"soft": 1024, "hard": -1}, 1 << 30)
    yield from each("ulimits/core", "CMP-13", -1, {"soft": 0, "hard": -1}, 1 << 20)
    yield from each("ulimits/nproc", "CMP-13", -1)
    yield from each("oom_kill_disable", "CMP-13", True)
    yield from each("oom_score_adj", "CMP-13", -1000, -1)
    yield from each("restart", "CMP-14", "always", "no", GONE)
    yield from each("logging", "CMP-28", GONE, {"driver": "none"}, {"driver": "json-file"}, {}, {"driver": "made-up"})
    yield from each("logging/driver", "CMP-28", "none")
    yield from each("logging/options/max-size", "CMP-28", GONE, "0", "-1", "")
    yield from each("image", "IMG-02", "mcpstack/x", "mcpstack/x:latest", "mcpstack/x:1", "mcpstack/x:stable", "x:1.2")
    yield from each("image", "IMG-01", "mcpstack/x:1.2.3", "mcpstack/x:v1.2.3-rc1")
    yield from each("pull_policy", "IMG-01", GONE, "always", "missing", "if_not_present")
    yield from each("healthcheck", "CMP-15", GONE, {"disable": True}, {"test": ["NONE"]}, {"interval": "5s"})
    yield from each("healthcheck/disable", "CMP-15", True)
    yield from each("healthcheck/test", "CMP-15", ["NONE"], [], GONE)
    yield from each(
        "healthcheck/test", "CMP-16",
        ["CMD", "true"], "exit 0", ["CMD-SHELL", "/bin/ready || true"], ["CMD-SHELL", "/bin/ready; exit 0"],
        "curl -s http://127.0.0.1:8080/", ["CMD", "curl", "-f", "https://example.org/"], "wget -q http://edge-proxy:8080/",
    )  # fmt: skip
    yield from each(
        "devices", "CMP-24", ["/dev/sda:/dev/sda"], ["/dev/kvm"], [{"source": "/dev/mem", "target": "/dev/mem"}]
    )
    yield from each("device_cgroup_rules", "CMP-24", ["a *:* rwm"], ["c 1:3 rw"])
    for mode, check in (("host", "CMP-17"), ("bridge", "NET-04"), ("container:abc", "CMP-20")):
        yield (
            f"network_mode = {mode}",
            both(put("networks", value=GONE), put("ports", value=GONE), put("network_mode", value=mode)),
            check,
        )
    yield from each("networks", "NET-05", GONE, ["default"])
    yield from each("depends_on", "CMP-29", ["nobody"], {"nobody": {"condition": "service_healthy"}})
    for source, check in (
        ("/var/run/docker.sock", "CMP-21"), ("/run", "CMP-21"), ("/", "CMP-21"), ("/var/run/./", "CMP-21"),
        ("/run/containerd/containerd.sock", "CMP-21"), ("/etc", "CMP-22"), ("/proc", "CMP-22"), ("/home/x/.ssh", "CMP-22"),
        ("/srv/../etc/", "CMP-22"),
    ):  # fmt: skip
        for mode in ("", ":ro"):
            yield f"volumes + {source}{mode}", more("volumes", f"{source}:/x{mode}"), check
        yield (
            f"volumes + {source} long",
            more("volumes", {"type": "bind", "source": source, "target": "/x", "read_only": True}),
            check,
        )
    yield from (
        (f"volumes + propagation {mode}", more("volumes", f"/srv/x:/x:ro,{mode}"), "CMP-23")
        for mode in ("shared", "rshared", "slave", "rslave")
    )
    yield "environment + secret", put("environment", "DB_PASSWORD", value="mZ81-kQp2vX77wYt"), "SEC-01"
    yield (
        "environment + address with a password",
        put("environment", "DATABASE", value="postgres://u:mZ81kQp2vX77@h/d"),
        "SEC-02",
    )
    # written into the file and no secret at all: two weaknesses, each with a remedy of its own
    yield "environment + placeholder", put("environment", "API_TOKEN", value="CHANGE_ME"), "SEC-01 SEC-04"
    yield "environment + guessable", put("environment", "API_TOKEN", value="sunshine1987"), "SEC-01 SEC-05"
    yield "environment + default", put("environment", "API_TOKEN", value="${API_TOKEN:-abc}"), "CMP-30"
    yield "environment + nothing", put("environment", "API_TOKEN", value="${API_TOKEN}"), "CMP-30"
    yield "command + secret", more("command", "--password=mZ81-kQp2vX77wYt"), "SEC-11"
    for index, entry in enumerate(service.get("tmpfs", [])):
        size = entry.partition("size=")[2].partition(",")[0]
        for old, new in (
            ("noexec", "exec"), ("nosuid", "suid"), ("nodev", "dev"), (f",size={size}", ""), (f"size={size}", "size=0"),
            (",mode=", ",exec,mode="),
        ):  # fmt: skip
            yield f"tmpfs[{index}] {old} -> {new}", replaced("tmpfs", index, old, new), "CMP-09"
        yield f"tmpfs[{index}] without options", put("tmpfs", index, value=entry.partition(":")[0]), "CMP-09"
    for index, mount in enumerate(service.get("volumes", [])):
        if mount["type"] == "bind":
            for value in (False, GONE):
                yield (
                    f"volumes[{index}] {mount['target']} writable {value}",
                    put("volumes", index, "read_only", value=value),
                    "CMP-27",
                )
            yield (
                f"volumes[{index}] short and writable",
                put("volumes", index, value=f"{mount['source']}:{mount['target']}"),
                "CMP-27",
            )
    for index, port in enumerate(service.get("ports", [])):
        for published in ("8080", "22", "8000-8001"):
            yield f"ports[{index}] published {published}", put("ports", index, "published", value=published), "NET-01"
        yield f"ports[{index}] any free port", put("ports", index, "published", value=GONE), "NET-01"
        for address in ("", GONE, "::"):
            yield f"ports[{index}] host_ip {address!r}", put("ports", index, "host_ip", value=address), "NET-07"
        yield f"ports[{index}] udp", put("ports", index, "protocol", value="udp"), "NET-01"
        yield f"ports[{index}] short", put("ports", index, value=f"1{port['target']}:{port['target']}"), "NET-01"
    if not service.get("ports"):
        for entry in (
            "15000:8000",
            "0.0.0.0:15000:8000",
            "[::]:15000:8000",
            "8000",
            "192.0.2.1:15000:8000",
            {"target": 8000},
        ):
            yield f"ports + {entry}", more("ports", entry), "NET-03"
        yield "ports + low port on loopback", more("ports", "127.0.0.1:81:8000"), "NET-02"


def weaker_project(project: dict) -> Iterator[tuple[str, Change, str]]:
    for name, network in project["networks"].items():
        for value in (False, GONE, "${INTERNAL-false}"):
            if network["internal"]:
                yield f"{name} internal {value}", put("networks", name, "internal", value=value), "NET-05"
        for key, good in network["driver_opts"].items():
            opposite = "false" if good == "true" else "true"
            for value in (opposite, GONE, opposite.upper()):
                yield f"{name} {key} {value}", put("networks", name, "driver_opts", key, value=value), "NET-08"
            yield f"{name} no driver_opts", put("networks", name, "driver_opts", value=GONE), "NET-08"
        yield f"{name} macvlan", put("networks", name, "driver", value="macvlan"), "NET-05"
        yield (
            f"{name} metadata range",
            put("networks", name, "ipam", value={"config": [{"subnet": "169.254.0.0/16"}]}),
            "NET-08",
        )


def test_the_rendered_stack_has_no_finding(stack):
    assert [(item["id"], item["where"], item["evidence"]) for item in stack.judge()] == []


def test_every_field_the_templates_write_is_weakened_or_explained(stack):
    written = {key for body in stack.files.values() for service in body.get("services", {}).values() for key in service}
    assert written <= COVERED, "weaken the new field below, or explain it in EQUIVALENT"
    assert set(stack.files[PROJECT]) == {"name", "networks"}
    assert {key for network in stack.files[PROJECT]["networks"].values() for key in network} == {
        "driver", "internal", "driver_opts",
    }  # fmt: skip


def mutants(stack: Stack) -> Iterator[tuple[str, str, dict, str]]:
    for path, body in stack.files.items():
        for name, service in body.get("services", {}).items():
            for what, change, expected in weaker(service):
                changed = copy.deepcopy(body)
                change(changed["services"][name])
                yield f"{name}: {what}", path, changed, expected
        if "services" not in body:
            for what, change, expected in weaker_project(body):
                changed = copy.deepcopy(body)
                change(changed)
                yield f"project: {what}", path, changed, expected


def test_each_weakened_control_gives_its_own_finding_and_no_other(stack, capsys):
    survived, crowded, total = [], [], 0
    for what, path, changed, expected in mutants(stack):
        if what in EXCUSED or (what.startswith("admin: ") and expected in ONE_SHOT):
            continue
        total += 1
        found = sorted({item["id"] for item in stack.judge({path: changed})})
        if not set(expected.split()) <= set(found):
            survived.append(f"{what}: {found} instead of {expected}")
        elif found != expected.split():
            crowded.append(f"{what}: {found} instead of only {expected}")
    killed = total - len(survived) - len(crowded)
    with capsys.disabled():
        print(
            f"\nmutation score: {killed} of {total} ({100 * killed / total:.1f} %), {len(EQUIVALENT)} equivalents explained"
        )
    assert not survived + crowded, "\n".join(survived + crowded)
