# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small client for Valkey and Redis: one connection, a few questions. PRIVATE: may change in any release.

Standard library only. RESP2 over TCP, TLS or a unix socket. What answers may be anything: sizes, nesting and time are
bounded. A password is sent, and stands in no error.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable

MOST_BYTES, MOST_ITEMS, DEEPEST = 1 << 22, 100_000, 8


class ClientError(Exception):
    """There is no conversation: no connection, no TLS, or no RESP."""


class Refused(Exception):
    """The server answered with an error; ``code`` is its first word."""

    def __init__(self, text: str):
        super().__init__(text)
        self.code = text.split(" ", 1)[0]


class Client:
    """A connection. Raises ClientError where none can be had."""

    def __init__(
        self,
        host: str = "",
        port: int = 6379,
        unix_socket: str = "",
        context: ssl.SSLContext | None = None,
        server_name: str = "",
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._data, self._clock, self._timeout, self._read = b"", clock, timeout, 0
        self._deadline = clock() + timeout
        where = unix_socket or f"{host}:{port}"
        sock = None
        try:
            if unix_socket:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(timeout)
                sock.connect(unix_socket)
            else:
                sock = socket.create_connection((host, port), timeout)
            self._sock = context.wrap_socket(sock, server_hostname=server_name or host) if context else sock
        except (OSError, ValueError) as error:
            if sock is not None:
                sock.close()
            why = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
            raise ClientError(f"no connection to {where}: {why}") from error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc) -> None:
        self._sock.close()

    def ask(self, *words: str) -> object:
        """One command and its answer: text, a number, None or a list. Raises Refused and ClientError."""
        self._deadline, self._read = self._clock() + self._timeout, 0
        parts = [f"*{len(words)}\r\n".encode()]
        for word in words:
            raw = word.encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(raw), raw))
        try:
            self._sock.settimeout(self._timeout)
            self._sock.sendall(b"".join(parts))
        except OSError as error:
            raise ClientError("it closed the connection") from error
        answer = self._value(0)
        if isinstance(answer, Refused):
            raise answer
        return answer

    def _more(self) -> None:
        left = self._deadline - self._clock()
        if left <= 0:
            raise ClientError(f"it does not come to an end in {self._timeout:g} seconds")
        try:
            self._sock.settimeout(left)
            data = self._sock.recv(1 << 16)
        except OSError as error:
            raise ClientError(f"it does not answer: {getattr(error, 'strerror', None) or error}") from error
        if not data:
            raise ClientError("it closed the connection")
        self._read += len(data)
        if self._read > MOST_BYTES:
            raise ClientError(f"it answers with more than {MOST_BYTES} bytes")
        self._data += data

    def _line(self) -> bytes:
        while b"\r\n" not in self._data:
            if len(self._data) > 1 << 16:
                raise ClientError("what answers does not speak RESP")
            self._more()
        line, self._data = self._data.split(b"\r\n", 1)
        return line

    def _value(self, depth: int) -> object:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode("utf-8", "replace")
        if kind == b"-":
            return Refused(rest.decode("utf-8", "replace")[:200])
        try:
            number = int(rest)
        except ValueError:
            raise ClientError("what answers does not speak RESP") from None
        if kind == b":":
            return number
        if kind == b"$" and number <= MOST_BYTES:
            if number < 0:
                return None
            while len(self._data) < number + 2:
                self._more()
            text, self._data = self._data[:number], self._data[number + 2 :]
            return text.decode("utf-8", "replace")
        if kind == b"*" and number <= MOST_ITEMS and depth < DEEPEST:
            return None if number < 0 else [self._value(depth + 1) for _item in range(number)]
        raise ClientError("what answers does not speak RESP")
