# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one container may do: every rule with what it finds, what passes, and what only looks like it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mcpstack.platform.plugins.module_utils import _checks_container as rows
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._container_health import faults
from ansible_collections.mcpstack.platform.plugins.module_utils._container_images import data_owner, split_image
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import (
    ContainerView,
    DeclaredPort,
    Device,
    DeviceRequest,
    EngineDefaults,
    Healthcheck,
    Logging,
    Mount,
    Network,
    Policy,
    Port,
    Tmpfs,
    Unknown,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._container_mounts import host_path, reaches_engine
from ansible_collections.mcpstack.platform.plugins.module_utils._container_ports import judge_networks
from ansible_collections.mcpstack.platform.plugins.module_utils._container_rules import judge

PRIVATE_NETWORK = Network("data", internal=True)
OPEN_NETWORK = Network("web", internal=False)
#: Nothing to be found in it; every case changes one thing.
SAFE = ContainerView(
    name="app", subject="service app", place="compose.yml:2", image="registry.example/team/app:1.2.3",
    user="64101:64101", cap_drop=("ALL",), security_opt=("no-new-privileges:true",), read_only=True,
    tmpfs=(Tmpfs("/tmp", ("noexec", "nosuid", "nodev", "size=16m")),), memory=1 << 29, memswap=1 << 29, cpus=1.0, pids=64,
    ulimits={"core": (0, 0), "nofile": (4096, 4096)}, restart="unless-stopped",
    healthcheck=Healthcheck(("CMD", "/bin/ready")), ipc_mode="private", networks=(PRIVATE_NETWORK,),
    logging=Logging("json-file", {"max-size": "10m"}), peers=frozenset({"db", "cache"}),
)  # fmt: skip
NONE = Policy()
EDGE = Policy(edge_services=frozenset({"edge"}))


def result(view, policy=NONE):
    audit = Audit(rows.TABLE)
    judge(audit, view, policy)
    return audit.result()


def found(view, policy=NONE):
    return sorted((item["id"], item["severity"]) for item in result(view, policy)["findings"])


def mounts(*given):
    return {"mounts": tuple(given)}


def bind(source, target="/x", **options):
    return mounts(Mount("bind", source, target, **{"read_only": True, **options}))


def hidden(read_only=True, driver="local", **options):
    return mounts(Mount("volume", "v", "/x", read_only=read_only, driver=driver, driver_opts=options))


def published(address=None, outside=8080, inside=8080, protocol="tcp"):
    pair = outside if isinstance(outside, tuple) or outside is None else (outside, outside)
    return {"ports": (Port((inside, inside), pair, address, protocol),)}


def test_the_safe_container_is_silent_and_everything_was_decided():
    answer = result(SAFE)
    assert answer["findings"] == []
    states = {state["id"]: state["status"] for state in answer["checks_run"]}
    undecided = {"CMP-29", "CMP-30"}  # of the files, not of a container
    assert {name for name, status in states.items() if status == "unknown"} == undecided
    assert states["NET-08"] == "not_applicable"


CASES = {
    # CMP-01: what privileged implies is not reported again
    "privileged": ({"privileged": True}, [("CMP-01", "critical")]),
    "privileged implies": (
        {"privileged": True, "cap_drop": (), "cap_add": ("ALL",), "security_opt": ("no-new-privileges", "seccomp=unconfined")},
        [("CMP-01", "critical")],
    ),
    "privileged and new privileges": ({"privileged": True, "security_opt": ()}, [("CMP-01", "critical"), ("CMP-05", "high")]),
    "not privileged": ({"privileged": False}, []),
    # CMP-02
    "nothing dropped": ({"cap_drop": ()}, [("CMP-02", "high")]),
    "one dropped": ({"cap_drop": ("NET_RAW",)}, [("CMP-02", "high")]),
    "lower case all": ({"cap_drop": ("all",)}, []),
    "CAP_ALL is no capability": ({"cap_drop": ("CAP_ALL",)}, [("CMP-02", "high")]),
    "each of the defaults dropped": (
        {
            "cap_drop": tuple(
                "CAP_CHOWN dac_override FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID"
                " SYS_CHROOT AUDIT_WRITE".split()
            )
        },
        [],
    ),
    # CMP-03 and CMP-04
    "critical capability": ({"cap_add": ("SYS_ADMIN",)}, [("CMP-03", "critical")]),
    "prefix and case": ({"cap_add": ("cap_sys_module",)}, [("CMP-03", "critical")]),
    "all added": ({"cap_add": ("ALL",)}, [("CMP-03", "critical")]),
    "all added with a prefix": ({"cap_add": ("CAP_ALL",)}, [("CMP-03", "critical")]),
    "high capability": ({"cap_add": ("NET_ADMIN",)}, [("CMP-03", "high")]),
    "medium capability": ({"cap_add": ("net_raw",)}, [("CMP-03", "medium")]),
    "capability that can starve the host": ({"cap_add": ("CAP_IPC_LOCK",)}, [("CMP-03", "low")]),
    "two capabilities": ({"cap_add": ("SYS_PTRACE", "SYS_TIME")}, [("CMP-03", "high"), ("CMP-03", "medium")]),
    "inert capability": ({"cap_add": ("NET_BIND_SERVICE",)}, [("CMP-04", "low")]),
    "capability for root": ({"cap_add": ("NET_BIND_SERVICE",), "user": "0:0"}, [("CMP-06", "high")]),
    "capability for who knows": ({"cap_add": ("NET_BIND_SERVICE",), "user": None}, [("CMP-06", "medium")]),
    # CMP-05
    "no options": ({"security_opt": ()}, [("CMP-05", "high")]),
    "bare word": ({"security_opt": ("no-new-privileges",)}, []),
    "equals sign": ({"security_opt": ("no-new-privileges=true",)}, []),
    "as a number": ({"security_opt": ("no-new-privileges:1",)}, []),
    "switched off": ({"security_opt": ("no-new-privileges:false",)}, [("CMP-05", "high")]),
    "switched off with equals": ({"security_opt": ("no-new-privileges=false",)}, [("CMP-05", "high")]),
    "the last one counts": ({"security_opt": ("no-new-privileges:true", "no-new-privileges=false")}, [("CMP-05", "high")]),
    "second place": ({"security_opt": ("apparmor=docker-default", "no-new-privileges:true")}, []),
    "no boolean": ({"security_opt": ("no-new-privileges:yes",)}, [("CMP-05", "high")]),
    # CMP-06
    "root": ({"user": "root"}, [("CMP-06", "high")]),
    "zero": ({"user": "0"}, [("CMP-06", "high")]),
    "zeroes": ({"user": "00:00"}, [("CMP-06", "high")]),
    "signed zero": ({"user": "+0"}, [("CMP-06", "high")]),
    "root with a group": ({"user": "0:1000"}, [("CMP-06", "high")]),
    "only a group": ({"user": ":1000"}, [("CMP-06", "high")]),
    "empty, image unseen": ({"user": ""}, [("CMP-06", "medium")]),
    "unset, image unseen": ({"user": None}, [("CMP-06", "medium")]),
    "unset, image states none": ({"user": None, "image_user": None}, [("CMP-06", "high")]),
    "unset, image states root": ({"user": None, "image_user": "0"}, [("CMP-06", "high")]),
    "unset, image states a user": ({"user": None, "image_user": "1000:1000"}, []),
    "unset, image steps down": ({"user": None, "image": "postgres:17.2"}, [("CMP-06", "medium")]),
    "unset, image known": ({"user": None, "image": "docker.io/grafana/grafana:12.0.0"}, []),
    "root, the kernel knows better": ({"user": "0", "process_uids": frozenset({999})}, []),
    "nobody, the kernel knows better": ({"process_uids": frozenset({0, 999})}, [("CMP-06", "high")]),
    "root's group": ({"user": "1000:0"}, [("CMP-06", "low")]),
    "root's group by name": ({"user": "1000:root"}, [("CMP-06", "low")]),
    "by name": ({"user": "postgres"}, [("CMP-06", "low")]),
    "without a group": ({"user": "1000"}, [("CMP-06", "info")]),
    "ten": ({"user": "10:10"}, []),
    # CMP-07
    "debian's user on alpine": (
        {"image": "postgres:17.2-alpine3.21", "user": "999:999", **mounts(Mount("volume", "v", "/data"))},
        [("CMP-07", "low")],
    ),
    "alpine's user on alpine": (
        {"image": "postgres:17.2-alpine", "user": "70:70", "networks": (PRIVATE_NETWORK,), **mounts(Mount("volume", "v", "/d"))},
        [],
    ),
    "debian's user on debian": (
        {"image": "docker.io/library/postgres:17.2", "user": "999:999", **mounts(Mount("volume", "v", "/data"))},
        [],
    ),
    "no data": ({"image": "postgres:17.2-alpine", "user": "999:999"}, []),
    "somebody's postgres": ({"image": "team/postgres:17.2", "user": "5:5", **mounts(Mount("volume", "v", "/data"))}, []),
    # CMP-08 and CMP-09
    "writable": ({"read_only": False}, [("CMP-08", "medium")]),
    "writable unsaid": ({"read_only": None}, [("CMP-08", "medium")]),
    "exec": ({"tmpfs": (Tmpfs("/t", ("exec", "size=1m")),)}, [("CMP-09", "low")]),
    "no size": ({"tmpfs": (Tmpfs("/t", ("noexec",)),)}, [("CMP-09", "low")]),
    "bare": ({"tmpfs": (Tmpfs("/t"),)}, [("CMP-09", "low")]),
    "size zero is no limit": ({"tmpfs": (Tmpfs("/t", ("size=0",)),)}, [("CMP-09", "low")]),
    "the engine's defaults are closed": ({"tmpfs": (Tmpfs("/t", ("rw", "size=1m", "mode=1777")),)}, []),
    "the last word counts": ({"tmpfs": (Tmpfs("/t", ("noexec", "exec", "size=1m")),)}, [("CMP-09", "low")]),
    "closed again": ({"tmpfs": (Tmpfs("/t", ("suid", "nosuid", "size=1m")),)}, []),
    # CMP-10 to CMP-13
    "no memory": ({"memory": None, "memswap": None}, [("CMP-10", "medium")]),
    "memory zero": ({"memory": 0}, [("CMP-10", "medium")]),
    "swap unsaid": ({"memswap": None}, [("CMP-10", "low")]),
    "swap unlimited": ({"memswap": -1}, [("CMP-10", "low")]),
    "swap on top": ({"memswap": 1 << 30}, [("CMP-10", "low")]),
    "no cpus": ({"cpus": None}, [("CMP-11", "medium")]),
    "cpus zero": ({"cpus": 0.0}, [("CMP-11", "medium")]),
    "shares": ({"cpus": None, "cpu_shares": 512}, [("CMP-11", "low")]),
    "quota": ({"cpus": None, "cpu_quota": 50000}, []),
    "quota without end": ({"cpus": None, "cpu_quota": -1}, [("CMP-11", "medium")]),
    "cpuset": ({"cpus": None, "cpuset": "0-1"}, []),
    "no pids": ({"pids": None}, [("CMP-12", "medium")]),
    "pids zero": ({"pids": 0}, [("CMP-12", "medium")]),
    "pids minus one": ({"pids": -1}, [("CMP-12", "medium")]),
    "core dumps": ({"ulimits": {"core": (-1, -1)}}, [("CMP-13", "low")]),
    "small core dumps": ({"ulimits": {"core": (0, 1024)}}, [("CMP-13", "low")]),
    "files without end": ({"ulimits": {"nofile": (1024, -1)}}, [("CMP-13", "low")]),
    "memlock may be unlimited": ({"ulimits": {"memlock": (-1, -1)}}, []),
    "no oom kill": ({"oom_kill_disable": True}, [("CMP-13", "low")]),
    "preferred": ({"oom_score_adj": -500}, [("CMP-13", "low")]),
    "sacrificed": ({"oom_score_adj": 500, "oom_kill_disable": False}, []),
    # CMP-14
    "always": ({"restart": "always"}, [("CMP-14", "low")]),
    "never": ({"restart": "no"}, [("CMP-14", "low")]),
    "unsaid": ({"restart": None}, [("CMP-14", "low")]),
    "bounded": ({"restart": "on-failure:5"}, []),
    "a job": ({"restart": None, "healthcheck": None, "image_healthcheck": Healthcheck(("CMD", "/r"))}, []),
    # CMP-15 and CMP-16
    "no check": ({"healthcheck": None}, [("CMP-15", "medium")]),
    "the image's check": ({"healthcheck": None, "image_healthcheck": Healthcheck(("CMD", "/bin/ready"))}, []),
    "the image has none": ({"healthcheck": None, "image_healthcheck": None}, [("CMP-15", "medium")]),
    "only timing": ({"healthcheck": Healthcheck()}, [("CMP-15", "medium")]),
    "disabled": ({"healthcheck": Healthcheck(("CMD", "/r"), disabled=True)}, [("CMP-15", "medium")]),
    "none": ({"healthcheck": Healthcheck(("NONE",))}, [("CMP-15", "medium")]),
    "tests nothing": ({"healthcheck": Healthcheck(("CMD-SHELL", "exit 0"))}, [("CMP-16", "medium")]),
    # CMP-17 to CMP-20
    "host network": ({"network_mode": "host", "networks": ()}, [("CMP-17", "high")]),
    "host network with ports that mean nothing": ({"network_mode": "host", "networks": (), **published()}, [("CMP-17", "high")]),
    "the host's network by its name": ({"networks": (Network("host"),)}, [("CMP-17", "high")]),
    "host pid": ({"pid_mode": "host"}, [("CMP-18", "high")]),
    "host ipc": ({"ipc_mode": "host"}, [("CMP-18", "high")]),
    "host uts": ({"uts_mode": "host"}, [("CMP-18", "high")]),
    "host cgroup": ({"cgroup_mode": "host"}, [("CMP-18", "high")]),
    "own cgroup": ({"cgroup_mode": "private"}, []),
    "userns": ({"userns_mode": "host"}, [("CMP-19", "medium")]),
    "another's network": ({"network_mode": "service:vpn", "networks": ()}, [("CMP-20", "medium")]),
    "another container's network": ({"network_mode": "container:abc", "networks": ()}, [("CMP-20", "medium")]),
    "another's processes": ({"pid_mode": "container:abc"}, [("CMP-20", "medium")]),
    "another's memory": ({"ipc_mode": "service:x"}, [("CMP-20", "medium")]),
    "offers its memory": ({"ipc_mode": "shareable"}, [("CMP-20", "low")]),
    "no network": ({"network_mode": "none", "networks": ()}, []),
    # CMP-21
    "socket": (bind("/var/run/docker.sock"), [("CMP-21", "critical")]),
    "socket elsewhere": (bind("/srv/x/docker.sock", read_only=False), [("CMP-21", "critical")]),
    "socket through dots": (bind("/var/./lib/../run/docker.sock/"), [("CMP-21", "critical")]),
    "its directory": (bind("/var/run/"), [("CMP-21", "critical")]),
    "its directory by the real name": (bind("/run/."), [("CMP-21", "critical")]),
    "the root": (bind("/"), [("CMP-21", "critical")]),
    "the root by dots": (bind("/home/../"), [("CMP-21", "critical")]),
    "the root by proc": (bind("/proc/1/root"), [("CMP-21", "critical")]),
    "state of the engine": (bind("/var/lib/docker"), [("CMP-21", "critical")]),
    "containerd": (bind("/run/containerd/containerd.sock"), [("CMP-21", "critical")]),
    "podman": (bind("/run/user/1000/podman/podman.sock"), [("CMP-21", "critical")]),
    "rootless": (bind("/run/user/1000/docker.sock"), [("CMP-21", "critical")]),
    "pipe": (mounts(Mount("npipe", r"\\.\pipe\docker_engine", r"\\.\pipe\docker_engine")), [("CMP-21", "critical")]),
    "socket by its target": (bind("/srv/hidden", "/var/run/docker.sock"), [("CMP-21", "critical")]),
    "socket by a volume": (hidden(type="none", o="bind", device="/var/run"), [("CMP-21", "critical")]),
    "a socket of the project": (bind("/srv/app/app.sock", "/run/app.sock"), []),
    "runtime of the project": (bind("/run/mcpstack/secrets/app", "/run/secrets"), []),
    "running is no run": (bind("/running"), []),
    # CMP-22
    "etc": (bind("/etc"), [("CMP-22", "high")]),
    "etc writable": (bind("/etc/", read_only=False), [("CMP-22", "critical")]),
    "etc of the project": (bind("/etc/mcpstack/app", "/etc/app"), []),
    "keys of the host": (bind("/etc/ssh/ssh_host_ed25519_key"), [("CMP-22", "high")]),
    "system bus": (bind("/var/run/dbus/system_bus_socket"), [("CMP-22", "critical")]),
    "systemd": (bind("/run/systemd"), [("CMP-22", "critical")]),
    "home": (bind("/home/alice"), [("CMP-22", "high")]),
    "project in a home": (bind("/home/alice/project/data", "/data", read_only=False), []),
    "keys in a home": (bind("/home/alice/.ssh/id_ed25519"), [("CMP-22", "high")]),
    "keys of root": (bind("/root/.docker/config.json"), [("CMP-22", "high")]),
    "proc": (bind("/proc", "/host/proc"), [("CMP-22", "high")]),
    "sys below": (bind("/sys/fs/cgroup", read_only=False), [("CMP-22", "critical")]),
    "modules by a link": (bind("/lib/modules"), [("CMP-22", "high")]),
    "programs": (bind("/bin", read_only=False), [("CMP-22", "critical")]),
    "boot": (bind("/boot"), [("CMP-22", "high")]),
    "a null device": (bind("/dev/null", "/etc/nologin"), []),
    "zone": (bind("/etc/localtime", "/etc/localtime"), []),
    "users to read": (bind("/etc/passwd", "/etc/passwd"), []),
    "users to write": (bind("/etc/passwd", "/etc/passwd", read_only=False), [("CMP-22", "critical")]),
    "zones of the host": (bind("/usr/share/zoneinfo"), []),
    "logs of containers": (bind("/var/lib/docker/containers"), [("CMP-22", "high")]),
    "by a volume": (hidden(type="none", o="bind", device="/etc", read_only=False), [("CMP-22", "critical")]),
    "by a read-only volume": (hidden(type="none", o="rbind,ro", device="/etc"), [("CMP-22", "high")]),
    "kernel by a volume": (hidden(type="proc", device="proc"), [("CMP-22", "high")]),
    "overlay of the host": (
        hidden(type="overlay", device="overlay", o="lowerdir=/etc,upperdir=/u,workdir=/w"),
        [("CMP-22", "high")],
    ),
    "disk by a volume": (hidden(type="ext4", device="/dev/sda1", read_only=False), [("CMP-22", "critical")]),
    "memory by a volume": (hidden(type="tmpfs", device="tmpfs", o="size=1m"), []),
    "files of another host": (hidden(type="nfs", device=":/etc", o="addr=192.0.2.1"), []),
    "another driver": (hidden(driver="rclone", type="none", o="bind", device="/etc"), []),
    "etcetera": (bind("/etcetera"), []),
    # CMP-23
    "shared": (bind("/srv/x", propagation="shared"), [("CMP-23", "medium")]),
    "rslave": (bind("/srv/x", propagation="rslave"), [("CMP-23", "medium")]),
    "private": (bind("/srv/x", propagation="rprivate"), []),
    # CMP-24
    "disk": ({"devices": (Device("/dev/sda"),)}, [("CMP-24", "high")]),
    "disk by another spelling": ({"devices": (Device("//dev/./sda"),)}, [("CMP-24", "high")]),
    "device that may only be made": ({"devices": (Device("/dev/sda", "/dev/sda", "m"),)}, []),
    "serial line": ({"devices": (Device("/dev/ttyUSB0"),)}, [("CMP-24", "medium")]),
    "gpu": ({"devices": (Device("/dev/nvidia0"), Device("/dev/dri"), Device("/dev/dri/renderD128"))}, []),
    "cdi": ({"devices": (Device("nvidia.com/gpu=0"),)}, []),
    "every gpu": ({"devices": (Device("nvidia.com/gpu=all"),)}, [("CMP-24", "low")]),
    "rule for all": ({"device_cgroup_rules": ("a *:* rwm",)}, [("CMP-24", "high")]),
    "rule for a class": ({"device_cgroup_rules": ("c 188:* rmw",)}, [("CMP-24", "medium")]),
    "gpus asked for": ({"device_requests": (DeviceRequest("nvidia", 1, (), ("gpu",)),)}, []),
    "gpus by id": ({"device_requests": (DeviceRequest("nvidia", None, ("0",), ("gpu",)),)}, []),
    "all gpus asked for": ({"device_requests": (DeviceRequest("nvidia", -1, (), ("gpu",)),)}, [("CMP-24", "low")]),
    # CMP-25 and CMP-26
    "seccomp": ({"security_opt": ("no-new-privileges", "seccomp:unconfined")}, [("CMP-25", "high")]),
    "seccomp with equals": ({"security_opt": ("no-new-privileges", "seccomp=Unconfined")}, [("CMP-25", "high")]),
    "seccomp of the project": ({"security_opt": ("no-new-privileges", "seccomp:./unconfined.json")}, []),
    "apparmor": ({"security_opt": ("no-new-privileges", "apparmor=unconfined")}, [("CMP-26", "high")]),
    "label": ({"security_opt": ("no-new-privileges", "label:disable")}, [("CMP-26", "high")]),
    "label type": ({"security_opt": ("no-new-privileges", "label=type:container_t")}, []),
    "system paths": ({"security_opt": ("no-new-privileges", "systempaths=unconfined")}, [("CMP-26", "high")]),
    # CMP-27
    "writable configuration": (bind("/srv/x/nginx.conf", "/etc/nginx/nginx.conf", read_only=False), [("CMP-27", "medium")]),
    "writable secrets": (bind("/srv/x/s", "/run/secrets", read_only=False), [("CMP-27", "medium")]),
    "writable data": (bind("/srv/x/data", "/data", read_only=False), []),
    "writable on the host": (bind("/var/lib/app", "/models", read_only=False), [("CMP-27", "low")]),
    "two write": (mounts(Mount("volume", "v", "/d", shared_with=("worker",))), [("CMP-27", "medium")]),
    "two write, said once": (mounts(Mount("volume", "v", "/d", shared_with=("aaa",))), []),
    "two, one of them reads": (mounts(Mount("volume", "v", "/d", read_only=True, shared_with=("worker",))), []),
    "missing source": (bind("/srv/x", exists=False), [("CMP-27", "medium")]),
    "source is there": (bind("/srv/x", exists=True), []),
    # CMP-28
    "no logs": ({"logging": Logging("none")}, [("CMP-28", "medium")]),
    "endless logs": ({"logging": Logging("json-file")}, [("CMP-28", "medium")]),
    "size zero": ({"logging": Logging("json-file", {"max-size": "0"})}, [("CMP-28", "medium")]),
    "size minus one": ({"logging": Logging("json-file", {"max-size": "-1"})}, [("CMP-28", "medium")]),
    "only a number of files": ({"logging": Logging("json-file", {"max-file": "3"})}, [("CMP-28", "medium")]),
    "rotates itself": ({"logging": Logging("local")}, []),
    "journal": ({"logging": Logging("journald")}, []),
    "left to the engine": ({"logging": None}, [("CMP-28", "low")]),
    "size for the engine's driver": ({"logging": Logging(None, {"max-size": "1m"})}, []),
    "a plugin": ({"logging": Logging("loki")}, [("CMP-28", "low")]),
    # NET-01 to NET-03
    "every address": (published(), [("NET-01", "high")]),
    "zeroes address": (published("0.0.0.0"), [("NET-01", "high")]),
    "six": (published("[::]"), [("NET-01", "high")]),
    "six in full": (published("0:0:0:0:0:0:0:0"), [("NET-01", "high")]),
    "six holding four": (published("::ffff:0.0.0.0"), [("NET-01", "high")]),
    "any free port": (published(None, None), [("NET-01", "high")]),
    "range": (published(None, (8000, 8010)), [("NET-01", "high")]),
    "loopback": (published("127.0.0.1"), []),
    "loopback elsewhere": (published("127.8.8.8"), []),
    "loopback six": (published("::1"), []),
    "one address": (published("192.0.2.1"), []),
    "low port on loopback": (published("127.0.0.1", 443), [("NET-02", "low")]),
    "1023": (published("127.0.0.1", 1023), [("NET-02", "low")]),
    "1024": (published("127.0.0.1", 1024), []),
    "database by its image": ({"image": "mysql:8.4.3", **published("192.0.2.1", 13306, 4000)}, [("NET-03", "high")]),
    "database by its port": (published(None, 15432, 5432), [("NET-03", "high")]),
    "database on loopback": (published("127.0.0.1", 5432, 5432), []),
    # NET-04 and NET-05
    "default bridge": ({"network_mode": "bridge", "networks": ()}, [("NET-04", "medium")]),
    "data in the open": ({"image": "redis:8.0.1", "networks": (OPEN_NETWORK,)}, [("NET-05", "medium")]),
    "data inside": ({"image": "redis:8.0.1", "networks": (OPEN_NETWORK, PRIVATE_NETWORK)}, []),
    "no data in the open": ({"networks": (OPEN_NETWORK,)}, []),
    # NET-06
    "prometheus in public": ({"image": "prom/prometheus:v3.5.0", **published(None, 9090, 9090)}, [("NET-06", "critical")]),
    "prometheus with a login": (
        {"image": "prom/prometheus:v3.5.0", "command": ("--web.config.file=/etc/web.yml",), **published(None, 9090, 9090)},
        [("NET-03", "high")],
    ),
    "prometheus on loopback": ({"image": "prom/prometheus:v3.5.0", **published("127.0.0.1", 9090, 9090)}, []),
    "prometheus that deletes": (
        {"image": "prom/prometheus:v3.5.0", "command": ("--web.enable-admin-api",)},
        [("NET-06", "medium")],
    ),
    "prometheus that does not": (
        {"image": "prom/prometheus:v3.5.0", "command": ("--web.enable-admin-api=false", "--no-web.enable-lifecycle")},
        [],
    ),
    "ollama": ({"image": "ollama/ollama:0.12.0", **published("0.0.0.0", 11434, 11434)}, [("NET-06", "critical")]),
    "qdrant with a key": (
        {"image": "qdrant/qdrant:v1.15.0", "environment": {"QDRANT__SERVICE__API_KEY": "x"}, **published(None, 6333, 6333)},
        [("NET-03", "high")],
    ),
    "grafana": ({"image": "grafana/grafana:12.0.0", **published(None, 3000, 3000)}, [("NET-03", "high")]),
    "anonymous grafana": (
        {"image": "grafana/grafana:12.0.0", "environment": {"GF_AUTH_ANONYMOUS_ENABLED": "true"}},
        [("NET-06", "medium")],
    ),
    "anonymous grafana in public": (
        {
            "image": "grafana/grafana:12.0.0",
            "environment": {"GF_AUTH_ANONYMOUS_ENABLED": "true"},
            **published(None, 3000, 3000),
        },
        [("NET-03", "high"), ("NET-06", "critical")],
    ),
    "search without security in public": (
        {
            "image": "opensearchproject/opensearch:2.19.1",
            "environment": {"plugins.security.disabled": "true"},
            **published(None, 9200, 9200),
        },
        [("NET-03", "high"), ("NET-06", "critical")],
    ),
    "no anonymous grafana": (
        {"image": "grafana/grafana:12.0.0", "environment": {"GF_AUTH_ANONYMOUS_ENABLED": "false"}},
        [],
    ),
    "open traefik": ({"command": ("--api.insecure=true", "--providers.docker")}, [("NET-06", "medium")]),
    "closed traefik": ({"command": ("--api.insecure=false", "--api.dashboard=true")}, []),
    "in a shell": ({"command": ("sh", "-c", "exec prometheus --web.enable-lifecycle --x")}, [("NET-06", "medium")]),
    "engine's API": (published("192.0.2.1", 12375, 2375), [("NET-06", "critical")]),
    "debugger": ({"command": ("node", "--inspect=0.0.0.0:9229", "x.js")}, [("NET-06", "medium")]),
    "debugger on loopback": ({"command": ("node", "--inspect=127.0.0.1:9229", "x.js")}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_change_gives_exactly_this(name):
    change, expected = CASES[name]
    assert found(replace(SAFE, **change)) == expected


POLICY_CASES = {
    "the edge's port": ({"name": "edge", **published("0.0.0.0", 443, 8443)}, EDGE, []),
    "not a port of the edge": ({"name": "edge", **published("0.0.0.0", 8080)}, EDGE, [("NET-01", "high")]),
    "not the edge": (published("192.0.2.1", 8443), EDGE, [("NET-03", "high")]),
    "not the edge, on loopback": (published("127.0.0.1", 8443), EDGE, []),
    "declared": ({"name": "edge", **published("0.0.0.0", 8443)}, replace(EDGE, declared_ports=(DeclaredPort(8443),)), []),
    "declared, every port of the range": (
        {"name": "edge", **published("0.0.0.0", (8443, 8444))},
        replace(EDGE, declared_ports=(DeclaredPort(8443), DeclaredPort(8444))),
        [],
    ),
    "declared, one port of the range": (
        {"name": "edge", **published("0.0.0.0", (8443, 8444))},
        replace(EDGE, declared_ports=(DeclaredPort(8443),)),
        [("NET-01", "high")],
    ),
    "declared for one address": (
        {"name": "edge", **published("0.0.0.0", 443)},
        replace(EDGE, declared_ports=(DeclaredPort(443, "192.0.2.1"),)),
        [("NET-01", "high")],
    ),
    "declared for another protocol": (
        {"name": "edge", **published("0.0.0.0", 443, protocol="udp")},
        replace(EDGE, declared_ports=(DeclaredPort(443),)),
        [("NET-01", "high")],
    ),
    "both families, network of one": ({"name": "edge", **published(None, 443)}, EDGE, [("NET-07", "medium")]),
    "both families, network of both": (
        {"name": "edge", "networks": (Network("web", ipv6=True),), **published(None, 443)},
        EDGE,
        [],
    ),
    "declared without an edge": (published(None, 8443), Policy(declared_ports=(DeclaredPort(8443),)), [("NET-07", "medium")]),
    "gpus for another": (
        {"device_requests": (DeviceRequest("nvidia", 1),)},
        Policy(gpu_services=frozenset({"model"})),
        [("CMP-24", "high")],
    ),
    "gpu device for another": (
        {"devices": (Device("/dev/nvidia0"),)},
        Policy(gpu_services=frozenset({"model"})),
        [("CMP-24", "high")],
    ),
    "a declared proxy": (bind("/var/run/docker.sock"), Policy(socket_proxies=frozenset({"app"})), []),
    "a declared proxy that takes more": (
        bind("/var/run"),
        Policy(socket_proxies=frozenset({"app"})),
        [("CMP-21", "critical")],
    ),
    "a declared proxy that publishes": (
        {**bind("/var/run/docker.sock"), **published("127.0.0.1", 9999)},
        Policy(socket_proxies=frozenset({"app"})),
        [("CMP-21", "critical")],
    ),
    "engine without remapping": ({"userns_mode": "host"}, Policy(engine=EngineDefaults(userns_remap=False)), []),
    "engine's default for new privileges": ({"security_opt": ()}, Policy(engine=EngineDefaults(no_new_privileges=True)), []),
    "engine's default undone": (
        {"security_opt": ("no-new-privileges=false",)},
        Policy(engine=EngineDefaults(no_new_privileges=True)),
        [("CMP-05", "high")],
    ),
    "engine rotates": (
        {"logging": None},
        Policy(engine=EngineDefaults(log_driver="json-file", log_options={"max-size": "10m"})),
        [],
    ),
    "engine does not rotate": (
        {"logging": None},
        Policy(engine=EngineDefaults(log_driver="json-file")),
        [("CMP-28", "medium")],
    ),
    "engine rotates, but the container names a driver": (
        {"logging": Logging("json-file")},
        Policy(engine=EngineDefaults(log_driver="json-file", log_options={"max-size": "10m"})),
        [("CMP-28", "medium")],
    ),
    "a stranger on the network": (
        {},
        Policy(network_members={"data": frozenset({"db"})}),
        [("NET-05", "high")],
    ),
    "a member of the network": ({}, Policy(network_members={"data": frozenset({"app"})}), []),
    "a tool with a way out": (
        {"networks": (OPEN_NETWORK,)},
        Policy(tool_services=frozenset({"app"})),
        [("NET-08", "medium")],
    ),
    "a tool without": ({}, Policy(tool_services=frozenset({"app"})), []),
    "a oneshot": (
        {"restart": "no", "healthcheck": None, "logging": Logging("none")},
        Policy(oneshots=frozenset({"app"})),
        [],
    ),
    "a oneshot that comes back": (
        {"restart": "on-failure", "healthcheck": None},
        Policy(oneshots=frozenset({"app"})),
        [("CMP-14", "low")],
    ),
    "a oneshot with a check that cannot fail": (
        {"restart": "no", "healthcheck": Healthcheck(("CMD", "true"))},
        Policy(oneshots=frozenset({"app"})),
        [("CMP-16", "medium")],
    ),
    "the oneshot is another": (
        {"restart": "no", "healthcheck": None, "logging": Logging("none")},
        Policy(oneshots=frozenset({"admin"})),
        [("CMP-15", "medium"), ("CMP-28", "medium")],
    ),
    "always is wanted": ({"restart": "always"}, Policy(restart=frozenset({"always"})), []),
}  # fmt: skip


@pytest.mark.parametrize("name", POLICY_CASES)
def test_what_is_declared_decides(name):
    change, policy, expected = POLICY_CASES[name]
    assert found(replace(SAFE, **change), policy) == expected


@pytest.mark.parametrize(
    ("field", "check"),
    [
        ("privileged", "CMP-01"),
        ("user", "CMP-06"),
        ("read_only", "CMP-08"),
        ("memory", "CMP-10"),
        ("cpus", "CMP-11"),
        ("pids", "CMP-12"),
        ("restart", "CMP-14"),
        ("healthcheck", "CMP-15"),
        ("logging", "CMP-28"),
    ],
)
def test_what_cannot_be_known_is_unknown_and_no_finding(field, check):
    answer = result(replace(SAFE, **{field: Unknown("nobody asked")}))
    assert answer["findings"] == []
    states = {state["id"]: (state["status"], state["reason"]) for state in answer["checks_run"]}
    assert states[check][0] == "unknown"
    assert "nobody asked" in states[check][1]


HEALTH = {
    ("CMD-SHELL", "curl -f http://127.0.0.1:8080/ || exit 1"): [],
    ("CMD-SHELL", "curl -fsS http://127.0.0.1/"): [],
    ("CMD", "curl", "--fail", "http://[::1]:8080/"): [],
    ("CMD-SHELL", "curl -s http://127.0.0.1/ | grep -q ok"): [],
    ("CMD-SHELL", "curl http://127.0.0.1/"): ["curl without --fail takes an error for an answer"],
    ("CMD", "curl", "-s", "http://127.0.0.1/"): ["curl without --fail takes an error for an answer"],
    ("CMD-SHELL", "wget -q --spider http://127.0.0.1/"): [],
    ("CMD-SHELL", "wget -q http://127.0.0.1/ || true"): ["cannot fail"],
    ("CMD-SHELL", "pg_isready; exit 0"): ["cannot fail"],
    ("CMD", "sh", "-c", "pg_isready || true"): ["cannot fail"],
    ("CMD", "true"): ["true: tests nothing"],
    ("CMD-SHELL", "echo ok"): ["echo ok: tests nothing"],
    ("CMD-SHELL", "wget -q http://db:5432/"): ["asks db, not itself"],
    ("CMD-SHELL", "wget -q https://example.org/"): ["asks example.org, not itself"],
    ("CMD-SHELL", "wget -q http://app:8080/"): [],
    ("CMD-SHELL", "wget -q http://localhost/"): ["asks localhost, which may be ::1 while the service listens on 127.0.0.1"],
    ("CMD", "pg_isready", "-h", "db"): ["pg_isready asks db, not itself"],
    ("CMD", "pg_isready", "-h", "/run/postgresql"): [],
    ("CMD", "redis-cli", "set", "x", "1"): ["changes data"],
    ("CMD", "redis-cli", "ping"): [],
    ("CMD-SHELL", "psql -U x -c 'select 1'"): [],
    ("CMD-SHELL", "psql -c 'insert into t values (1)'"): ["changes data"],
    ("CMD-SHELL", "it's unbalanced"): [],
}  # fmt: skip


@pytest.mark.parametrize("test", HEALTH, ids=" ".join)
def test_a_health_check_tells_the_truth(test):
    assert [text for text, _ in faults(Healthcheck(test), frozenset({"app"}), frozenset({"db"}))] == HEALTH[test]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/run/x", "/run/x"),
        ("/var/./run//x/", "/run/x"),
        ("//etc", "/etc"),
        ("/var/run/../run", "/run"),
        ("/proc/self/root/etc", "/etc"),
        ("/lib64/x", "/usr/lib64/x"),
        ("/libx", "/libx"),
        ("/proc/1/root/proc/1/root/var/run", "/run"),
    ],
)
def test_paths_are_judged_as_the_engine_reaches_them(path, expected):
    assert host_path(path) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("postgres", ("library/postgres", "")),
        ("docker.io/postgres:17", ("library/postgres", "17")),
        ("docker.io/library/postgres:17@sha256:00", ("library/postgres", "17")),
        ("localhost:5000/postgres:1", ("localhost:5000/postgres", "1")),
        ("ghcr.io/team/App:1", ("ghcr.io/team/app", "1")),
        ("team/app", ("team/app", "")),
        ("", ("library/", "")),
    ],
)
def test_references_are_taken_apart(reference, expected):
    assert split_image(reference) == expected


def test_the_variant_decides_who_owns_the_data():
    assert data_owner("postgres:17-alpine3.21") == 70
    assert data_owner("postgres:17.2-bookworm") == 999
    assert data_owner("postgres@sha256:00") == 999
    assert data_owner("team/postgres:17-alpine") is None


NETWORK_CASES = [
    ([Network("data")], {}, []),
    ([Network("data")], {"internal_networks": frozenset({"data"})}, ["NET-05"]),
    ([Network("data", internal=True)], {"internal_networks": frozenset({"data"})}, []),
    ([Network("edge")], {"quiet_networks": frozenset({"edge"})}, ["NET-08"]),
    (
        [Network("edge", options={"com.docker.network.bridge.enable_ip_masquerade": "false"})],
        {"quiet_networks": frozenset({"edge"})},
        [],
    ),
    (
        [Network("edge", options={"com.docker.network.bridge.enable_ip_masquerade": "True"})],
        {"quiet_networks": frozenset({"edge"})},
        ["NET-08"],
    ),
    ([Network("app", internal=True)], {"hostless_networks": frozenset({"app"})}, ["NET-08"]),
    (
        [Network("app", internal=True, options={"com.docker.network.bridge.inhibit_ipv4": "true"})],
        {"hostless_networks": frozenset({"app"})},
        [],
    ),
    ([Network("a", subnets=("10.0.0.0/16",)), Network("b", subnets=("10.0.5.0/24",))], {}, ["NET-08"]),
    ([Network("a", subnets=("10.0.0.0/16",)), Network("b", subnets=("10.1.0.0/16", "fd00::/64"))], {}, []),
    ([Network("a", subnets=("169.254.0.0/16",))], {}, ["NET-08"]),
    ([Network("a", driver="macvlan")], {}, ["NET-05"]),
    ([Network("a", subnets=("no subnet",))], {}, []),
    ([Network("a", internal=Unknown("it is external"))], {"internal_networks": frozenset({"a"})}, []),
]


@pytest.mark.parametrize(("networks", "declared", "expected"), NETWORK_CASES)
def test_networks_are_as_declared(networks, declared, expected):
    audit = Audit(rows.TABLE)
    judge_networks(audit, networks, Policy(**declared))
    assert [item["id"] for item in audit.result()["findings"]] == expected


def test_an_engine_is_reached_by_every_parent_of_its_socket():
    for path in (
        "/",
        "/run",
        "/var",
        "/var/run/",
        "/run/docker/x",
        "/run/user/1000",
        "/run/k3s/containerd/containerd.sock",
    ):
        assert reaches_engine(path), path
    for path in ("/runner", "/run/app", "/var/libx", "/home/docker", "/srv/docker.sock.d/x"):
        assert not reaches_engine(path), path


def test_findings_name_the_place_of_the_field_and_else_of_the_container():
    view = replace(
        SAFE, read_only=False, cap_add=("SYS_ADMIN",), places=lambda name, key=None: "f:9" if key == 0 else ""
    )
    assert {(item["id"], item["where"]) for item in result(view)["findings"]} == {
        ("CMP-03", "f:9"),
        ("CMP-08", "compose.yml:2"),
    }


def test_the_values_of_the_environment_are_never_shown():
    view = replace(SAFE, environment={"GF_AUTH_ANONYMOUS_ENABLED": "true", "DB_PASSWORD": "hunter2-secret"})
    assert "hunter2" not in repr(view) + repr(result(view))


words = st.text(max_size=40)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(words, max_size=4).map(tuple), words, st.lists(words, min_size=1, max_size=4).map(tuple),
    st.dictionaries(words, words, max_size=3), st.one_of(st.none(), words),
)  # fmt: skip
def test_any_text_is_judged_and_none_breaks_it(several, text, test, options, address):
    view = replace(
        SAFE, cap_add=several, cap_drop=several, security_opt=several, user=text, image=text, restart=text,
        healthcheck=Healthcheck(test), logging=Logging(text, options), network_mode=text, ipc_mode=text,
        tmpfs=(Tmpfs(text, several),), devices=(Device(text),), device_cgroup_rules=several, command=several,
        mounts=(Mount("bind", text, text), Mount("volume", text, text, driver_opts=options)), ports=(Port((1, 1), (1, 1), address),),
        environment=options,
    )  # fmt: skip
    result(view)


@pytest.mark.parametrize(
    "text", ["curl " + "http://" * 5000, "-" * 20000, "|| true " * 5000, "http://" + "a@" * 5000, "redis-cli " * 3000]
)
def test_a_long_health_check_is_read_in_bounded_steps(text):
    assert isinstance(faults(Healthcheck(("CMD-SHELL", text)), frozenset(), frozenset()), list)


def test_every_row_has_what_the_documentation_prints():
    assert len(rows.TABLE) == len(rows.CHECKS) == 38
    for check in rows.CHECKS:
        assert (
            check.title
            and check.what.endswith((".", ")"))
            and check.fix.endswith(".")
            and check.failing
            and check.fixed
        )
