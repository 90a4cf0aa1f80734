# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hardened host is clean; each control that is weakened, in several spellings, shows as its own check and no other."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._checks_host import CHECKS
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import hardened_host_fixture as fixture
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.hardened_host_fixture import (
    DROP_IN,
    JSON,
    RULES,
    SCRIPT,
    SOCKET_UNIT,
    STACK_UNIT,
    UNIT,
    Host,
    ids,
    status,
)

REMOVED = object()


def setting(key, value):
    """A key of daemon.json gets a value, or goes."""

    def apply(host):
        if value is REMOVED:
            del host.daemon[key]
        else:
            host.daemon[key] = value

    return apply


def flag(text, *without, place="unit"):
    """dockerd gets a flag, in its unit, in a drop-in or by a variable; keys that would collide leave the file."""

    def apply(host):
        for key in without:
            host.daemon.pop(key, None)
        if place == "unit":
            host.unit_flags += f" {text}"
        elif place == "default":
            host.files["/etc/default/docker"] = f'DOCKER_OPTS="{text}"\n'
        elif place == "environment":
            host.drop_ins[DROP_IN] = f'[Service]\nEnvironment="DOCKER_OPTS={text}"\n'
        elif place == "running":
            host.arguments += tuple(text.split())
        else:
            host.drop_ins[DROP_IN] = f"[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// \\\n  {text}\n"

    return apply


def everywhere(check, text, *without):
    """The same flag in all the places where one can be given."""
    return [
        (f"{text} {place}", flag(text, *without, place=place), {check})
        for place in ("unit", "drop-in", "default", "environment")
    ]


def info(key, value):
    def apply(host):
        host.api["/info"][key] = value

    return apply


def without_option(name):
    def apply(host):
        options = host.api["/info"]["SecurityOptions"]
        host.api["/info"]["SecurityOptions"] = [item for item in options if name not in item]

    return apply


def registry(**changes):
    def apply(host):
        host.api["/info"]["RegistryConfig"].update(changes)

    return apply


def bridge(value):
    def apply(host):
        network = next(item for item in host.api["/networks"] if item["Name"] == "bridge")
        network["Options"]["com.docker.network.bridge.enable_icc"] = value

    return apply


def write(path, text):
    def apply(host):
        host.files[path] = text

    return apply


def replace(path, old, new):
    def apply(host):
        assert old in host.files[path]
        host.files[path] = host.files[path].replace(old, new)

    return apply


def append(path, line):
    def apply(host):
        host.files[path] += f"{line}\n"

    return apply


def mode(path, bits, uid=None, gid=None, kind=None):
    def apply(host):
        host.chmod(path, bits, uid, gid, kind)

    return apply


def sysctl(name, value):
    return write(f"/proc/sys/{name}", f"{value}\n")


def raw(text):
    def apply(host):
        host.raw = text

    return apply


def drop_in(text):
    def apply(host):
        host.drop_ins[DROP_IN] = text

    return apply


def unwatched(path):
    return replace(RULES, f"-w {path} -p", f"-w {path}x -p")


def component(name, version, commit):
    def apply(host):
        for item in host.api["/version"]["Components"]:
            if item["Name"] == name:
                item["Version"], item["Details"]["GitCommit"] = version, commit
        for package in {"Engine": ["docker.io"], "runc": ["runc"], "containerd": ["containerd"]}[name]:
            host.packages[package] = commit

    return apply


def outdated(package, version):
    """An old package of which the index on the host does not know that it is old."""

    def apply(host):
        host.packages[package] = version
        del host.offered[package]

    return apply


def combined(*changes):
    def apply(host):
        for change in changes:
            change(host)

    return apply


def published(address, port):
    def apply(host):
        host.api["/containers/json"][0]["Ports"].append(
            {"IP": address, "PrivatePort": port, "PublicPort": port, "Type": "tcp"}
        )

    return apply


NO_UNIT_HOST = "--containerd=/run/containerd/containerd.sock $DOCKER_OPTS"


def hosts(*entries, **more):
    """hosts in the file, where the unit names none."""

    def apply(host):
        host.unit_flags, host.arguments = NO_UNIT_HOST, ()
        host.daemon.update({"hosts": list(entries), **more})

    return apply


ULIMIT = {"Name": "nofile", "Soft": 1024, "Hard": 65536}

MUTATIONS = [
    # DMN-01
    ("tcp in the file", hosts("unix:///var/run/docker.sock", "tcp://0.0.0.0:2375"), {"DMN-01"}),
    ("tcp without a scheme", hosts("0.0.0.0:2376"), {"DMN-01"}),
    ("tcp in capitals", hosts("TCP://10.0.0.1:4243"), {"DMN-01"}),
    ("tcp with tls only", hosts("tcp://0.0.0.0:2376", tls=True), {"DMN-01"}),
    ("tcp with tlsverify false", hosts("tcp://0.0.0.0:2376", tlsverify=False), {"DMN-01"}),
    ("tcp on loopback", hosts("tcp://127.0.0.1:2375"), {"DMN-01"}),
    ("split between file and unit", combined(setting("tls", True), flag("-H tcp://0.0.0.0:2376")), {"DMN-01"}),
    *everywhere("DMN-01", "-H tcp://0.0.0.0:2375"),
    *everywhere("DMN-01", "--host=tcp://[::]:2375"),
    *everywhere("DMN-01", "-Htcp://:::2375"),
    ("tcp while running", flag("-H tcp://0.0.0.0:2375", place="running"), {"DMN-01"}),
    ("tcp in the socket unit", replace(SOCKET_UNIT, "SocketMode", "ListenStream=2375\nSocketMode"), {"DMN-01"}),
    (
        "a listener nobody declared",
        lambda host: host.daemon_facts.update(listening=(("0.0.0.0", 80), ("0.0.0.0", 23750))),
        {"DMN-01"},
    ),
    # DMN-02
    ("icc true", setting("icc", True), {"DMN-02"}),
    ("icc gone", setting("icc", REMOVED), {"DMN-02"}),
    ("icc null", setting("icc", None), {"DMN-02"}),
    ("icc kept by the bridge", bridge("true"), {"DMN-02"}),
    ("icc unknown to the bridge", bridge(None), {"DMN-02"}),
    *everywhere("DMN-02", "--icc", "icc"),
    *everywhere("DMN-02", "--icc=true", "icc"),
    *everywhere("DMN-02", "--icc=1", "icc"),
    ("icc true while running", combined(flag("--icc=t", place="running")), {"DMN-02"}),
    # DMN-03
    ("log-level debug", setting("log-level", "debug"), {"DMN-03"}),
    ("log-level DEBUG", setting("log-level", "DEBUG"), {"DMN-03"}),
    ("log-level trace", setting("log-level", "trace"), {"DMN-03"}),
    ("log-level error", setting("log-level", "error"), {"DMN-03"}),
    ("log-level fatal", setting("log-level", "fatal"), {"DMN-03"}),
    ("debug true", setting("debug", True), {"DMN-03"}),
    ("debug while running", info("Debug", True), {"DMN-03"}),
    *everywhere("DMN-03", "-D"),
    *everywhere("DMN-03", "--debug"),
    *everywhere("DMN-03", "-l debug", "log-level"),
    *everywhere("DMN-03", "--log-level=debug", "log-level"),
    # DMN-04
    ("iptables false", setting("iptables", False), {"DMN-04"}),
    ("ip6tables false", setting("ip6tables", False), {"DMN-04"}),
    *everywhere("DMN-04", "--iptables=false"),
    *everywhere("DMN-04", "--iptables=0"),
    *everywhere("DMN-04", "--ip6tables=F"),
    # DMN-05
    ("insecure registry", setting("insecure-registries", ["registry.example:5000"]), {"DMN-05"}),
    ("insecure network", setting("insecure-registries", ["10.0.0.0/8"]), {"DMN-05"}),
    ("insecure world", setting("insecure-registries", ["0.0.0.0/0"]), {"DMN-05"}),
    ("insecure wider than loopback", setting("insecure-registries", ["126.0.0.0/7"]), {"DMN-05"}),
    ("mirror in clear", setting("registry-mirrors", ["http://mirror.example"]), {"DMN-05"}),
    ("insecure network as it runs", registry(InsecureRegistryCIDRs=["127.0.0.0/8", "10.0.0.0/8"]), {"DMN-05"}),
    ("insecure host as it runs", registry(IndexConfigs={"r.example": {"Secure": False}}), {"DMN-05"}),
    ("mirror in clear as it runs", registry(Mirrors=["http://m.example/"]), {"DMN-05"}),
    *everywhere("DMN-05", "--insecure-registry 10.0.0.0/8"),
    *everywhere("DMN-05", "--registry-mirror=HTTP://m.example"),
    # DMN-06
    ("devicemapper", setting("storage-driver", "devicemapper"), {"DMN-06"}),
    ("aufs", setting("storage-driver", "aufs"), {"DMN-06"}),
    ("vfs as it runs", info("Driver", "vfs"), {"DMN-06"}),
    ("dm.basesize", setting("storage-opts", ["dm.basesize=50G"]), {"DMN-06"}),
    *everywhere("DMN-06", "-s aufs"),
    *everywhere("DMN-06", "--storage-opt dm.basesize=20G"),
    # DMN-07
    ("no ulimits", setting("default-ulimits", REMOVED), {"DMN-07"}),
    ("empty ulimits", setting("default-ulimits", {}), {"DMN-07"}),
    ("another ulimit", setting("default-ulimits", {"nproc": ULIMIT}), {"DMN-07"}),
    ("endless ulimit", setting("default-ulimits", {"nofile": {**ULIMIT, "Hard": -1}}), {"DMN-07"}),
    ("huge ulimit", setting("default-ulimits", {"nofile": {**ULIMIT, "Hard": 2**62}}), {"DMN-07"}),
    ("ulimit without a hard bound", setting("default-ulimits", {"nofile": {"Soft": 1024}}), {"DMN-07"}),
    *everywhere("DMN-07", "--default-ulimit nproc=100:100", "default-ulimits"),
    *everywhere("DMN-07", "--default-ulimit=nofile=1024:-1", "default-ulimits"),
    # DMN-08
    ("no userns-remap", setting("userns-remap", REMOVED), {"DMN-08"}),
    ("empty userns-remap", setting("userns-remap", ""), {"DMN-08"}),
    ("userns-remap without effect", without_option("userns"), {"DMN-08"}),
    # DMN-09
    ("cgroup-parent", setting("cgroup-parent", "/unlimited"), {"DMN-09"}),
    *everywhere("DMN-09", "--cgroup-parent=/foo"),
    # DMN-10
    ("several administrators", lambda host: host.policy.update(docker_group_members=["alice", "bob"]), {"DMN-10"}),
    # DMN-11
    ("log-driver none", setting("log-driver", "none"), {"DMN-11"}),
    ("log-driver none as it runs", info("LoggingDriver", "none"), {"DMN-11"}),
    ("no log-opts", setting("log-opts", REMOVED), {"DMN-11"}),
    ("no max-size", setting("log-opts", {"max-file": "3"}), {"DMN-11"}),
    ("max-size -1", setting("log-opts", {"max-size": "-1"}), {"DMN-11"}),
    ("max-size 0", setting("log-opts", {"max-size": "0"}), {"DMN-11"}),
    ("max-size empty", setting("log-opts", {"max-size": ""}), {"DMN-11"}),
    *everywhere("DMN-11", "--log-driver=none", "log-driver"),
    *everywhere("DMN-11", "--log-opt max-file=3", "log-opts"),
    *everywhere("DMN-11", "--log-opt=max-size=0", "log-opts"),
    # DMN-12
    ("new privileges", setting("no-new-privileges", False), {"DMN-12"}),
    ("no-new-privileges gone", setting("no-new-privileges", REMOVED), {"DMN-12"}),
    ("no-new-privileges null", setting("no-new-privileges", None), {"DMN-12"}),
    ("no-new-privileges not in effect", without_option("no-new-privileges"), {"DMN-12"}),
    *everywhere("DMN-12", "--no-new-privileges=false", "no-new-privileges"),
    *everywhere("DMN-12", "--no-new-privileges=FALSE", "no-new-privileges"),
    # DMN-13
    ("live-restore false", setting("live-restore", False), {"DMN-13"}),
    ("live-restore gone", setting("live-restore", REMOVED), {"DMN-13"}),
    ("live-restore not in effect", info("LiveRestoreEnabled", False), {"DMN-13"}),
    *everywhere("DMN-13", "--live-restore=false", "live-restore"),
    # DMN-14
    ("userland-proxy true", setting("userland-proxy", True), {"DMN-14"}),
    ("userland-proxy gone", setting("userland-proxy", REMOVED), {"DMN-14"}),
    *everywhere("DMN-14", "--userland-proxy", "userland-proxy"),
    *everywhere("DMN-14", "--userland-proxy=true", "userland-proxy"),
    ("the word false is no value", flag("--userland-proxy false", "userland-proxy"), {"DMN-14"}),
    # DMN-15
    ("seccomp unconfined", setting("seccomp-profile", "unconfined"), {"DMN-15"}),
    ("seccomp unconfined as it runs",
     combined(without_option("seccomp"), lambda host: host.api["/info"]["SecurityOptions"].append(
         "name=seccomp,profile=unconfined")), {"DMN-15"}),
    ("no seccomp", without_option("seccomp"), {"DMN-15"}),
    ("no AppArmor although the kernel has it", without_option("apparmor"), {"DMN-15"}),
    ("no SELinux although the kernel has it", write("/sys/fs/selinux/enforce", "1\n"), {"DMN-15"}),
    *everywhere("DMN-15", "--seccomp-profile=unconfined"),
    # DMN-16
    ("old runc", component("runc", "1.1.11+ds1", "1.1.11+ds1-1"), {"DMN-16"}),
    ("runc of trixie", component("runc", "1.1.15+ds1", "1.1.15+ds1-2+b4"), {"DMN-16"}),
    ("old containerd", component("containerd", "1.7.24~ds1", "1.7.24~ds1-6"), {"DMN-16"}),
    ("old engine", outdated("docker.io", "26.1.5+dfsg1-9"), {"DMN-16"}),
    ("engine not restarted", lambda host: host.daemon_facts.update(replaced=True), {"DMN-16"}),
    # DMN-17
    ("experimental", setting("experimental", True), {"DMN-17"}),
    ("experimental as it runs", info("ExperimentalBuild", True), {"DMN-17"}),
    ("a Swarm nobody declared", info("Swarm", {"LocalNodeState": "active"}), {"DMN-17"}),
    *everywhere("DMN-17", "--experimental"),
    *everywhere("DMN-17", "--userland-proxy=false"),  # also in the file
    *everywhere("DMN-17", "--icc=no", "icc"),
    *[
        (f"{key} is {value!r}", setting(key, value), {"DMN-17"})
        for key in ("icc", "no-new-privileges", "live-restore", "userland-proxy", "iptables")
        for value in ("false", "true", "yes", "", 0, 1, [])
    ],
    ("ulimits as a number", setting("default-ulimits", {"nofile": 65536}), {"DMN-17"}),
    ("ulimits as a list", setting("default-ulimits", ["nofile"]), {"DMN-17"}),
    ("log option as a number", setting("log-opts", {"max-size": "10m", "max-file": 3}), {"DMN-17"}),
    ("log-level as a number", setting("log-level", 1), {"DMN-17"}),
    ("log-driver as a list", setting("log-driver", ["json-file"]), {"DMN-17"}),
    ("userns-remap as a boolean", setting("userns-remap", True), {"DMN-17"}),
    ("a registry as a string", setting("insecure-registries", "10.0.0.0/8"), {"DMN-17"}),
    ("icc in capitals", lambda host: host.daemon.update({"ICC": False}), {"DMN-17"}),
    ("icc with an underscore", lambda host: host.daemon.update({"no_new_privileges": True}), {"DMN-17"}),
    ("a name twice", raw(json.dumps(fixture.DAEMON)[:-1] + ', "icc": false}'), {"DMN-17"}),
    ("a comma too many", raw(json.dumps(fixture.DAEMON)[:-1] + ",}"), {"DMN-17"}),
    ("a comment", raw("// engine\n" + json.dumps(fixture.DAEMON)), {"DMN-17"}),
    ("a list", raw("[]"), {"DMN-17"}),
    # HST-01
    ("one file system", write("/proc/1/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"), {"HST-01"}),
    ("a bind mount of the same one",
     replace("/proc/1/mountinfo", "8:17 / /var", "8:1 /srv/docker /var"), {"HST-01"}),
    ("one for all of /var", replace("/proc/1/mountinfo", "/var/lib/docker", "/var"), {"HST-01"}),
    ("another data directory", info("DockerRootDir", "/srv/docker"), {"HST-01"}),
    # HST-02
    ("a member", replace("/etc/group", "docker:x:102:", "docker:x:102:alice"), {"HST-02"}),
    ("a member by primary group", replace("/etc/passwd", "1000:1000", "1000:102"), {"HST-02"}),
    ("a member by another name of the group", replace("/etc/group", "users:x:100:", "users:x:102:bob"), {"HST-02"}),
    # HST-03, HST-04
    *[(f"unwatched {path}", unwatched(path), {"HST-03"}) for path in fixture.WATCHED[:4]],
    *[(f"unwatched {path}", unwatched(path), {"HST-04"}) for path in fixture.WATCHED[4:]],
    ("another program is watched", replace(RULES, "/usr/sbin/dockerd", "/usr/bin/docker"), {"HST-03"}),
    ("only reading is watched", replace(RULES, "-w /etc/docker -p rwxa", "-w /etc/docker -p r"), {"HST-04"}),
    ("a rule in a comment", replace(RULES, "-w /usr/sbin/runc", "#-w /usr/sbin/runc"), {"HST-03"}),
    ("a rule that is taken back", append(RULES, "-W /usr/sbin/runc"), {"HST-03"}),
    ("a rule that is never applied", append(RULES, "-a never,exit -F path=/usr/sbin/runc"), {"HST-03"}),
    ("all rules deleted at the end", append(RULES, "-D"), {"HST-03", "HST-04"}),
    ("no audit system", write(RULES, None), {"HST-03", "HST-04"}),
    # HST-05
    ("unit for its group", mode(UNIT, 0o664), {"HST-05"}),
    ("unit for others", mode(UNIT, 0o646), {"HST-05"}),
    ("unit of a user", mode(UNIT, 0o644, uid=1000), {"HST-05"}),
    ("unit of a group", mode(UNIT, 0o644, gid=102), {"HST-05"}),
    ("executable unit", mode(UNIT, 0o755), {"HST-05"}),
    ("socket unit 606", mode(SOCKET_UNIT, 0o606), {"HST-05"}),
    ("containerd's unit", mode("/usr/lib/systemd/system/containerd.service", 0o666), {"HST-05"}),
    ("drop-in", combined(drop_in("[Service]\nNice=1\n"), mode(DROP_IN, 0o664)), {"HST-05"}),
    ("directory of drop-ins",
     combined(drop_in("[Service]\nNice=1\n"), mode("/etc/systemd/system/docker.service.d", 0o775, kind="directory")),
     {"HST-05"}),
    ("drop-in that is overridden",
     combined(drop_in("[Service]\nNice=1\n"),
              write("/run/systemd/system/docker.service.d/local.conf", "[Service]\nNice=2\n"),
              mode("/run/systemd/system/docker.service.d/local.conf", 0o666)), {"HST-05"}),
    ("copy in /usr/local",
     combined(write("/usr/local/lib/systemd/system/docker.service", "[Service]\nExecStart=/usr/sbin/dockerd -H fd://\n"),
              mode("/usr/local/lib/systemd/system/docker.service", 0o666)), {"HST-05", "HST-04"}),
    # HST-06
    ("daemon.json for its group", mode(JSON, 0o664), {"HST-06"}),
    ("daemon.json for others", mode(JSON, 0o606), {"HST-06"}),
    ("daemon.json of a group", mode(JSON, 0o640, gid=102), {"HST-06"}),
    ("/etc/docker", mode("/etc/docker", 0o775, kind="directory"), {"HST-06"}),
    ("/etc/default/docker", mode("/etc/default/docker", 0o666), {"HST-06"}),
    ("containerd's configuration", mode("/etc/containerd/config.toml", 0o662), {"HST-06"}),
    ("another file", combined(write("/etc/docker/plugins/x.spec", "x"), mode("/etc/docker/plugins/x.spec", 0o666)),
     {"HST-06"}),
    ("directory of certificates",
     combined(write("/etc/docker/certs.d/r/ca.crt", "x"), mode("/etc/docker/certs.d/r/ca.crt", 0o444),
              mode("/etc/docker/certs.d/r", 0o777, kind="directory")), {"HST-06"}),
    # HST-07
    *[(f"socket {bits:o}", mode("/run/docker.sock", bits), {"HST-07"})
      for bits in (0o666, 0o606, 0o661, 0o662, 0o664, 0o670, 0o760, 0o777)],
    ("socket of a user", mode("/run/docker.sock", 0o660, uid=1000), {"HST-07"}),
    ("socket of another group", mode("/run/docker.sock", 0o660, gid=100), {"HST-07"}),
    ("SocketMode 0666", replace(SOCKET_UNIT, "0660", "0666"), {"HST-07"}),
    ("SocketMode gone", replace(SOCKET_UNIT, "SocketMode=0660\n", ""), {"HST-07"}),
    ("SocketGroup", replace(SOCKET_UNIT, "SocketGroup=docker", "SocketGroup=users"), {"HST-07"}),
    # HST-08
    *[(f"containerd's socket {bits:o}", mode("/run/containerd/containerd.sock", bits), {"HST-08"})
      for bits in (0o666, 0o661, 0o606, 0o670)],
    ("containerd's socket of a group", mode("/run/containerd/containerd.sock", 0o660, gid=102), {"HST-08"}),
    ("containerd's other socket", mode("/run/docker/containerd/containerd.sock", 0o666, kind="other"), {"HST-08"}),
    # HST-09
    *[(f"key {bits:o}", combined(write("/etc/docker/certs.d/r/client.key", "x"),
                                 mode("/etc/docker/certs.d/r/client.key", bits, gid=gid)), {"HST-09"})
      for bits, gid in ((0o440, 0), (0o444, 0), (0o640, 0), (0o404, 102), (0o600, 0), (0o460, 102))],
    ("certificate for others", combined(write("/etc/docker/certs.d/r/ca.crt", "x"),
                                        mode("/etc/docker/certs.d/r/ca.crt", 0o446)), {"HST-09"}),
    ("certificate of a user", combined(write("/etc/docker/certs.d/r/ca.crt", "x"),
                                       mode("/etc/docker/certs.d/r/ca.crt", 0o444, uid=5)), {"HST-09"}),
    ("the engine's key", combined(setting("tlskey", "/srv/server.key"), mode("/srv/server.key", 0o644)), {"HST-09"}),
    # HST-10
    ("pending update", lambda host: host.packages.update(openssl="3.5.1-1"), {"HST-10"}),
    ("pending rebuild of a revision", lambda host: host.packages.update(openssl="3.5.4-1~deb13"), {"HST-10"}),
    ("reboot", write("/run/reboot-required", ""), {"HST-10"}),
    # HST-11
    *[(f"{name}={value}", sysctl(name, value), {"HST-11"}) for name, value in (
        ("kernel/kptr_restrict", 0), ("kernel/dmesg_restrict", 0), ("kernel/yama/ptrace_scope", 0),
        ("kernel/unprivileged_bpf_disabled", 0), ("kernel/randomize_va_space", 1), ("fs/suid_dumpable", 2),
        ("fs/protected_hardlinks", 0), ("fs/protected_symlinks", 0), ("fs/protected_fifos", 0),
        ("fs/protected_regular", 0), ("net/ipv4/conf/all/accept_source_route", 1),
        ("net/ipv4/conf/all/accept_redirects", 1), ("net/ipv4/conf/all/rp_filter", 0), ("net/ipv4/tcp_syncookies", 0),
    )],
    # HST-12
    ("another port", published("0.0.0.0", 5432), {"HST-12"}),
    ("another port, IPv6", published("::", 5432), {"HST-12"}),
    ("another port, one address", published("192.0.2.1", 5432), {"HST-12"}),
    ("nothing declared, nothing filtered",
     lambda host: (host.policy.update(declared_ports=None),
                   host.facts.update(docker_user="-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n")), {"HST-12"}),
    ("host network", lambda host: host.facts.update(listeners=[{
        "protocol": "tcp", "address": "0.0.0.0", "port": 9100, "pid": 5, "process": "x", "uid": 0,
        "container_id": host.api["/containers/json"][0]["Id"], "kernel": False}]), {"HST-12"}),
    # HST-13
    ("compose file for its group", mode("/etc/mcpstack/compose/edge.yml", 0o660), {"HST-13"}),
    ("compose file for others", mode("/etc/mcpstack/compose/edge.yml", 0o646), {"HST-13"}),
    ("compose file of a user", mode("/etc/mcpstack/compose/edge.yml", 0o640, uid=1000), {"HST-13"}),
    ("compose file of a service", mode("/etc/mcpstack/compose/edge.yml", 0o640, uid=64101), {"HST-13"}),
    ("tree for its group", mode("/etc/mcpstack", 0o770, kind="directory"), {"HST-13"}),
    ("data for others", mode("/var/lib/mcpstack", 0o777, kind="directory"), {"HST-13"}),
    ("secrets can be listed", mode("/run/mcpstack/secrets", 0o755, kind="directory"), {"HST-13"}),
    ("a service's secrets for its group", mode("/run/mcpstack/secrets/gateway", 0o750, kind="directory"), {"HST-13"}),
    ("a secret for its group", mode("/run/mcpstack/secrets/gateway/gateway-db/v1", 0o440), {"HST-13"}),
    ("a secret of a user", mode("/run/mcpstack/secrets/gateway/gateway-db/v1", 0o400, uid=1000), {"HST-13"}),
    ("a unit of the stack", mode(STACK_UNIT, 0o664), {"HST-13"}),
    ("a script for its group", mode(SCRIPT, 0o775), {"HST-13"}),
    ("a script's directory", mode("/usr/local/lib/mcpstack", 0o777, kind="directory"), {"HST-13"}),
    ("a program that cannot start", mode("/usr/bin/python3", 0o644), {"HST-13"}),
    ("a program that is gone", replace(STACK_UNIT, "/usr/bin/python3", "/usr/bin/python4"), {"HST-13"}),
]  # fmt: skip


def test_the_hardened_host_is_clean():
    result = Host().result()
    assert result["findings"] == []
    states = {state["id"]: state["status"] for state in result["checks_run"]}
    assert {name for name, state in states.items() if state != "pass"} == {"DMN-10", "HST-09"}
    assert states["DMN-10"] == states["HST-09"] == "not_applicable"


@pytest.mark.parametrize(("change", "expected"), [row[1:] for row in MUTATIONS], ids=[row[0] for row in MUTATIONS])
def test_each_weakening_is_found_and_nothing_else(change, expected):
    host = Host()
    change(host)
    result = host.result()
    assert ids(result) == expected, [(item["id"], item["where"], item["evidence"]) for item in result["findings"]]
    assert all(status(result, name) == "fail" for name in expected)


def test_every_check_has_a_mutation():
    found = {name for _title, _change, expected in MUTATIONS for name in expected}
    assert found == {check.id for check in CHECKS}
