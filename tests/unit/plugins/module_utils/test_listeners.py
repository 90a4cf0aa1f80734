# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Listeners are found in a made-up /proc and held against what was declared."""

from __future__ import annotations

import os
import socket

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _listeners as core

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
EDGE_ID, DATA_ID, OTHER_ID = "a" * 64, "b" * 64, "c" * 64


def line(local, state="0A", remote="00000000:0000", uid=0, inode=0):
    return f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 {uid:5d}        0 {inode} 1 0000 100 0 0 10 0\n"


@pytest.fixture
def proc(tmp_path):
    """make(tables, processes) -> a directory like /proc."""

    def make(tables, processes=()):
        net = tmp_path / "1" / "net"
        net.mkdir(parents=True)
        for name, lines in tables.items():
            (net / name).write_text(HEAD + "".join(lines))
        for pid, name, uid, cgroup, inodes in processes:
            fd = tmp_path / str(pid) / "fd"
            fd.mkdir(parents=True)
            (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
            (tmp_path / str(pid) / "status").write_text(f"Name:\t{name}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
            (tmp_path / str(pid) / "cgroup").write_text(f"0::{cgroup}\n")
            os.symlink("/dev/null", fd / "0")
            for number, inode in enumerate(inodes):
                os.symlink(f"socket:[{inode}]", fd / str(number + 3))
        return str(tmp_path)

    return make


def container(identity, name, project="mcpstack", *ports):
    return {
        "Id": identity,
        "Names": [f"/{name}"],
        "Labels": {"com.docker.compose.project": project} if project else None,
        "Ports": [{"IP": ip, "PrivatePort": 1, "PublicPort": port, "Type": kind} for ip, port, kind in ports],
    }


def sock(port, owner="sshd", uid=0, address="0.0.0.0", protocol="tcp", container_id=None, kernel=False, pid=10):
    return {
        "protocol": protocol, "address": address, "port": port, "pid": pid if owner else None, "process": owner, "uid": uid,
        "container_id": container_id, "kernel": kernel,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "0.0.0.0"),
        ("0A01A8C0", "192.168.1.10"),
        ("00000000000000000000000000000000", "::"),
        ("00000000000000000000000001000000", "::1"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
        ("B80D0120000000000000000001000000", "2001:db8::1"),
    ],
)
def test_addresses(text, address):
    assert str(core.parse_address(text)) == address


def test_only_listening_sockets_beyond_loopback(proc):
    root = proc(
        {
            "tcp": [
                line("00000000:0016", inode=1),
                line("0100007F:0019", inode=2),
                line("00000000:01BB", state="01", remote="0A01A8C0:CAFE", inode=3),
            ],
            "tcp6": [line("00000000000000000000000000000000:0050", remote="0" * 32 + ":0000", inode=4)],
            "udp": [line("00000000:0035", "07", inode=5), line("00000000:1234", "07", "0A01A8C0:0035", inode=6), line("00000000:9999", "01", inode=7)],
        },
        [(50, "sshd", 0, "/system.slice/ssh.service", [1]), (60, "nginx", 64101, f"/docker/{EDGE_ID}", [4, 99])],
    )  # fmt: skip
    assert core.sockets(root) == [
        sock(22, "sshd", pid=50),
        sock(80, "nginx", 64101, "::", container_id=EDGE_ID, pid=60),
        sock(53, None, protocol="udp"),
    ]


def test_kernel_sockets_are_told_from_lost_ones(proc):
    root = proc({"udp": [line("00000000:CA6C", "07", inode=0), line("00000000:CA6D", "07", inode=8)]})
    assert [item["kernel"] for item in core.sockets(root)] == [True, False]


def test_tables_that_cannot_be_read(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(core.ListenersError, match=r"1/net/tcp cannot be read\. Run this as root on the target\."):
        core.sockets(str(tmp_path))


def test_this_machine():
    """The real /proc: a socket this test opens is found, with this process."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        found = [item for item in core.sockets() if item["port"] == server.getsockname()[1]]
    assert [(item["pid"], item["uid"], item["protocol"]) for item in found] == [(os.getpid(), os.geteuid(), "tcp")]


EDGE = container(EDGE_ID, "mcpstack-edge-1", "mcpstack", ("0.0.0.0", 443, "tcp"))
NAKED = container(DATA_ID, "mcpstack-postgres-1", "mcpstack", ("0.0.0.0", 5432, "tcp"))
QUIET = container(DATA_ID, "mcpstack-postgres-1", "mcpstack", ("127.0.0.1", 5432, "tcp"))
OTHER = container(OTHER_ID, "blog", None, ("0.0.0.0", 8000, "tcp"))
HTTPS = [{"port": 443}]

CASES = [
    ("edge by docker-proxy", [sock(443, "docker-proxy")], [EDGE], HTTPS, ["stack"], []),
    ("edge by dockerd without proxy", [sock(443, "dockerd")], [EDGE], HTTPS, ["stack"], []),
    ("edge by firewall only", [], [EDGE], HTTPS, [], []),
    ("ssh is information", [sock(22), sock(443, "dockerd")], [EDGE], HTTPS, ["foreign", "stack"], []),
    ("a container of somebody else", [sock(8000, "docker-proxy"), sock(443, "dockerd")], [EDGE, OTHER], HTTPS, ["foreign", "stack"], []),
    ("loopback publish", [sock(443, "dockerd")], [EDGE, QUIET], HTTPS, ["stack"], []),
    ("kernel service", [sock(2049, None, kernel=True), sock(443, "dockerd")], [EDGE], HTTPS, ["foreign", "stack"], []),
    (
        "database published, socket seen", [sock(5432, "docker-proxy"), sock(443, "dockerd")], [EDGE, NAKED], HTTPS, ["stack", "stack"],
        ["0.0.0.0:5432/tcp: mcpstack-postgres-1 of the platform listens beyond loopback and was not declared"],
    ),
    (
        "database published, firewall only", [], [EDGE, NAKED], HTTPS, [],
        ["0.0.0.0:5432/tcp: mcpstack-postgres-1 of the platform publishes this port and it was not declared"],
    ),
    (
        "host network container", [sock(9000, "python", container_id=EDGE_ID), sock(443, "dockerd")], [EDGE], HTTPS, ["stack", "stack"],
        ["0.0.0.0:9000/tcp: python (pid 10) of the platform listens beyond loopback and was not declared"],
    ),
    (
        "service uid outside a known container", [sock(9000, "python", 64102, "::"), sock(443, "dockerd")], [EDGE], HTTPS,
        ["stack", "stack"], ["[::]:9000/tcp: python (pid 10) of the platform listens beyond loopback and was not declared"],
    ),
    (
        "udp is not tcp", [sock(443, "python", 64102, protocol="udp"), sock(443, "dockerd")], [EDGE], HTTPS, ["stack", "stack"],
        ["0.0.0.0:443/udp: python (pid 10) of the platform listens beyond loopback and was not declared"],
    ),
    (
        "other address than declared", [sock(443, "dockerd")], [EDGE], [{"port": 443, "address": "192.0.2.1"}], ["stack"],
        ["0.0.0.0:443/tcp: mcpstack-edge-1 of the platform listens beyond loopback and was not declared"],
    ),
    (
        "engine's own API", [sock(2375, "dockerd"), sock(443, "dockerd")], [EDGE], HTTPS, ["engine", "stack"],
        ["0.0.0.0:2375/tcp: dockerd (pid 10) serves the engine itself to the network, which gives root to whoever can reach it"],
    ),
    (
        "process not found", [sock(7000, None), sock(443, "dockerd")], [EDGE], HTTPS, ["unknown", "stack"],
        ["0.0.0.0:7000/tcp: it cannot be told which process listens here, so it may be the platform's"],
    ),
    (
        "port taken by another program", [sock(443, "apache2", 33)], [], HTTPS, ["foreign"],
        ["0.0.0.0:443/tcp: apache2 (pid 10) holds a port that the platform declares as its own"],
    ),
    ("nothing listens", [], [], HTTPS, [], ["443/tcp: is declared, but nothing of the platform listens there"]),
    ("no engine", [sock(22)], None, HTTPS, ["foreign"], ["443/tcp: is declared, but nothing of the platform listens there"]),
    ("declared on loopback is not looked at", [], [], [{"port": 443, "address": "127.0.0.1"}], [], []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "containers", "declared", "owners", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_check(found, containers, declared, owners, expected):
    listeners, problems = core.check(found, containers, declared, "mcpstack")
    assert [item["owner"] for item in listeners] == owners
    assert [f"{p['where']}: {p['what']}" for p in problems] == expected
    assert all(p["fix"] for p in problems)
    assert core.describe(problems).count("Fix: ") == len(problems)
