# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real login to PostgreSQL over TCP, TLS and SCRAM, in nothing but the standard library. PRIVATE, may change at any time.

It exists to prove that a secret works: the way a consumer will use it, with the server's certificate verified against
the platform's CA and its name, and without a password on a command line, in an environment or in a file.
"""

from __future__ import annotations

import socket
import ssl
import struct

from ansible_collections.mcpstack.platform.plugins.module_utils._postgres_scram import Client, ScramError

_SSL_REQUEST = 80877103
_PROTOCOL_3 = 196608
_MAX_MESSAGE = 1 << 20


class LoginError(Exception):
    """The login failed; ``sqlstate`` is the server's own code where the server said no."""

    def __init__(self, message: str, sqlstate: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class _Wire:
    """Messages over one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.sock.recv(size - len(data))
            if not chunk:
                raise LoginError("the server closed the connection")
            data += chunk
        return data

    def receive(self) -> tuple[bytes, bytes]:
        """The next message that is not a notice; an error message is raised."""
        while True:
            kind, size = struct.unpack("!cI", self.exactly(5))
            if not 4 <= size <= _MAX_MESSAGE:
                raise LoginError("what answers is not a PostgreSQL server")
            body = self.exactly(size - 4)
            if kind == b"E":
                fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}
                raise LoginError(fields.get(b"M", "the server gave no reason"), fields.get(b"C", ""))
            if kind not in (b"N", b"S"):
                return kind, body

    def send(self, kind: bytes, body: bytes) -> None:
        self.sock.sendall(kind + struct.pack("!I", len(body) + 4) + body)


def _authenticate(wire: _Wire, password: str) -> None:
    client = Client(password)
    proved = False
    while True:
        kind, body = wire.receive()
        if kind != b"R" or len(body) < 4:
            raise LoginError("what answers is not a PostgreSQL server")
        method, rest = struct.unpack("!I", body[:4])[0], body[4:]
        if method == 0:
            if not proved:
                raise LoginError("the server lets this login in without asking for the password")
            return
        if method == 10:
            if b"SCRAM-SHA-256" not in rest.split(b"\0"):
                raise LoginError("the server does not offer SCRAM-SHA-256")
            first = client.first().encode()
            wire.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first)
        elif method == 11:
            wire.send(b"p", client.final(rest.decode()).encode())
        elif method == 12:
            client.check(rest.decode())
            proved = True
        else:
            raise LoginError(f"the server asks for authentication method {method} instead of SCRAM-SHA-256")


def _query(wire: _Wire, sql: str) -> list[str | None]:
    """Run one statement and return its first row."""
    wire.send(b"Q", sql.encode() + b"\0")
    row: list[str | None] = []
    while True:
        kind, body = wire.receive()
        if kind == b"D" and not row:
            position = 2
            for _column in range(struct.unpack("!H", body[:2])[0]):
                (size,) = struct.unpack("!i", body[position : position + 4])
                position += 4
                row.append(None if size < 0 else body[position : position + size].decode())
                position += max(size, 0)
        if kind == b"Z":
            return row


def login(
    address: str,
    *,
    user: str,
    password: str,
    database: str,
    ca_file: str,
    server_name: str = "postgres",
    port: int = 5432,
    timeout: float = 10,
    sql: str = "select session_user, current_user",
) -> list[str | None]:
    """Log in, run one statement and return its first row; raise LoginError with the reason otherwise."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    except (OSError, ssl.SSLError) as exc:
        raise LoginError(f"the CA certificate {ca_file} cannot be read ({exc})") from exc
    try:
        with socket.create_connection((address, port), timeout) as plain:
            plain.sendall(struct.pack("!II", 8, _SSL_REQUEST))
            if _Wire(plain).exactly(1) != b"S":
                raise LoginError("the server does not speak TLS")
            with context.wrap_socket(plain, server_hostname=server_name) as sock:
                wire = _Wire(sock)
                startup = struct.pack("!I", _PROTOCOL_3)
                startup += b"".join(
                    part.encode() + b"\0"
                    for part in ("user", user, "database", database, "application_name", "mcpstack-login-test")
                )
                wire.send(b"", startup + b"\0")
                _authenticate(wire, password)
                while wire.receive()[0] != b"Z":
                    pass
                row = _query(wire, sql)
                wire.send(b"X", b"")
                return row
    except ssl.SSLCertVerificationError as exc:
        raise LoginError(f"the server's certificate is refused: {exc.verify_message}") from exc
    except (OSError, ssl.SSLError) as exc:
        raise LoginError(f"no connection to {address}:{port} ({exc})") from exc
    except (ScramError, UnicodeDecodeError, struct.error) as exc:
        raise LoginError(str(exc)) from exc
