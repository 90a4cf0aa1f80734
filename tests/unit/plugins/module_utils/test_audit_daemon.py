# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit of the engine: what must stay silent, the traps of the catalogue, what is unknown, and what people read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.module_utils import _engine_floors as floors
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_daemon import IDS, audit_daemon
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles, MemoryFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_host import TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._daemon_settings import parse_file, parse_flags
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError
from ansible_collections.mcpstack.platform.plugins.module_utils._host_policy import HostPolicy
from ansible_collections.mcpstack.platform.plugins.module_utils._host_probe import Answers, HostFacts
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import hardened_host_fixture as fixture
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.hardened_host_fixture import (
    DROP_IN,
    JSON,
    UNIT,
    Host,
    ids,
    places,
    reason,
    status,
)

ROOT = next(parent for parent in Path(__file__).parents if (parent / "galaxy.yml").is_file())


@pytest.fixture
def host():
    return Host()


def findings(host, check_id):
    return [item for item in host.result()["findings"] if item["id"] == check_id]


def test_the_fixture_is_what_the_role_writes():
    role = yaml.safe_load((ROOT / "roles/docker/vars/main.yml").read_text())["_mcpstack_docker_daemon"]
    assert set(role) == set(fixture.DAEMON) - {"userns-remap"}
    for key, value in role.items():
        if isinstance(value, (bool, str)) and "{{" not in str(value):
            assert fixture.DAEMON[key] == value
    assert set(role["log-opts"]) == set(fixture.DAEMON["log-opts"])


def test_what_the_role_writes_lacks_user_namespaces_and_nothing_else(host):
    del host.daemon["userns-remap"]
    host.policy["root_containers"] = False
    result = host.result()
    assert [(item["id"], item["severity"], item["evidence"]) for item in result["findings"]] == [
        ("DMN-08", "info", "userns-remap is not set; every running container has a user other than root")
    ]


SILENT_FILE = [
    {"hosts": ["unix:///var/run/docker.sock"]},
    {"hosts": ["fd://"]},
    {"hosts": ["tcp://0.0.0.0:2376"], "tlsverify": True, "tlscacert": "/x"},
    {"log-level": "warn"},
    {"log-level": "WARNING"},
    {"log-level": ""},
    {"log-level": None},
    {"debug": False},
    {"iptables": True, "ip6tables": True, "firewall-backend": "nftables"},
    {"insecure-registries": []},
    {"insecure-registries": ["127.0.0.0/8", "127.1.2.3", "::1", "::1/128", "localhost:5000", "127.0.0.1:5000", "[::1]:5"]},
    {"registry-mirrors": ["https://mirror.example", "http://localhost:5000", "http://127.0.0.1:5000/"]},
    {"storage-driver": "overlay2"},
    {"storage-driver": "btrfs", "storage-opts": ["btrfs.min_space=10G"]},
    {"default-ulimits": {"nofile": {"name": "nofile", "soft": 10, "hard": 20}, "core": {"Hard": -1}}},
    {"cgroup-parent": "system.slice"},
    {"cgroup-parent": ""},
    {"log-driver": "local", "log-opts": {}},
    {"log-driver": "journald", "log-opts": {"tag": "x"}},
    {"log-driver": "splunk", "log-opts": {"splunk-token": "x"}},
    {"log-opts": {"max-size": "10M"}},
    {"log-opts": {"max-size": "1g"}},
    {"log-opts": {"max-size": "0.5GiB"}},
    {"log-opts": {"max-size": "1048576"}},
    {"seccomp-profile": "/etc/docker/seccomp.json"},
    {"seccomp-profile": "builtin"},
    {"experimental": False},
    {"features": {"containerd-snapshotter": True}, "a-setting-of-the-future": 5},
]  # fmt: skip


@pytest.mark.parametrize("changes", SILENT_FILE, ids=json.dumps)
def test_harmless_settings_are_silent(host, changes):
    if "hosts" in changes:
        host.unit_flags, host.arguments = "$DOCKER_OPTS", ()
    host.daemon.update(changes)
    assert ids(host.result()) == set()


@pytest.mark.parametrize(
    ("flags", "without"),
    [
        ("--icc=false", ["icc"]),
        ("--icc=0", ["icc"]),
        ("--log-level=info --debug=false", ["log-level"]),
        ("--log-level warn", ["log-level"]),
        ("--iptables --ip6tables=true", []),
        ("--no-new-privileges", ["no-new-privileges"]),
        ("--no-new-privileges=T", ["no-new-privileges"]),
        ("--live-restore", ["live-restore"]),
        ("--userland-proxy=false", ["userland-proxy"]),
        ("--default-ulimit nofile=1024:4096", ["default-ulimits"]),
        ("--default-ulimit=nofile=1024", ["default-ulimits"]),
        ("--log-opt max-size=5m --log-opt max-file=2", ["log-opts"]),
        ("--log-driver local", ["log-driver"]),
        ("--userns-remap=default", ["userns-remap"]),
        ("-H tcp://0.0.0.0:2376 --tlsverify --tlscacert=/x", []),
        ("-H unix:///run/other.sock", []),
        ("--experimental=false", []),
        ("-DH unix:///x --debug=false", []),
    ],
)
def test_harmless_flags_are_silent(host, flags, without):
    for key in without:
        del host.daemon[key]
    host.unit_flags += f" {flags}"
    host.arguments = None
    result = host.result()
    assert ids(result) == set()


def test_certificates_may_be_asked_for_in_the_other_place(host):
    host.unit_flags += " -H tcp://0.0.0.0:2376"
    host.daemon["tlsverify"] = True
    assert ids(host.result()) == set()


def test_a_port_is_judged_by_its_listener_not_by_its_number(host):
    host.daemon_facts["listening"] = (("0.0.0.0", 2375),)
    host.api["/containers/json"][0]["Ports"].append({"IP": "127.0.0.1", "PublicPort": 2375, "Type": "tcp"})
    assert ids(host.result()) == set()
    host.api["/containers/json"][0]["Ports"].pop()
    assert places(host.result()) == {("DMN-01", "0.0.0.0:2375/tcp")}


def test_listeners_of_metrics_and_of_a_swarm_are_no_api(host):
    host.daemon["metrics-addr"] = "0.0.0.0:9323"
    host.daemon_facts["listening"] = (("0.0.0.0", 9323), ("::", 2377), ("::", 7946))
    host.api["/info"]["Swarm"]["LocalNodeState"] = "active"
    host.policy["swarm"] = True
    result = host.result()
    assert ids(result) == set()
    assert status(result, "DMN-13") == "not_applicable"
    host.api["/info"]["Swarm"]["LocalNodeState"] = "inactive"
    assert places(host.result()) == {("DMN-01", "[::]:2377/tcp"), ("DMN-01", "[::]:7946/tcp")}


@pytest.mark.parametrize(
    ("entry", "severity"),
    [
        ("tcp://0.0.0.0:2375", "critical"),
        ("tcp://10.1.2.3:2375", "critical"),
        ("tcp://[::]:2375", "critical"),
        ("tcp://example:2375", "critical"),
        ("tcp://127.0.0.1:2375", "high"),
        ("tcp://[::1]:2375", "high"),
        ("tcp://localhost:2375", "high"),
        ("tcp://:2375", "high"),
        ("tcp://", "high"),
        ("::ffff:127.0.0.1:2375", "high"),
    ],
)
def test_an_api_without_certificates_is_worse_beyond_loopback(host, entry, severity):
    host.unit_flags = host.unit_flags.replace("fd://", entry)
    host.arguments = ()
    (found,) = findings(host, "DMN-01")
    assert (found["severity"], found["where"]) == (severity, f"{UNIT}:3")
    assert found["evidence"].startswith(f"{entry} without tlsverify")


def test_a_list_that_nobody_would_read_is_cut_and_not_passed(host):
    host.daemon["insecure-registries"] = ["127.0.0.1"] * 201
    result = host.result()
    assert ids(result) == set()
    assert reason(result, "DMN-05") == "only the first 200 of 201 entries were judged"


def test_a_flag_beats_the_file_and_the_place_is_where_it_is_corrected(host):
    host.drop_ins[DROP_IN] = (
        "[Service]\n# more to say\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// \\\n"
        "  --log-level=debug\n"
    )  # fmt: skip
    del host.daemon["log-level"]
    assert places(host.result()) == {("DMN-03", f"{DROP_IN}:4")}


def test_a_line_of_the_file_is_named(host):
    host.daemon["icc"] = True
    (found,) = findings(host, "DMN-02")
    line = json.dumps(host.daemon, indent=2).split("\n").index('  "icc": true,') + 1
    assert found["where"] == f"{JSON}:{line}"
    assert found["evidence"] == "icc: true"


def test_a_reset_in_a_drop_in_removes_the_flags_of_the_unit(host):
    host.unit_flags += " --debug"
    host.arguments = fixture.ARGUMENTS
    host.drop_ins[DROP_IN] = "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd://\n"
    assert ids(host.result()) == set()


def test_a_masked_drop_in_counts_for_nothing(host):
    lower = "/usr/lib/systemd/system/docker.service.d/local.conf"
    host.drop_ins[lower] = "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd --debug\n"
    host.chmod(DROP_IN, 0o666, kind="other")
    assert ids(host.result()) == set()


def test_a_setting_in_both_places_is_one_finding_of_its_own(host):
    host.unit_flags += " --live-restore"
    (found,) = host.result()["findings"]
    assert (found["id"], found["where"]) == ("DMN-17", f"{UNIT}:3")
    assert found["evidence"] == f"live-restore is set by a flag and in {JSON}"


def test_the_bridge_decides_not_the_text(host):
    network = next(item for item in host.api["/networks"] if item["Name"] == "bridge")
    network["Options"]["com.docker.network.bridge.enable_icc"] = "true"
    assert places(host.result()) == {("DMN-02", "network bridge")}
    other = next(item for item in host.api["/networks"] if item["Name"] == "mcpstack_data")
    other["Options"]["com.docker.network.bridge.enable_icc"] = "true"
    network["Options"]["com.docker.network.bridge.enable_icc"] = "false"
    assert ids(host.result()) == set()


def test_without_a_default_bridge_there_is_nothing_to_separate(host):
    host.daemon["bridge"] = "none"
    del host.daemon["icc"]
    host.api["/networks"] = [item for item in host.api["/networks"] if item["Name"] != "bridge"]
    assert ids(host.result()) == set()


def test_rootless_needs_no_mapping(host):
    del host.daemon["userns-remap"]
    host.api["/info"]["SecurityOptions"] += ["name=rootless"]
    assert ids(host.result()) == set()


@pytest.mark.parametrize("text", ["N\n", None])
def test_a_kernel_without_apparmor_is_no_failure(host, text):
    host.files["/sys/module/apparmor/parameters/enabled"] = text
    options = host.api["/info"]["SecurityOptions"]
    options.remove("name=apparmor")
    result = host.result()
    assert ids(result) == set()
    assert status(result, "DMN-15") == "pass"


def test_several_administrators_with_a_plugin_are_told_apart(host):
    host.policy["docker_group_members"] = ["alice", "bob"]
    host.api["/info"]["Plugins"]["Authorization"] = ["opa"]
    assert ids(host.result()) == set()
    host.api["/info"]["Plugins"]["Authorization"] = None
    (found,) = host.result()["findings"]
    assert (found["id"], found["severity"]) == ("DMN-10", "info")


# -- versions -------------------------------------------------------------------------------------------------------------


def versions(host, name, shown, commit="", package=None):
    for item in host.api["/version"]["Components"]:
        if item["Name"] == name:
            item["Version"], item["Details"]["GitCommit"] = shown, commit
    if package:
        host.packages[package[0]] = package[1]
        host.offered.pop(package[0], None)


@pytest.mark.parametrize(
    ("codename", "package", "version", "states"),
    [
        ("bookworm", "runc", "1.1.5+ds1-1", {"fail"}),
        ("bookworm", "runc", "1.1.5+ds1-1+deb12u1", {"fail"}),  # leaves the flaws of 2025
        ("bookworm", "runc", "1.1.5+ds1-1+deb12u2", {"unknown"}),  # newer than the table
        ("trixie", "runc", "1.1.15+ds1-2+b4", {"fail"}),
        ("trixie", "runc", "1.1.15+ds1-2+deb13u1", {"unknown"}),
        ("trixie", "runc", "1.3.3+ds1-1", {"pass"}),
        ("forky", "runc", "1.3.3+ds1-1", {"pass"}),
        ("forky", "runc", "1.1.15+ds1-2", {"unknown"}),
    ],
)
def test_debian_decides_by_the_version_of_its_package(host, codename, package, version, states):
    host.files["/etc/os-release"] = f'ID=debian\nVERSION_CODENAME="{codename}"\n'
    shown = version.split("-")[0]
    versions(host, "runc", shown, version, (package, version))
    versions(host, "containerd", "2.2.1", "2.2.1-1", ("containerd", "2.2.1-1"))
    versions(host, "Engine", "29.5.1", "x", ("docker.io", "29.5.1-1"))
    assert {status(host.result(), "DMN-16")} == states


def test_the_older_flaw_of_runc_is_high_and_one_without_a_package_medium(host):
    host.files["/etc/os-release"] = "ID=debian\nVERSION_CODENAME=bookworm\n"
    versions(host, "runc", "1.1.5+ds1", "1.1.5+ds1-1", ("runc", "1.1.5+ds1-1"))
    versions(host, "containerd", "1.6.20~ds1", "1.6.20~ds1-1+deb12u2", ("containerd", "1.6.20~ds1-1+deb12u2"))
    found = findings(host, "DMN-16")
    assert [(item["severity"], item["where"], item["evidence"]) for item in found] == [
        (
            "high",
            "runc 1.1.5+ds1-1",
            f"CVE-2024-21626: fixed in 1.1.5+ds1-1+deb12u1 (table of {floors.DATE})",
        ),
        (
            "medium",
            "runc 1.1.5+ds1-1",
            f"CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: no fixed package in bookworm (table of {floors.DATE})",
        ),
    ]


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("runc", "1.1.11", {"runc 1.1.11"}),
        ("runc", "1.1.12", {"runc 1.1.12"}),  # closes 2024, not 2025
        ("runc", "1.2.7", {"runc 1.2.7"}),
        ("runc", "1.2.8", set()),
        ("runc", "1.3.2", {"runc 1.3.2"}),
        ("runc", "1.3.3", set()),
        ("runc", "1.4.0-rc.2", {"runc 1.4.0-rc.2"}),
        ("runc", "1.4.0-rc.3", set()),
        ("runc", "1.4.0", set()),
        ("Engine", "29.5.0", {"engine 29.5.0"}),
        ("Engine", "29.5.1", set()),
        ("Engine", "28.5.2", {"engine 28.5.2"}),
        ("containerd", "v1.7.28", {"containerd v1.7.28"}),
        ("containerd", "v1.7.29", set()),
        ("containerd", "2.1.4", {"containerd 2.1.4"}),
        ("containerd", "v2.2.0", set()),
    ],
)
def test_the_projects_own_builds_are_judged_by_their_number(host, name, version, expected):
    host.api["/version"]["Platform"]["Name"] = "Docker Engine - Community"
    host.packages = {"docker-ce": "5:29.5.1-1~debian.13~trixie", "containerd.io": "2.2.1-1~debian.13~trixie"}
    versions(host, "Engine", "29.5.1", "abc")
    versions(host, "containerd", "v2.2.1", "dea7da592f5d1d2b7755e3a161be07f43fad8f75")
    versions(host, "runc", "1.3.3", "v1.3.3-0-gd842d771")
    versions(host, name, version, "x")
    assert {item["where"] for item in findings(host, "DMN-16")} == expected


def test_another_distribution_below_the_floor_is_unknown_and_above_it_fine(host):
    host.files["/etc/os-release"] = "ID=ubuntu\nVERSION_CODENAME=noble\n"
    versions(host, "Engine", "29.1.3", "29.1.3-0ubuntu3~24.04.2", ("docker.io", "29.1.3-0ubuntu3~24.04.2"))
    versions(host, "containerd", "2.2.1", "", ("containerd", "2.2.1-0ubuntu1~24.04.3"))
    versions(host, "runc", "1.3.3-0ubuntu1~24.04.3", "", ("runc", "1.3.3-0ubuntu1~24.04.3"))
    result = host.result()
    assert ids(result) == set()
    assert status(result, "DMN-16") == "unknown"
    assert reason(result, "DMN-16") == (
        "engine 29.1.3: whether CVE-2026-41568, CVE-2026-42306 is fixed there is not known (table of 2026-11-21)"
    )


def test_an_updated_package_that_does_not_run_yet(host):
    host.packages["containerd"] = "1.7.24~ds1-6+deb13u2"
    (found,) = findings(host, "DMN-16")
    assert found["evidence"] == "1.7.24~ds1-6+deb13u1 runs, containerd 1.7.24~ds1-6+deb13u2 is installed"
    assert found["fix"] == "Restart containerd."


# -- what is not known ----------------------------------------------------------------------------------------------------

ASKED = {"DMN-02", "DMN-05", "DMN-06", "DMN-08", "DMN-11", "DMN-12", "DMN-13", "DMN-15", "DMN-16", "DMN-17"}


@pytest.mark.parametrize("engine", [None, {}, {"/info": [], "/version": 5, "/networks": {}, "/containers/json": "x"}])
def test_an_engine_that_does_not_answer_is_never_a_pass(host, engine):
    host.api = engine
    result = host.result()
    assert not {item["id"] for item in result["findings"]} & set(IDS)
    assert {name for name in IDS if status(result, name) == "unknown"} == ASKED | {"DMN-01"}


def test_an_engine_that_refuses_says_why(host):
    host.api["/info"] = EngineError("refused")
    assert reason(host.result(), "DMN-13") == "the engine did not answer /info: refused"


def test_no_owner_of_the_socket_leaves_the_listeners_open(host):
    host.arguments = None
    result = host.result()
    assert status(result, "DMN-01") == "unknown"
    assert reason(result, "DMN-01") == "no dockerd was found"
    host.arguments = fixture.ARGUMENTS
    host.daemon_facts["listening"] = None
    assert reason(host.result(), "DMN-01") == "the sockets of dockerd cannot be read; run this as root"


def test_a_broken_file_leaves_what_it_decides_unknown(host):
    host.raw = "{"
    result = host.result()
    assert ids(result) == {"DMN-17"}
    assert {name for name in IDS if status(result, name) == "pass"} == {"DMN-16"}
    assert reason(result, "DMN-14") == f"{JSON} cannot be read as the engine would"


def test_a_wrong_type_leaves_only_its_own_setting_unknown(host):
    host.daemon["userland-proxy"] = "false"
    result = host.result()
    assert {name for name in IDS if status(result, name) == "unknown"} == {"DMN-14"}


@pytest.mark.parametrize("command", ["/bin/sh -c 'exec dockerd -H tcp://0.0.0.0:2375'", "/opt/start-engine", ""])
def test_a_unit_that_starts_something_else_is_not_guessed(host, command):
    host.files[UNIT] = f"[Service]\nExecStart={command}\n"
    host.arguments = None
    result = host.result()
    assert not ids(result) & set(IDS)
    assert status(result, "DMN-03") == status(result, "DMN-17") == "unknown"
    assert reason(result, "DMN-03") == f"{UNIT} does not start dockerd itself"
    host.arguments = ("-H", "tcp://0.0.0.0:2375")
    assert ids(host.result()) & set(IDS) == {"DMN-01"}


def test_dockerd_behind_another_program(host):
    host.files[UNIT] = "[Service]\nExecStart=/usr/bin/env X=1 /usr/sbin/dockerd --debug\n"
    assert ids(host.result()) == {"DMN-03"}


def test_files_that_are_not_at_hand_are_unknown():
    audit = Audit(TABLE)
    audit_daemon(audit, MemoryFiles({}), None, None, HostPolicy(today=fixture.TODAY))
    result = audit.result()
    assert result["findings"] == []
    assert {status(result, name) for name in IDS} - {"unknown"} == {"not_applicable"}
    assert [name for name in IDS if status(result, name) == "not_applicable"] == ["DMN-10"]


def test_a_host_without_an_engine(tmp_path):
    audit = Audit(TABLE)
    audit_daemon(audit, LocalFiles(str(tmp_path)), None, None, HostPolicy(today=fixture.TODAY))
    assert {status(audit.result(), name) for name in IDS} == {"not_applicable"}


def test_answers_are_asked_for_once_and_known_ones_not_at_all():
    engine = fixture.FakeEngine(fixture.RECORD)
    answers = Answers(engine, {"/info": fixture.RECORD["/info"]})
    audit_daemon(Audit(TABLE), Host().tree(), answers, HostFacts(), HostPolicy(today=fixture.TODAY))
    audit_daemon(Audit(TABLE), Host().tree(), answers, HostFacts(), HostPolicy(today=fixture.TODAY))
    assert sorted(engine.asked) == ["/networks", "/version"]


# -- the readers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", None),
        (b" \n", None),
        (b"\xef\xbb\xbf{}", None),
        ("{}".encode("utf-16"), None),
        (b"{}\r\n", None),
        (b"\xff", "is not UTF-8 text (byte 0)"),
        (b"{", "is not JSON: Expecting property name enclosed in double quotes (column 2)"),
        (b"null", "is null, not an object of settings"),
        (b'"x"', "is a string, not an object of settings"),
        (b"[" * 100000, "is not JSON: nested too deeply"),
        (b'{"a": NaN}', "is not JSON: NaN is no JSON"),
        (b'{"icc": "false"}', "icc is a string, the engine reads a boolean"),
        (b'{"hosts": [1]}', "hosts holds something that is no string"),
        (b'{"log-opts": {"max-size": 1}}', "log-opts.max-size is a number, the engine reads a string"),
        (b'{"Icc": false}', "Icc is no setting of the engine; it is spelt icc"),
        (b'{"log_level": "info"}', "log_level is no setting of the engine; it is spelt log-level"),
        (b'{"icc": false, "icc": false}', "icc is set twice; the last one counts"),
        (b'{"a": {"b": 1, "b": 2}}', "b is set twice; the last one counts"),
    ],
)  # fmt: skip
def test_daemon_json_is_read_as_the_engine_does(data, problem):
    result = parse_file(data)
    assert [evidence for _where, evidence in result.problems] == ([problem] if problem else [])


def test_the_last_of_two_values_counts():
    result = parse_file(b'{"icc": false,\n"icc": true}')
    assert result.values["icc"] is True
    assert result.where("icc") == f"{JSON}:2"


def test_many_complaints_are_cut():
    text = "{" + ",".join(f'"{name}": []' for name in ("icc", "ipv6", "tls", "init", "debug") * 9) + "}"
    assert len(parse_file(text.encode()).problems) <= 20


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["-D"], {"debug": True}),
        (["-DH", "x"], {"debug": True, "hosts": ["x"]}),
        (["-Hx", "-H=y", "--host", "z"], {"hosts": ["x", "y", "z"]}),
        (["--icc", "false"], {"icc": True}),
        (["--icc=false", "--icc"], {"icc": True}),
        (["--icc=TRUE"], {"icc": True}),
        (["--icc=tRUE"], {}),
        (["--", "--icc"], {}),
        (["-l"], {"log-level": ""}),
        (["--log-opt", "a=b", "--log-opt=c=d=e"], {"log-opts": {"a": "b", "c": "d=e"}}),
        (
            ["--default-ulimit", "nofile=1:2"],
            {"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}},
        ),
    ],
)
def test_flags_are_read_as_the_engine_does(words, values):
    flags = parse_flags((word, "here") for word in words)
    assert {key: value for key, (value, _where) in flags.values.items()} == values


@pytest.mark.parametrize("floor", floors.FLOORS, ids=lambda floor: f"{floor.component} {floor.flaws}")
def test_the_table_is_consistent(floor):
    keys = [floors.parse(version) for version in floor.upstream]
    assert None not in keys
    assert keys == sorted(keys)
    assert all(floors.upstream_state(floor, version) == floors.FIXED for version in floor.upstream)
    assert floors.upstream_state(floor, "0.1.0") == floors.VULNERABLE
    assert floors.upstream_state(floor, "unreleased") == floors.UNSURE
    assert floor.severity in ("high", "medium")
    for entry in floor.debian.values():
        assert floors.upstream_state(floor, entry.removeprefix("<=")) in (floors.VULNERABLE, floors.FIXED)
