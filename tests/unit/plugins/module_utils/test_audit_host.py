# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit of the host: what must stay silent, the traps of the catalogue, what is unknown, and what people read."""

from __future__ import annotations

import datetime
import gzip
import os

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles, MemoryFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_host import audit_host, mounts
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_host import CHECKS, TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._host_firewall import filters
from ansible_collections.mcpstack.platform.plugins.module_utils._host_policy import HostPolicy
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import hardened_host_fixture as fixture
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.hardened_host_fixture import (
    JSON,
    LIST,
    RELEASE,
    RULES,
    SCRIPT,
    SOCKET_UNIT,
    STACK_UNIT,
    UNIT,
    Host,
    ids,
    places,
    reason,
    status,
)

IDS = [check.id for check in CHECKS if check.id.startswith("HST")]


@pytest.fixture
def host():
    return Host()


def one(host):
    (found,) = host.result()["findings"]
    return found


def judged(files, **policy):
    audit = Audit(TABLE)
    audit_host(audit, files, None, None, HostPolicy(today=fixture.TODAY, **policy))
    return audit.result()


# -- HST-01, HST-02 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "root"),
    [
        ("22 1 8:1 / / rw - ext4 a rw\n30 22 8:17 / /srv/engine rw - ext4 b rw\n", "/srv/engine/docker"),
        ("22 1 8:1 / / rw - ext4 a rw\n30 22 8:17 / /var/lib/docker\\040data rw - ext4 b rw\n", "/var/lib/docker data"),
        ("22 1 0:39 / / rw - overlay o rw\n30 22 8:1 /v/_data /var/lib/docker rw - ext4 b rw\n", "/var/lib/docker"),
    ],
)
def test_a_file_system_of_its_own(host, table, root):
    host.files["/proc/1/mountinfo"] = table
    host.api["/info"]["DockerRootDir"] = root
    host.files[RULES] += f'-w "{root}" -p wa\n'
    assert ids(host.result()) == set()


def test_the_last_mount_on_a_point_counts(host):
    host.files["/proc/1/mountinfo"] += "31 22 8:1 /x /var/lib/docker rw - ext4 a rw\n"
    assert places(host.result()) == {("HST-01", "/var/lib/docker")}
    assert mounts("garbage\n1 2 3\n") == {}


def test_a_link_to_the_data_is_followed_by_the_engine_or_unknown(host):
    host.chmod("/var/lib/docker", 0o777, kind="link")
    host.api["/info"]["DockerRootDir"] = None
    assert status(host.result(), "HST-01") == "unknown"


def test_members_on_the_allow_list_and_root_are_silent(host):
    host.policy["docker_group_members"] = ["alice"]
    host.files["/etc/group"] = "docker:x:102:alice,root\nother:x:1020:bob\nmydocker:x:5:bob\n"
    host.api["/info"]["Plugins"]["Authorization"] = ["x"]
    assert ids(host.result()) == set()


def test_a_member_by_primary_group_is_named_with_the_place(host):
    host.files["/etc/passwd"] += "eve:x:1001:102::/home/eve:/bin/sh\n"
    found = one(host)
    assert (found["id"], found["subject"], found["where"]) == ("HST-02", "user eve", "/etc/passwd")
    assert found["evidence"] == "eve is root through /etc/passwd, primary group, and not on the allow-list"


def test_the_group_that_the_engine_was_given_counts_as_well(host):
    host.daemon["group"] = "users"
    host.files["/etc/group"] = host.files["/etc/group"].replace("users:x:100:", "users:x:100:bob")
    assert places(host.result()) == {("HST-02", "/etc/group")}


def test_a_host_without_the_group_has_no_members(host):
    host.files["/etc/group"] = "root:x:0:\n"
    host.chmod("/run/docker.sock", 0o660, gid=0)
    assert status(host.result(), "HST-02") == "pass"


# -- HST-03, HST-04 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        "-w /usr/sbin/dockerd",
        "-w /usr/sbin/dockerd -k docker",
        "-w  '/usr/sbin/dockerd'  -p x",
        "-w /sbin/dockerd -p wa",
        "-w /usr/sbin/ -p wxa",
        "-a always,exit -F path=/usr/sbin/dockerd -F perm=x -F key=docker",
        "-a exit,always -F dir=/usr/sbin -F perm=wa",
    ],
)
def test_the_ways_to_watch_a_program(host, rule):
    host.files[RULES] = host.files[RULES].replace("-w /usr/sbin/dockerd -p rwxa -k docker\n", f"{rule}\n")
    assert ids(host.result()) == set()


@pytest.mark.parametrize(
    "rule",
    [
        "-w /usr/sbin/docker -p rwxa",
        "-w /usr/sbin/dockerd-proxy",
        "-w /usr/sbin/dockerd -p r",
        "-w usr/sbin/dockerd",
        "-a never,exit -F path=/usr/sbin/dockerd",
        "-a always,exit -F exe=/usr/sbin/dockerd",
        "# -w /usr/sbin/dockerd",
        "-w /usr/sbin/dockerd\n-W /usr/sbin/dockerd",
    ],
)
def test_what_looks_like_a_watch_and_is_none(host, rule):
    host.files[RULES] = host.files[RULES].replace("-w /usr/sbin/dockerd -p rwxa -k docker\n", f"{rule}\n")
    assert places(host.result()) == {("HST-03", "/usr/sbin/dockerd")}


def test_rules_in_files_that_are_not_loaded_are_low(host):
    host.files["/etc/audit/audit.rules"] = "## generated from /etc/audit/rules.d\n-D\n"
    result = host.result()
    assert ids(result) == {"HST-03", "HST-04"}
    assert {item["severity"] for item in result["findings"]} == {"low"}
    assert {item["fix"] for item in result["findings"]} == {"Run augenrules --load."}
    host.files["/etc/audit/audit.rules"] = host.files[RULES]
    host.facts["audit_rules"] = "No rules\n"
    assert {item["evidence"] for item in host.result()["findings"]} == {"the rule is not loaded"}
    host.facts["audit_rules"] = host.files[RULES]
    assert ids(host.result()) == set()


def test_without_the_audit_system_it_is_one_finding_each(host):
    host.files[RULES] = None
    result = host.result()
    assert [item["where"] for item in result["findings"]] == ["/etc/audit/rules.d"] * 2
    assert "/usr/sbin/dockerd" in result["findings"][0]["evidence"]


# -- modes -------------------------------------------------------------------------------------------------------------


def test_modes_that_are_strict_enough(host):
    for path, bits in (
        (UNIT, 0o600),
        (SOCKET_UNIT, 0o444),
        (JSON, 0o600),
        ("/run/docker.sock", 0o600),
        ("/run/containerd/containerd.sock", 0o600),
        ("/etc/default/docker", 0o640),
    ):
        host.chmod(path, bits)
    host.chmod("/etc/docker", 0o700, kind="directory")
    for path, bits, gid in (
        ("/etc/docker/certs.d/r/ca.crt", 0o444, 0),
        ("/etc/docker/certs.d/r/client.cert", 0o400, 0),
        ("/etc/docker/certs.d/r/client.key", 0o400, 0),
        ("/etc/docker/certs.d/r/other.key", 0o440, 102),
        ("/etc/docker/certs.d/r/note.txt", 0o666, 0),
    ):
        host.files[path] = "x"
        host.chmod(path, bits, gid=gid)
    result = host.result()
    assert ids(result) == set()
    assert status(result, "HST-09") == "pass"


def test_606_is_smaller_than_660_and_open_to_everybody(host):
    host.chmod("/run/docker.sock", 0o606)
    found = one(host)
    assert (found["id"], found["severity"]) == ("HST-07", "critical")
    assert found["evidence"] == "mode 0606, owner 0:102; no bit of 0117 may be set"


def test_a_set_id_bit_is_a_bit_too_many(host):
    host.chmod(UNIT, 0o4644)
    assert one(host)["evidence"] == "mode 4644, owner 0:0; allowed 0644, owner 0:0"


def test_a_certificate_that_root_may_write_is_low(host):
    host.files["/etc/docker/certs.d/r/ca.crt"] = "x"
    found = one(host)
    assert (found["id"], found["severity"]) == ("HST-09", "low")


def test_a_further_socket_of_the_engine_is_judged(host):
    host.unit_flags += " -H unix:///srv/docker.sock"
    host.chmod("/srv/docker.sock", 0o666, gid=102, kind="other")
    assert places(host.result()) == {("HST-07", "/srv/docker.sock")}


def test_masked_units_have_no_mode(host):
    host.chmod("/etc/systemd/system/docker.socket", 0o666, kind="other")
    assert "HST-05" not in ids(host.result())


def test_modes_are_read_from_a_real_tree(tmp_path):
    folder = tmp_path / "etc/docker"
    folder.mkdir(parents=True)
    (folder / "daemon.json").write_text("{}")
    os.chmod(folder / "daemon.json", 0o606)
    os.chmod(folder, 0o755)
    (tmp_path / "etc/docker/other.json").symlink_to("/nowhere")
    found = {item["where"] for item in judged(LocalFiles(str(tmp_path)))["findings"] if item["id"] == "HST-06"}
    assert JSON in found
    assert "/etc/docker/other.json" not in found


# -- HST-10 ------------------------------------------------------------------------------------------------------------


def test_pending_updates_are_shown_with_the_age_of_the_index(host):
    host.packages["openssl"] = "3.5.1-1"
    found = one(host)
    assert (found["id"], found["severity"], found["where"]) == ("HST-10", "medium", "/var/lib/apt/lists")
    assert found["evidence"] == "index of 2026-11-20, 1 day old; 1 pending: openssl 3.5.1-1 < 3.5.4-1~deb13u1"


def test_many_pending_updates_are_cut(host):
    for number in range(20):
        host.packages[f"p{number:02}"] = "1.0-1"
        host.offered[f"p{number:02}"] = "1.0-2"
    assert "20 pending: p00 1.0-1 < 1.0-2" in one(host)["evidence"]
    assert one(host)["evidence"].endswith("and 12 more")


def test_an_old_index_says_nothing_about_today(host):
    host.policy["today"] = datetime.date(2026, 12, 1)
    result = host.result()
    assert ids(result) == set()
    assert status(result, "HST-10") == "unknown"
    assert reason(result, "HST-10") == (
        "the index of the security suite is of 2026-11-20, 11 days old: run apt-get update"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda host: host.files.update({LIST: None, LIST.replace("-security", ""): "x"}),
            "no index of a security suite",
        ),
        (lambda host: host.files.update({RELEASE: None}), "the age of the index is not known"),
        (lambda host: host.files.update({RELEASE: "Date: tomorrow or so\n"}), "the age of the index is not known"),
        (lambda host: host.files.update({f"{LIST}.lz4": b"\x04"}), "cannot unpack"),
        (lambda host: host.files.update({f"{LIST}.gz": b"\x1f\x8b\x08broken"}), "is damaged"),
        (lambda host: host.policy.update(updates=False), "was not asked for"),
    ],
)
def test_an_index_that_cannot_be_used_is_unknown(host, change, why):
    change(host)
    if why.startswith("no index"):
        host.files.setdefault(LIST, None)
    result = host.result()
    assert status(result, "HST-10") == "unknown"
    assert why in reason(result, "HST-10")


def test_a_packed_index_is_read(host):
    host.files[f"{LIST}.gz"] = gzip.compress(b"Package: openssl\nVersion: 9.9-1\n")
    assert "openssl 3.5.4-1~deb13u1 < 9.9-1" in one(host)["evidence"]


def test_removed_packages_and_older_offers_are_silent(host):
    host.offered["openssl"] = "3.5.0-1"
    host.offered["gone"] = "2.0-1"
    status_file = "\n".join(fixture.stanza(name, version) for name, version in host.packages.items())
    host.files["/var/lib/dpkg/status"] = (
        status_file + "\n" + fixture.stanza("gone", "1.0-1", "deinstall ok config-files")
    )
    assert ids(host.result()) == set()


def test_a_reboot_names_the_packages(host):
    host.files["/run/reboot-required"] = "*** System restart required ***\n"
    host.files["/run/reboot-required.pkgs"] = "linux-image-amd64\nlibc6\nlibc6\n"
    assert one(host)["evidence"] == "a reboot is required by libc6, linux-image-amd64"


# -- HST-11 ------------------------------------------------------------------------------------------------------------


def test_a_key_the_kernel_does_not_have_is_passed_over(host):
    host.files["/proc/sys/kernel/yama/ptrace_scope"] = None
    assert ids(host.result()) == set()


def test_declared_values_replace_the_table(host):
    host.files["/proc/sys/fs/suid_dumpable"] = "2\n"
    host.policy["sysctls"] = {"fs.suid_dumpable": ["0", "2"], "kernel.kptr_restrict": [], "vm.swappiness": [10]}
    host.files["/proc/sys/kernel/kptr_restrict"] = "0\n"
    host.files["/proc/sys/vm/swappiness"] = "60\n"
    found = one(host)
    assert (found["where"], found["evidence"]) == (
        "/proc/sys/vm/swappiness",
        "vm.swappiness = 60, not 10 (declared)",
    )


def test_the_reverse_path_of_every_interface_is_enough(host):
    host.files["/proc/sys/net/ipv4/conf/all/rp_filter"] = "0\n"
    host.files["/proc/sys/net/ipv4/conf/veth12/rp_filter"] = "0\n"
    assert one(host)["evidence"].startswith("rp_filter = 0 for all and for default, eth0")
    for name in ("default", "eth0"):
        host.files[f"/proc/sys/net/ipv4/conf/{name}/rp_filter"] = "1\n"
    assert ids(host.result()) == set()


# -- HST-12 ------------------------------------------------------------------------------------------------------------


def publish(host, address, port, protocol="tcp"):
    host.api["/containers/json"][0]["Ports"].append(
        {"IP": address, "PrivatePort": port, "PublicPort": port, "Type": protocol}
    )


def test_published_on_loopback_or_only_exposed_is_silent(host):
    publish(host, "127.0.0.1", 5432)
    publish(host, "::1", 5432)
    host.api["/containers/json"][0]["Ports"].append({"PrivatePort": 9000, "Type": "tcp"})
    assert ids(host.result()) == set()


def test_a_declaration_is_of_protocol_and_address(host):
    publish(host, "0.0.0.0", 80, "udp")
    assert places(host.result()) == {("HST-12", "80/udp")}
    host.policy["declared_ports"] += [{"port": 80, "protocol": "udp", "address": "192.0.2.1"}]
    assert places(host.result()) == {("HST-12", "80/udp")}
    host.policy["declared_ports"] += [{"port": 80, "protocol": "udp", "address": "0.0.0.0"}]
    assert ids(host.result()) == set()


def test_one_port_on_several_addresses_is_one_finding_and_ufw_is_named(host):
    publish(host, "0.0.0.0", 5432)
    publish(host, "::", 5432)
    host.files["/etc/ufw/ufw.conf"] = "ENABLED=yes\n"
    found = one(host)
    assert found["evidence"] == (
        "published on 0.0.0.0:5432, [::]:5432, not declared; UFW is on and does not see it: the engine forwards the"
        " port before"
    )


def test_without_declared_ports_the_packet_filter_decides(host):
    host.policy["declared_ports"] = None
    assert status(host.result(), "HST-12") == "unknown"
    host.facts["docker_user"] = "-N DOCKER-USER\n-A DOCKER-USER -s 10.0.0.0/8 -j ACCEPT\n-A DOCKER-USER -j DROP\n"
    assert status(host.result(), "HST-12") == "pass"
    host.facts["docker_user"] = "-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n"
    assert {item["where"] for item in host.result()["findings"]} == {"80/tcp", "443/tcp"}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("", False),
        ("-N DOCKER-USER\n-A DOCKER-USER -j RETURN", False),
        ("-A DOCKER-USER -s 10.0.0.0/8 -j ACCEPT", False),
        ("-A DOCKER-USER -j LOG --log-prefix x", False),
        ("-A FORWARD -j DROP", False),
        ("-A DOCKER-USER-2 -j DROP", False),
        ("-A DOCKER-USER -s 203.0.113.5/32 -j DROP", False),
        ("-A DOCKER-USER -m set --match-set bad src -j DROP", False),
        ("-A DOCKER-USER -j f2b-docker", False),
        ("-A DOCKER-USER -i eth0 -j DROP", True),
        ("-A DOCKER-USER ! -s 10.0.0.0/8 -i eth0 -j DROP", True),
        ("-A DOCKER-USER -j DROP", True),
        ("-A DOCKER-USER -p tcp -j REJECT --reject-with tcp-reset", True),
        ("-A DOCKER-USER -j ufw-user-forward", True),
    ],
)
def test_a_rule_that_can_refuse_something(rules, expected):
    assert filters(rules) is expected


def test_a_container_around_this_host_is_not_on_its_network(host):
    host.facts["listeners"] = [
        {"protocol": "tcp", "address": "0.0.0.0", "port": 22, "process": "sshd", "container_id": "f" * 64},
        {"protocol": "tcp", "address": "0.0.0.0", "port": 25, "process": "master", "container_id": None},
    ]
    assert ids(host.result()) == set()


def test_sockets_that_were_not_read_leave_the_host_network_open(host):
    host.facts["listeners"] = None
    assert status(host.result(), "HST-12") == "pass"  # no container is on it
    host.api["/containers/json"][0]["HostConfig"]["NetworkMode"] = "host"
    assert reason(host.result(), "HST-12") == "the listening sockets of the host were not read"


def test_services_of_a_swarm_are_not_seen(host):
    host.policy["swarm"] = True
    host.api["/info"]["Swarm"]["LocalNodeState"] = "active"
    assert status(host.result(), "HST-12") == "unknown"


# -- HST-13 ------------------------------------------------------------------------------------------------------------


def test_data_may_belong_to_a_service_and_configuration_may_not(host):
    host.chmod("/var/lib/mcpstack/backup", 0o700, 64104, 64104, kind="directory")
    host.files["/var/lib/mcpstack/backup/one.dump"] = "x"
    host.chmod("/var/lib/mcpstack/backup/one.dump", 0o600, 64104, 64104)
    assert ids(host.result()) == set()
    host.chmod("/etc/mcpstack/edge", 0o750, 64101, 64101, kind="directory")
    assert places(host.result()) == {("HST-13", "/etc/mcpstack/edge")}


def test_other_roots_can_be_named(host):
    host.files["/srv/app/compose.yml"] = "x"
    host.chmod("/srv/app/compose.yml", 0o666)
    host.files["/srv/app/secrets/token"] = "x"
    host.policy |= {"stack_roots": ("/srv/app/",), "secret_roots": ("/srv/app/secrets",), "unit_prefixes": ("app",)}
    assert places(host.result()) == {
        ("HST-13", "/srv/app/compose.yml"),
        ("HST-13", "/srv/app/secrets"),
        ("HST-13", "/srv/app/secrets/token"),
    }


def test_a_path_that_begins_like_a_secret_root_is_none(host):
    host.files["/run/mcpstack/secrets-readme"] = "x"
    assert ids(host.result()) == set()


@pytest.mark.parametrize("prefix", ["-", "@", "+", "!", "!!", ":-"])
def test_prefixes_of_a_command_are_no_part_of_its_path(host, prefix):
    host.files[STACK_UNIT] = f"[Service]\nExecStart={prefix}/usr/local/bin/job\n"
    host.chmod("/usr/local/bin/job", 0o644)
    found = one(host)
    assert (found["where"], found["severity"]) == ("/usr/local/bin/job", "medium")
    assert found["evidence"] == f"mode 0644, owner 0:0; not executable, started by {STACK_UNIT}:2"


def test_a_script_for_an_interpreter_need_not_be_executable(host):
    host.chmod(SCRIPT, 0o600)
    assert ids(host.result()) == set()
    host.chmod(SCRIPT, 0o600, uid=1000)
    assert places(host.result()) == {("HST-13", SCRIPT)}


def test_a_data_file_among_the_arguments_is_no_program(host):
    host.files[STACK_UNIT] = "[Service]\nExecStart=/usr/local/bin/job /srv/data/x\n"
    host.chmod("/usr/local/bin/job", 0o755)
    host.files["/srv/data/x"] = "x"
    host.chmod("/srv/data/x", 0o666, uid=1000)
    assert ids(host.result()) == set()


def test_a_tree_that_is_too_large_is_unknown(host, monkeypatch):
    from ansible_collections.mcpstack.platform.plugins.module_utils import _host_stack

    monkeypatch.setattr(_host_stack, "LIMIT", 1)
    assert status(host.result(), "HST-13") == "unknown"


# -- what is not known -------------------------------------------------------------------------------------------------


def test_files_that_are_not_at_hand_are_unknown():
    result = judged(MemoryFiles({}))
    assert result["findings"] == []
    assert {status(result, name) for name in IDS} == {"unknown"}


def test_an_empty_host_has_nothing_to_judge(tmp_path):
    result = judged(LocalFiles(str(tmp_path)))
    assert result["findings"] == []
    states = {name: status(result, name) for name in IDS}
    assert "pass" not in states.values()
    assert {name for name, state in states.items() if state == "unknown"} == {
        "HST-01", "HST-02", "HST-07", "HST-10", "HST-11", "HST-12",
    }  # fmt: skip


def test_every_finding_says_what_to_do(host):
    host.chmod("/run/docker.sock", 0o666)
    host.files[RULES] = None
    for item in host.result()["findings"]:
        assert item["fix"] and item["references"] and item["evidence"] and item["where"]
