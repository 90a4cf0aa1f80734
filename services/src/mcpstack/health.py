# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The container's health check: does the service in this container answer?

    python -m mcpstack.health [PORT]

A check runs every few seconds for ever, so this module imports nothing but sockets: it asks /health on
loopback and exits 0 on a 200, 1 on anything else. Without a port it is the gateway's.
"""

import os
import socket
import sys
from collections.abc import Sequence


def probe(port: int, timeout: float = 2.0) -> str | None:
    """Return None when healthy, else one sentence saying what is wrong."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
            sock.settimeout(timeout)
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while b"\r\n" not in answer and len(answer) < 4096:
                piece = sock.recv(1024)
                if not piece:
                    break
                answer += piece
    except OSError as error:
        return f"Port {port} does not answer: {error}."
    status = answer.split(b"\r\n", 1)[0]
    if status.split(b" ")[1:2] != [b"200"]:
        return f"/health on port {port} answered {status[:80].decode('ascii', 'replace')!r}, not 200."
    return None


def main(argv: Sequence[str] = ()) -> int:
    port = argv[0] if argv else os.environ.get("GATEWAY_PORT", "8000")
    usable = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    problem = probe(int(port)) if usable else f"{port!r} is not a port."
    if problem:
        sys.stderr.write(problem + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
