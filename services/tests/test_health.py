# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container's health check, against a server that answers this and that."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

import support


def ask(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcpstack.health", *arguments],
        env={"PYTHONPATH": str(support.ROOT / "src"), **env}, capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 0, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 1, "answered 'HTTP/1.1 503 Service Unavailable', not 200.\n"),
        (b"200 OK\r\n", 1, "answered '200 OK', not 200.\n"),
        (b"", 1, "answered '', not 200.\n"),
    ],
)
@pytest.mark.parametrize("argument", [True, False])
def test_only_a_200_of_the_port_is_healthy(answer: bytes, status: int, said: str, argument: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])

        def serve() -> None:
            connection, _address = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        done = ask(port, GATEWAY_PORT="1") if argument else ask(GATEWAY_PORT=port)
        thread.join(10)
    assert (done.returncode, done.stderr) == (status, f"/health on port {port} {said}" if said else "")


@pytest.mark.parametrize("port", ["", "x", "0", "65536", "-1", "٩٠"])
def test_what_is_no_port_is_named(port: str) -> None:
    done = ask(port)
    assert (done.returncode, done.stderr) == (1, f"{port!r} is not a port.\n")


def test_a_port_on_which_nobody_listens() -> None:
    port = support.free_port()
    done = ask(str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"Port {port} does not answer: ")
