# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever stands in the files of a host and in the engine's answers: findings or unknown, never a traceback."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.mcpstack.platform.plugins.module_utils import _unit_files
from ansible_collections.mcpstack.platform.plugins.module_utils._daemon_settings import parse_file, parse_flags
from ansible_collections.mcpstack.platform.plugins.module_utils._debian_version import compare
from ansible_collections.mcpstack.platform.plugins.module_utils._host_audit_rules import Paths, parse
from ansible_collections.mcpstack.platform.plugins.module_utils._host_firewall import filters
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import hardened_host_fixture as fixture
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.hardened_host_fixture import Host, status

FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
STATES = {"pass", "fail", "unknown", "not_applicable"}

WORDS = st.sampled_from(
    """{ } [ ] " : , icc false true null hosts tcp://0.0.0.0:2375 fd:// -H --icc= --default-ulimit nofile= = # ; \\ ' $X ${X}
    [Service] ExecStart= ExecStart=/usr/sbin/dockerd EnvironmentFile=-/etc/default/docker Environment= -w -p wa -a always,exit
    -F path= -D docker:x:102: 102 : , Package:a Version: 1.0~-+ Date: 8:17 / \\040 \\777 2147483648 99999999999999999999
    log-opts max-size -1 \ud800 \u2028 \x00""".split()
).map(lambda word: word.encode("utf-8", "surrogatepass"))
PIECES = st.lists(
    st.one_of(WORDS, st.binary(max_size=6), st.sampled_from([b"\n", b"\r\n", b" ", b"\n\n"])), max_size=40
)
BYTES = PIECES.map(b"".join)

KEYS = st.sampled_from(
    [*fixture.DAEMON, "hosts", "tlsverify", "insecure-registries", "registry-mirrors", "storage-opts", "seccomp-profile",
     "cgroup-parent", "experimental", "debug", "iptables", "group", "data-root", "metrics-addr", "tlskey", "bridge", "ICC"]
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8),
        st.sampled_from(["tcp://[", "tcp://0.0.0.0:99999999", "[::1", "10.0.0.0/99", "unix://", "::ffff:1.2.3.4"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["nofile", "Hard", "soft", "max-size", "Name", "Driver", "Options", "Ports", "IP", "PublicPort",
                             "Type", "Labels", "Names", "Id", "Components", "Details", "GitCommit", "Version", "Platform",
                             "LocalNodeState", "Secure", "Authorization", "InsecureRegistryCIDRs", "IndexConfigs",
                             "Mirrors", "DriverStatus", "Name", "x"]),
            inner, max_size=4),
    ),
    max_leaves=12,
)  # fmt: skip

PATHS = [
    fixture.JSON, fixture.UNIT, fixture.SOCKET_UNIT, fixture.DROP_IN, fixture.STACK_UNIT, fixture.RULES, fixture.LIST,
    fixture.RELEASE, "/etc/audit/audit.rules", "/etc/default/docker", "/etc/os-release", "/etc/group", "/etc/passwd",
    "/proc/1/mountinfo", "/proc/sys/kernel/kptr_restrict", "/proc/sys/net/ipv4/conf/all/rp_filter", "/var/lib/dpkg/status",
    "/run/reboot-required.pkgs", "/etc/ufw/ufw.conf", "/sys/module/apparmor/parameters/enabled",
]  # fmt: skip


def judged(host):
    result = host.result()
    assert {state["status"] for state in result["checks_run"]} <= STATES
    json.dumps(result).encode()
    return result


@pytest.mark.parametrize("path", PATHS)
@settings(FUZZ, max_examples=25)
@given(data=BYTES)
def test_any_bytes_in_a_file(path, data):
    host = Host()
    host.files[path] = data
    if path.endswith(".pkgs"):
        host.files["/run/reboot-required"] = ""
    judged(host)


@FUZZ
@given(values=st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_settings(values):
    host = Host()
    host.daemon.update(values)
    judged(host)


@FUZZ
@given(
    path=st.sampled_from(["/info", "/version", "/networks", "/containers/json"]),
    answer=VALUES,
    key=st.sampled_from(
        ["SecurityOptions", "RegistryConfig", "Swarm", "Plugins", "Driver", "DockerRootDir", "Components"]
    ),
)
def test_any_answer_of_the_engine(path, answer, key):
    host = Host()
    host.api[path] = answer
    judged(host)
    host = Host()
    if isinstance(host.api[path], dict):
        host.api[path][key] = answer
    else:
        host.api[path].append(answer)
    judged(host)


@FUZZ
@given(
    words=st.lists(st.one_of(st.text(max_size=6), WORDS.map(lambda word: word.decode("utf-8", "replace"))), max_size=12)
)
def test_any_command_line(words):
    host = Host()
    host.arguments = tuple(words)
    judged(host)


@FUZZ
@given(one=st.text(max_size=12), other=st.text(alphabet="0123456789.~+-:ab", max_size=12))
def test_any_versions_can_be_compared(one, other):
    assert compare(one, other) == -compare(other, one)
    assert compare(other, other) == 0


@FUZZ
@given(text=st.text(max_size=80))
def test_any_rules(text):
    watched: dict[str, str] = {}
    parse("\n".join(["-w /etc/docker", text]), Paths(Host().tree()), watched)
    assert isinstance(filters(text), bool)


HUGE = {
    "deep": b"[" * 500_000 + b"]" * 500_000,
    "deep objects": b'{"a":' * 150_000 + b"1" + b"}" * 150_000,
    "one key many times": b"{" + b",".join([b'"icc": "x"'] * 80_000) + b"}",
    "many misspelt keys": json.dumps({"".join(c.upper() if n >> i & 1 else c for i, c in enumerate("no-new-privileges")): 1
                                      for n in range(30_000)}).encode(),
    "many hosts": json.dumps({"hosts": ["tcp://0.0.0.0:1"] * 40_000}).encode(),
    "one line": b"x" * 1_000_000,
    "many digits": b'{"icc": ' + b"9" * 900_000 + b"}",
    "many quotes": b'"' * 900_000,
}  # fmt: skip


@pytest.mark.parametrize("data", list(HUGE.values()), ids=list(HUGE))
def test_a_megabyte_of_settings_gives_few_complaints(data):
    assert len(data) < 1 << 20
    assert len(parse_file(data).problems) <= 20


def test_a_unit_larger_than_systemd_reads_is_unknown():
    host = Host()
    host.files[fixture.UNIT] = b"[Service]\nExecStart=/usr/sbin/dockerd " + b"-D " * (_unit_files.LIMIT // 3)
    host.arguments = None
    assert status(judged(host), "DMN-03") == "unknown"


def test_a_flag_that_is_repeated_many_times_is_kept_in_one_list():
    """Copying the list for every flag would be work in the square of their number."""
    flags = parse_flags([("-Hfd://", "here")] * 3)
    hosts = flags.values["hosts"][0]
    assert hosts == ["fd://"] * 3
    assert parse_flags([("-Hfd://", "here")] * 60_000).values["hosts"][0] == ["fd://"] * 60_000
