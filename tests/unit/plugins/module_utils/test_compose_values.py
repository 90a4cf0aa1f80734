# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of a service in every spelling Compose allows: one meaning, and never an error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_values import (
    Dependency,
    Grant,
    Limits,
    Logging,
    Mount,
    Port,
    Ulimit,
)


@pytest.mark.parametrize(
    ("entry", "ports"),
    [
        (80, [Port("", "", 80)]),
        ("80", [Port("", "", 80)]),
        ("8080:80", [Port("", "8080", 80)]),
        ("8080:80/udp", [Port("", "8080", 80, "udp")]),
        ("8080:80/UDP", [Port("", "8080", 80, "udp")]),
        ("127.0.0.1:8080:80", [Port("127.0.0.1", "8080", 80)]),
        ("127.0.0.1::80", [Port("127.0.0.1", "", 80)]),
        ("[::1]:8080:80", [Port("::1", "8080", 80)]),
        ("[::]:8080:80", [Port("::", "8080", 80)]),
        ("0.0.0.0:80:80", [Port("0.0.0.0", "80", 80)]),
        ("8000-8001:9000-9001", [Port("", "8000", 9000), Port("", "8001", 9001)]),
        ("8000-8005:80", [Port("", "8000-8005", 80)]),
        ("9000-9001", [Port("", "", 9000), Port("", "", 9001)]),
        ({"target": 80}, [Port("", "", 80)]),
        ({"target": "80", "published": 8080, "mode": "host"}, [Port("", "8080", 80, "tcp", "host")]),
        ({"target": 80, "published": "1-5", "host_ip": "::1", "protocol": "UDP"}, [Port("::1", "1-5", 80, "udp")]),
        ("::1:80:80", []),
        ("a:80", []),
        ("1.2.3:80:80", []),
        ("80:70000", []),
        ("5-4", []),
        ("1-3:1-2", []),
        ("80/icmp", []),
        ("", []),
        ("fe80::1%eth0:80:80", []),
        ({"published": 80}, []),
        (None, []),
        (True, []),
        ([], []),
    ],
)
def test_ports(entry, ports):
    assert values.ports({"ports": [entry]}) == ports


def test_an_index_leads_back_to_the_entry():
    assert [port.index for port in values.ports({"ports": ["1-2", "bad", {"target": 5}]})] == [0, 0, 2]
    assert [(mount.key, mount.index) for mount in values.volumes({"volumes": ["", "/a"], "tmpfs": ["/b", "/c"]})] == [
        ("volumes", 1),
        ("tmpfs", 0),
        ("tmpfs", 1),
    ]


BIND = {"create_host_path": True}


@pytest.mark.parametrize(
    ("entry", "mount"),
    [
        ("/data", Mount("volume", "", "/data")),
        ("data:/data", Mount("volume", "data", "/data")),
        ("data:/data:ro", Mount("volume", "data", "/data", True)),
        ("data:/data:rw,nocopy", Mount("volume", "data", "/data", False, "", {"nocopy": True})),
        ("./d:/data/../x/", Mount("bind", "./d", "/x", False, "", BIND)),
        ("/:/host:ro,rslave", Mount("bind", "/", "/host", True, "rslave", BIND)),
        ("~/.ssh:/s:z", Mount("bind", "~/.ssh", "/s", False, "", {**BIND, "selinux": "z"})),
        ("C:\\x:/x", Mount("bind", "C:\\x", "/x", False, "", BIND)),
        ("d:/x", Mount("volume", "", "d:/x")),
        (
            {"type": "bind", "source": "/a", "target": "/b/", "read_only": "yes", "bind": {"propagation": "shared"}},
            Mount("bind", "/a", "/b", True, "shared"),
        ),
        (
            {"type": "tmpfs", "target": "/t", "tmpfs": {"size": "1m", "mode": 1777}},
            Mount("tmpfs", "", "/t", False, "", {"size": "1m", "mode": 1777}),
        ),
        (
            {
                "type": "volume",
                "source": "v",
                "target": "/v",
                "volume": {"subpath": "s", "x-a": 1},
                "consistency": "cached",
            },
            Mount("volume", "v", "/v", False, "", {"subpath": "s", "consistency": "cached"}),
        ),
    ],
)
def test_volumes(entry, mount):
    assert values.volumes({"volumes": [entry]}) == [mount]


@pytest.mark.parametrize("entry", ["", "aa::b", "aa:bb:cc:dd", ":/x", {"type": "bind"}, None, 5, ["x"]])
def test_what_is_no_mount(entry):
    assert values.volumes({"volumes": [entry]}) == []


def test_tmpfs_in_both_spellings():
    expected = [Mount("tmpfs", "", "/t", True, "", {"ro": True, "size": "64m", "noexec": True}, 0, "tmpfs")]
    assert values.volumes({"tmpfs": "/t:ro,size=64m,noexec"}) == expected
    assert values.volumes({"tmpfs": ["/t:ro,size=64m,noexec"]}) == expected


@pytest.mark.parametrize(
    "written",
    [
        {"A": 1, "B": None, "C": True, "D": 1.5, "E": "x=y", "F": 1e6, "G": ""},
        ["A=1", "B", "C=true", "D=1.5", "E=x=y", "F=1e+06", "G="],
    ],
)
def test_environment(written):
    expected = {"A": "1", "B": None, "C": "true", "D": "1.5", "E": "x=y", "F": "1e+06", "G": ""}
    assert values.environment({"environment": written}) == expected
    assert values.labels({"labels": written}) == {**expected, "B": ""}


@pytest.mark.parametrize(
    ("service", "limits"),
    [
        ({}, Limits()),
        ({"mem_limit": "512m"}, Limits(memory=512 << 20, memory_key=("mem_limit",))),
        ({"mem_limit": 1000}, Limits(memory=1000, memory_key=("mem_limit",))),
        ({"mem_limit": 1e9}, Limits()),  # Compose reads no float here, and sets no limit
        ({"mem_limit": 0}, Limits()),
        ({"mem_limit": -1}, Limits(memory=-1, memory_key=("mem_limit",))),
        (
            {"mem_limit": "1g", "deploy": {"resources": {"limits": {"memory": "2g"}}}},
            Limits(memory=2 << 30, memory_key=("deploy", "resources", "limits", "memory")),
        ),
        ({"deploy": {"resources": {"limits": {"cpus": "0.5"}}}}, Limits(cpus=0.5, cpus_key=("deploy", "resources", "limits", "cpus"))),
        ({"cpus": 2}, Limits(cpus=2.0, cpus_key=("cpus",))),
        ({"pids_limit": -1}, Limits(pids=-1, pids_key=("pids_limit",))),
        ({"pids_limit": 0}, Limits()),
        ({"pids_limit": 5, "deploy": {"resources": {"limits": {"pids": -1}}}}, Limits(pids=5, pids_key=("pids_limit",))),
        ({"memswap_limit": -1, "mem_reservation": "1m"}, Limits(swap=-1, reservation=1 << 20)),
        ({"cpu_quota": "50000", "cpu_period": 100000, "cpu_shares": 5, "cpuset": "0-1"},
         Limits(cpu_quota=50000, cpu_period=100000, cpu_shares=5, cpuset="0-1")),
        ({"deploy": None, "cpus": "x", "mem_limit": "lots"}, Limits()),
    ],
)  # fmt: skip
def test_limits(service, limits):
    assert values.limits(service) == limits


def test_depends_on():
    assert values.depends_on({"depends_on": ["b", "a"]}) == [Dependency("a"), Dependency("b")]
    long_form = {"depends_on": {"a": {"condition": "service_healthy", "required": False, "restart": True}}}
    assert values.depends_on(long_form) == [Dependency("a", "service_healthy", False, True)]
    implied = {"links": ["a:alias"], "volumes_from": ["b:ro", "container:x"], "pid": "service:c", "ipc": "host"}
    assert values.depends_on(implied) == []
    assert [(item.service, item.key) for item in values.depends_on(implied, implied=True)] == [
        ("a", "links"),
        ("b", "volumes_from"),
        ("c", "pid"),
    ]


def test_secrets_and_configs():
    written = [
        "s",
        {"source": "t", "target": "x", "mode": 0o400},
        {"source": "u", "target": "/abs", "uid": "1"},
        {"target": "y"},
    ]
    assert values.secrets({"secrets": written}) == [
        Grant("s", "/run/secrets/s"),
        Grant("t", "/run/secrets/x", mode=0o400, index=1),
        Grant("u", "/abs", "1", index=2),
    ]
    assert [grant.target for grant in values.configs({"configs": written})] == ["/s", "/x", "/abs"]


def test_networks():
    assert values.networks({}) == {"default": {}}
    assert values.networks({"networks": {}}) == {"default": {}}
    assert values.networks({"network_mode": "host"}) == {}
    assert values.networks({"networks": ["a"]}) == {"a": {}}
    assert values.networks({"networks": {"a": None, "b": {"priority": 1}}}) == {"a": {}, "b": {"priority": 1}}


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (None, None),
        ("", []),
        ([], []),
        ("a b", ["a", "b"]),
        ("a 'b c' \"d e\" f\\ g ''", ["a", "b c", "d e", "f g", ""]),
        ("a && b", ["a"]),  # Compose stops where a shell would go on
        ("echo x 2>err", ["echo", "x"]),
        ("$(x y) z", ["$(x y)", "z"]),
        ("`x y`", ["`x y`"]),
        ("'open", None),
        ("a (b)", None),
        (["a b", "c"], ["a b", "c"]),
    ],
)
def test_command(written, words):
    assert values.command({"command": written}) == words
    assert values.command({"entrypoint": written}, "entrypoint") == words


def test_security_opt():
    written = [
        "no-new-privileges",
        "no-new-privileges:true",
        "no-new-privileges=false",
        "seccomp=unconfined",
        "label:type:x",
    ]
    assert values.security_opt({"security_opt": written}) == [
        ("no-new-privileges", "", 0),
        ("no-new-privileges", "true", 1),
        ("no-new-privileges", "false", 2),
        ("seccomp", "unconfined", 3),
        ("label", "type:x", 4),
    ]


def test_ulimits():
    assert values.ulimits(
        {"ulimits": {"nofile": "5", "nproc": {"soft": 1, "hard": -1}, "core": {"soft": 1}, "x": None}}
    ) == {
        "nofile": Ulimit(5, 5),
        "nproc": Ulimit(1, -1),
    }


def test_logging():
    assert values.logging({}) == Logging()
    assert values.logging({"logging": {"options": {"max-file": 3, "a": None}}}) == Logging(
        "", {"max-file": "3", "a": ""}
    )


@pytest.mark.parametrize(
    ("written", "test", "disabled"),
    [
        ({"test": "curl x"}, ("CMD-SHELL", "curl x"), False),
        ({"test": ["CMD", "x"]}, ("CMD", "x"), False),
        ({"test": ["NONE"]}, ("NONE",), True),
        ({"test": "NONE"}, ("CMD-SHELL", "NONE"), False),
        ({"disable": "yes"}, (), True),
        ({"interval": "5s"}, (), False),
    ],
)
def test_healthcheck(written, test, disabled):
    found = values.healthcheck({"healthcheck": written})
    assert (found.test, found.disabled) == (test, disabled)


def test_healthcheck_numbers():
    found = values.healthcheck(
        {"healthcheck": {"interval": "1m30s", "timeout": "100ms", "retries": "3", "start_period": "x"}}
    )
    assert (found.interval, found.timeout, found.retries, found.start_period) == (90.0, 0.1, 3, None)
    assert values.healthcheck({}) is None


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("512m", 512 << 20),
        ("1.5 GB", 3 << 29),
        ("5kib", 5120),
        ("0", 0),
        (7, 7),
        (1e9, None),
        ("-1", None),
        ("m", None),
        (None, None),
    ],
)
def test_size(written, found):
    assert values.size(written) == found


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("1h2m3.5s", 3723.5),
        ("0", 0.0),
        ("-5s", -5.0),
        (".5s", 0.5),
        ("10", None),
        ("", None),
        ("5 s", None),
        (5, None),
        ("1d", None),
    ],
)
def test_duration(written, found):
    assert values.duration(written) == found


@pytest.mark.parametrize(
    ("written", "found"),
    [(True, True), ("Yes", True), ("on", True), ("n", False), ("FALSE", False), ("1", None), (1, None), (None, None)],
)
def test_flag(written, found):
    assert values.flag(written) is found


@pytest.mark.parametrize(
    ("written", "found"),
    [(1e5, "100000"), (1e6, "1e+06"), (1.5, "1.5"), (0.0001, "0.0001"), (0.00001, "1e-05"), (-1234567.5, "-1.2345675e+06"),
     (0.0, "0"), (-0.0, "-0"), (1e21, "1e+21"), (True, "true"), (5, "5"), ("x", "x")],
)  # fmt: skip
def test_text(written, found):
    assert values.text(written) == found


def test_replicas_devices_and_hosts():
    assert [values.replicas(item) for item in ({}, {"scale": "3"}, {"deploy": {"replicas": 0}})] == [1, 3, 0]
    written = ["/dev/a", "/dev/a:/dev/b:r", {"source": "/dev/c"}, "a:b:c:d", None]
    assert values.devices({"devices": written}) == [
        ("/dev/a", "/dev/a", "rwm", 0),
        ("/dev/a", "/dev/b", "r", 1),
        ("/dev/c", "/dev/c", "rwm", 2),
    ]
    expected = {"a": ["1.1.1.1"], "b": ["::1"]}
    assert values.extra_hosts({"extra_hosts": {"a": "1.1.1.1", "b": ["[::1]"]}}) == expected
    assert values.extra_hosts({"extra_hosts": ["a:1.1.1.1", "b=[::1]"]}) == expected


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
READERS = (
    values.ports, values.volumes, values.environment, values.labels, values.limits, values.depends_on, values.secrets,
    values.configs, values.networks, values.command, values.security_opt, values.ulimits, values.logging, values.healthcheck,
    values.replicas, values.devices, values.extra_hosts,
)  # fmt: skip
KEYS = (
    "ports", "volumes", "tmpfs", "environment", "labels", "deploy", "mem_limit", "cpus", "pids_limit", "depends_on", "secrets",
    "configs", "networks", "command", "security_opt", "ulimits", "logging", "healthcheck", "scale", "devices", "extra_hosts",
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=5))
def test_anything_gives_an_answer(service):
    for read in READERS:
        read(service)
    values.depends_on(service, implied=True)
    for value in service.values():
        values.size(value), values.duration(value), values.flag(value), values.number(value)
