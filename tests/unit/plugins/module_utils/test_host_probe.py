# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who owns the engine's socket: as the kernel has it, also behind socket activation and beside a second engine."""

from __future__ import annotations

import os
import socket

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _host_probe as probe
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._debian_version import (
    compare,
    field,
    installed,
    source_revision,
    stanzas,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError

TCP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(address, inode):
    return f"   0: {address} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0\n"


@pytest.fixture
def listening(tmp_path):
    path = str(tmp_path / "docker.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen(8)
        yield path


@pytest.fixture
def proc(tmp_path):
    """A made-up /proc; ``proc.add`` puts a process in."""

    class Proc:
        root = str(tmp_path / "proc")

        def add(self, pid, comm, argv=(), inodes=(), tcp="", exe="/usr/sbin/dockerd"):
            folder = tmp_path / "proc" / str(pid)
            (folder / "fd").mkdir(parents=True)
            (folder / "net").mkdir()
            (folder / "comm").write_text(f"{comm}\n")
            (folder / "cmdline").write_bytes(b"\0".join(word.encode() for word in argv) + b"\0")
            (folder / "net" / "tcp").write_text(TCP + tcp)
            (folder / "net" / "tcp6").write_text(TCP)
            for number, inode in enumerate(inodes):
                (folder / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
            (folder / "fd" / "99").symlink_to("/dev/null")
            (folder / "exe").symlink_to(exe)

        def unix(self, *rows):
            (tmp_path / "proc" / "net").mkdir(parents=True, exist_ok=True)
            lines = [f"0000: 00000002 00000000 00010000 0001 01 {inode} {path}\n" for inode, path in rows]
            (tmp_path / "proc" / "net" / "unix").write_text(
                "Num RefCount Protocol Flags Type St Inode Path\n" + "".join(lines)
            )

    return Proc()


def test_the_kernel_names_who_listens(listening, proc):
    assert probe.peer_pid(listening) == os.getpid()
    proc.add(os.getpid(), "dockerd", ["dockerd", "-H", "unix:///x"])
    proc.add(1, "dockerd", ["dockerd", "--debug"])
    daemon, problem = probe.find_daemon(listening, proc.root)
    assert problem == ""
    assert (daemon.pid, daemon.args, daemon.replaced) == (os.getpid(), ("-H", "unix:///x"), False)


def test_behind_socket_activation_it_is_the_dockerd_that_holds_the_socket(listening, proc):
    """systemd called listen(); the newest dockerd is somebody else's, and docker-proxy is none."""
    proc.add(os.getpid(), "systemd", ["/sbin/init"], [7])
    proc.add(11, "dockerd", ["/usr/sbin/dockerd", "-H", "fd://"], [7, 8, 9], row("00000000:0947", 8))
    proc.add(99999, "dockerd", ["dockerd", "--debug"], [5])
    proc.add(12, "docker-proxy", ["docker-proxy"], [7])
    proc.unix((7, listening), (5, "/other.sock"))
    daemon, _problem = probe.find_daemon(listening, proc.root)
    assert (daemon.pid, daemon.args) == (11, ("-H", "fd://"))
    assert daemon.listening == (("0.0.0.0", 2375),)


def test_a_program_that_was_replaced(listening, proc):
    proc.add(os.getpid(), "dockerd", ["dockerd"], exe="/usr/sbin/dockerd (deleted)")
    daemon, _problem = probe.find_daemon(listening, proc.root)
    assert daemon.replaced is True
    assert daemon.args == ()


@pytest.mark.parametrize("inodes", [(), (7,)])
def test_what_cannot_be_told_is_not_guessed(listening, proc, inodes):
    proc.add(os.getpid(), "systemd")
    proc.add(11, "dockerd", inodes=inodes)
    proc.add(12, "dockerd", inodes=inodes)
    proc.unix((7, listening))
    daemon, problem = probe.find_daemon(listening, proc.root)
    assert daemon is None
    assert problem == f"it cannot be told which process serves {listening} ({2 if inodes else 0} of them hold it)"


def test_nobody_answers(tmp_path):
    daemon, problem = probe.find_daemon(str(tmp_path / "none.sock"))
    assert (daemon, problem) == (None, f"nobody answers on {tmp_path}/none.sock")
    assert probe.peer_pid("x" * 500) == 0


def test_answers_keep_the_reason():
    class Engine:
        def get(self, path):
            if path == "/info":
                raise EngineError("refused")
            return []

    answers = probe.Answers(Engine())
    assert answers.get("/info", dict) is None
    assert answers.reason("/info") == "the engine did not answer /info: refused"
    assert answers.get("/version", dict) is None
    assert answers.reason("/version") == "the engine did not answer /version: the answer is no dict"
    assert probe.Answers(None).get("/info", dict) is None


ORDER = [
    "1.0~~", "1.0~~a", "1.0~", "1.0~rc1-1", "1.0", "1.0-1", "1.0-1+b4", "1.0-1+deb13u1", "1.0-1.1", "1.0a-1", "1.0+ds1-2",
    "1.0.1", "1.2", "1.10", "2", "1:0.1",
]  # fmt: skip


def test_versions_sort_as_dpkg_sorts_them():
    for index, one in enumerate(ORDER):
        for other in ORDER[index + 1 :]:
            assert (compare(one, other), compare(other, one)) == (-1, 1), (one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("1.0", "1.0-0"), ("1.00", "1.0"), ("0:1", "1"), ("1.0-1", "1.0-01"), ("", "0")]
)
def test_versions_that_are_the_same(one, other):
    assert compare(one, other) == 0


def test_a_rebuild_is_no_new_source():
    assert source_revision("1.1.15+ds1-2+b4") == "1.1.15+ds1-2"
    assert source_revision("1.1.15+ds1-2+deb13u1") == "1.1.15+ds1-2+deb13u1"


def test_paragraphs_are_found_by_name():
    data = b"Package: a\nVersion: 1\n\nVersion: 9\nPackage: b\n\nX: y\n\nPackage: a\r\nVersion: 2\r\n"
    found = stanzas(data)
    assert {name: [field(entry, "Version") for entry in entries] for name, entries in found.items()} == {
        "a": ["1", "2"],
        "b": [""],
    }
    assert set(stanzas(data, ["b", "c"])) == {"b"}
    assert installed(MemoryFiles({})) is None
