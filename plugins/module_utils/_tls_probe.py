# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a TLS server what it accepts, one connection for each question. PRIVATE: may change in any release.

The hellos are built here, byte by byte, so that the answers do not depend on what the OpenSSL of this machine can or may
speak: a modern library would never learn that a server accepts SSL 3.0, export suites or 512-bit Diffie-Hellman. Only
the first flight of the server is read; no handshake is finished (_tls_session does that), and no secret is involved.

Whatever answers is hostile until it has answered: sizes are bounded, each connection has a deadline, and all of them
together have one.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_suites as names

#: How an attempt ended. Only the first three say something about the server.
HELLO, ALERT, CLOSED = "hello", "alert", "closed"
PLAIN, GARBAGE, SILENT, UNREACHABLE = "plain", "garbage", "silent", "unreachable"
ANSWERED = (HELLO, ALERT, CLOSED)

#: Most bytes that are read of one answer, of one record, and of one handshake message.
MOST, RECORD, MESSAGE = 1 << 18, (1 << 14) + 2048, 1 << 17

_POSTGRES_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
#: ECDSA, PSS, PKCS#1 and EdDSA with every hash that was ever in use.
_SIGNATURES = (
    0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0804, 0x0805, 0x0806, 0x0809, 0x080A, 0x080B, 0x0401, 0x0501, 0x0601,
    0x0303, 0x0301, 0x0302, 0x0402, 0x0502, 0x0602, 0x0203, 0x0201, 0x0202,
)  # fmt: skip


@dataclass(frozen=True)
class Offer:
    """What one hello says. ``full`` reads the whole first flight of TLS 1.2 and older, not only the server's hello."""

    versions: tuple[int, ...]
    suites: tuple[int, ...]
    groups: tuple[int, ...] = tuple(names.GROUPS)
    name: str = ""
    share: bool = True
    full: bool = False
    compress: bool = False


@dataclass
class Answer:
    """What came back. ``why`` explains everything that is no hello."""

    kind: str
    why: str = ""
    alert: int = -1
    version: int = 0
    suite: int = 0
    compression: int = 0
    group: int = 0
    dh_bits: int = 0
    retry: bool = False
    extensions: frozenset[int] = frozenset()
    chain: tuple[bytes, ...] = ()
    stapled: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the server went along."""
        return self.kind == HELLO


class Stop(Exception):
    """The attempt is over; the arguments are the kind of the answer and why."""

    def __init__(self, kind: str, why: str):
        super().__init__(why)
        self.kind, self.why = kind, why


# -- what is sent -----------------------------------------------------------------------------------------------------


def _vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def _numbers(values: Iterable[int]) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def is_address(name: str) -> bool:
    """Whether a name is an IP address; those are never sent as server name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def server_name_bytes(name: str) -> bytes:
    """The name as it travels; empty when it cannot."""
    try:
        return name.encode("ascii") if name.isascii() else name.encode("idna")
    except UnicodeError:
        return b""


def client_hello(offer: Offer) -> bytes:
    """One record with one client hello."""
    newest = max(offer.versions)
    modern = names.TLS13 in offer.versions
    extensions = []

    def add(kind: int, data: bytes) -> None:
        extensions.append(kind.to_bytes(2, "big") + _vector(2, data))

    if offer.name and not is_address(offer.name) and server_name_bytes(offer.name):
        add(0, _vector(2, b"\0" + _vector(2, server_name_bytes(offer.name))))
    if newest > names.SSL3:
        add(10, _vector(2, _numbers(offer.groups)))
        add(11, b"\x01\x00")
        add(35, b"")
        add(5, b"\x01\0\0\0\0")
        add(0xFF01, b"\0")
    if newest >= names.TLS12:
        add(13, _vector(2, _numbers(_SIGNATURES)))
        add(23, b"")
    if modern:
        add(43, _vector(1, _numbers(sorted(offer.versions, reverse=True))))
        add(45, b"\x01\x01")
        shares = b"\0\x1d" + _vector(2, os.urandom(32)) if offer.share and 29 in offer.groups else b""
        add(51, _vector(2, shares))
    body = min(newest, names.TLS12).to_bytes(2, "big") + os.urandom(32)
    body += _vector(1, os.urandom(32) if modern else b"")
    # What says "secure renegotiation" where extensions do not exist.
    suites = offer.suites if newest > names.SSL3 else (*offer.suites, 0x00FF)
    body += _vector(2, _numbers(suites))
    body += _vector(1, b"\x01\x00" if offer.compress else b"\0")
    if extensions:
        body += _vector(2, b"".join(extensions))
    message = b"\x01" + _vector(3, body)
    return b"\x16" + min(newest, names.TLS10).to_bytes(2, "big") + _vector(2, message)


def ssl2_hello() -> bytes:
    """The hello of SSL 2.0, which has nothing in common with the others."""
    ciphers = bytes.fromhex("010080020080030080040080050080060040" + "0700c0")
    body = b"\x01\x00\x02" + len(ciphers).to_bytes(2, "big") + b"\0\0\0\x10" + ciphers + os.urandom(16)
    return (0x8000 | len(body)).to_bytes(2, "big") + body


# -- what comes back --------------------------------------------------------------------------------------------------


class _Reader:
    """Bounded reads of one structure; whatever is cut short is garbage."""

    def __init__(self, data: bytes):
        self.data, self.position = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.position:
            raise Stop(GARBAGE, "a message of the handshake is cut short")
        self.position += size
        return self.data[self.position - size : self.position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))

    @property
    def left(self) -> int:
        return len(self.data) - self.position


def server_hello(body: bytes) -> Answer:
    """Read the server's hello, or its request to try again with another group."""
    reader = _Reader(body)
    answer = Answer(HELLO, version=reader.number(2))
    answer.retry = reader.take(32) == _RETRY
    reader.vector(1)
    answer.suite, answer.compression = reader.number(2), reader.number(1)
    found = {}
    if reader.left:
        extensions = _Reader(reader.vector(2))
        while extensions.left:
            kind = extensions.number(2)
            found[kind] = extensions.vector(2)
    answer.extensions = frozenset(found)
    if len(found.get(43, b"")) == 2:
        answer.version = int.from_bytes(found[43], "big")
    if len(found.get(51, b"")) >= 2:
        answer.group = int.from_bytes(found[51][:2], "big")
    return answer


def certificates(body: bytes, modern: bool = False) -> tuple[bytes, ...]:
    """The chain of a Certificate message, of TLS 1.3 when ``modern``."""
    reader = _Reader(body)
    if modern:
        reader.vector(1)
    inner, chain = _Reader(reader.vector(3)), []
    while inner.left and len(chain) < 50:
        chain.append(inner.vector(3))
        if modern:
            inner.vector(2)
    return tuple(chain)


def _key_exchange(body: bytes, answer: Answer) -> None:
    reader, suite = _Reader(body), names.suite(answer.suite)
    if suite.startswith(("TLS_ECDHE_", "TLS_ECDH_anon_")):
        if reader.number(1) == 3:
            answer.group = reader.number(2)
    elif suite.startswith(("TLS_DHE_", "TLS_DH_anon_")):
        answer.dh_bits = int.from_bytes(reader.vector(2), "big").bit_length()


class Flight:
    """Puts handshake messages together from what arrives; ``feed`` says when enough is there."""

    def __init__(self, full: bool):
        self.full, self.answer = full, Answer(CLOSED, "it closed the connection without an answer")
        self._data, self._messages, self.steps = b"", b"", 0

    def feed(self, data: bytes) -> bool:
        """Take more bytes; True when the answer is complete. Raises Stop when it can be none."""
        self._data += data
        while len(self._data) >= 5:
            kind, major, size = self._data[0], self._data[1], int.from_bytes(self._data[3:5], "big")
            if kind not in (20, 21, 22, 23) or major != 3 or size > RECORD:
                what = "text" if self._data[:4].isascii() and self._data[:4].decode("ascii").isprintable() else "bytes"
                raise Stop(PLAIN, f"it answers with {what} that are no TLS")
            if len(self._data) < 5 + size:
                break
            payload, self._data = self._data[5 : 5 + size], self._data[5 + size :]
            self.steps += 1
            if kind == 21 and self._alert(payload):
                return True
            if kind == 22:
                self._messages += payload
                if self._message():
                    return True
        return False

    def _alert(self, payload: bytes) -> bool:
        if self.answer.accepted:
            return True
        if len(payload) < 2:
            raise Stop(GARBAGE, "an alert is cut short")
        if payload[0] == 1 and payload[1] != 0:  # a warning, such as an unrecognized name: the hello follows
            return False
        self.answer = Answer(ALERT, f"it refuses with {names.alert(payload[1])}", alert=payload[1])
        return True

    def _message(self) -> bool:
        while len(self._messages) >= 4:
            kind, size = self._messages[0], int.from_bytes(self._messages[1:4], "big")
            if size > MESSAGE:
                raise Stop(GARBAGE, f"it announces a handshake message of {size} bytes")
            if len(self._messages) < 4 + size:
                return False
            body, self._messages = self._messages[4 : 4 + size], self._messages[4 + size :]
            self.steps += 1
            if kind == 2 and not self.answer.accepted:
                self.answer = server_hello(body)
                if not self.full or self.answer.version >= names.TLS13:
                    return True
            elif not self.answer.accepted:
                raise Stop(GARBAGE, "its first message is no hello")
            elif kind == 11:
                self.answer.chain = certificates(body)
            elif kind == 12:
                _key_exchange(body, self.answer)
            elif kind == 22:
                self.answer.stapled = True
            elif kind == 14:
                return True
        return False


# -- the connection ---------------------------------------------------------------------------------------------------


@dataclass
class Endpoint:
    """Where to connect, and how long anything may take.

    timeout: seconds for one question, from the connection to the last byte. total: seconds for everything.
    clock, connect: for tests.
    """

    host: str
    port: int
    starttls: str = "none"
    timeout: float = 5.0
    total: float = 120.0
    clock: Callable[[], float] = time.monotonic
    connect: Callable = socket.create_connection
    asked: int = field(default=0, init=False)
    _end: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._end = self.clock() + self.total

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def open(self, port: int | None = None, starttls: bool = True) -> Connection:
        """A new connection, behind STARTTLS where the endpoint has it. Raises Stop."""
        with self._lock:
            self.asked += 1
        now = self.clock()
        if now >= self._end:
            raise Stop(SILENT, f"the {self.total:g} seconds for all questions are used up")
        deadline = min(now + self.timeout, self._end)
        where = self.port if port is None else port
        try:
            sock = self.connect((self.host, where), max(deadline - now, 0.001))
        except TimeoutError as error:
            raise Stop(SILENT, f"port {where} does not accept a connection in {self.timeout:g} seconds") from error
        except (OSError, UnicodeError, OverflowError) as error:
            raise Stop(
                UNREACHABLE, f"no connection to port {where}: {getattr(error, 'strerror', None) or error}"
            ) from error
        connection = Connection(sock, deadline, self.clock, self.timeout)
        if starttls and self.starttls == "postgres":
            try:
                connection.send(_POSTGRES_SSL_REQUEST)
                said = connection.receive(1)
            except Stop:
                connection.close()
                raise
            if said != b"S":
                connection.close()
                if said in (b"N", b"E"):
                    raise Stop(PLAIN, "it is PostgreSQL without TLS")
                raise Stop(CLOSED if not said else PLAIN, "it does not answer like PostgreSQL")
        return connection

    def ask(self, offer: Offer) -> Answer:
        """One question. Never raises."""
        answer = self._once(offer)
        # A server that is busy closes without a word as well; what it means shows the second time.
        return self._once(offer) if answer.kind == CLOSED else answer

    def _once(self, offer: Offer) -> Answer:
        flight = Flight(offer.full)
        try:
            with self.open() as connection:
                connection.send(client_hello(offer))
                received = 0
                while True:
                    data = connection.receive(1 << 14)
                    received += len(data)
                    if not data or flight.feed(data):
                        return flight.answer
                    if received > MOST:
                        raise Stop(GARBAGE, f"it sends more than {MOST} bytes for an answer")
        except Stop as stop:
            # Enough of the answer may have arrived before the rest did not.
            if flight.answer.accepted and not offer.full:
                return flight.answer
            return Answer(stop.kind, stop.why)

    def speaks_ssl2(self) -> bool | None:
        """Whether SSL 2.0 is answered; None when that could not be found out."""
        try:
            with self.open() as connection:
                connection.send(ssl2_hello())
                data = b""
                while len(data) < 7:
                    more = connection.receive(256)
                    if not more:
                        break
                    data += more
        except Stop as stop:
            return False if stop.kind == CLOSED else None
        return len(data) >= 7 and bool(data[0] & 0x80) and data[2] == 4 and data[5:7] == b"\0\x02"


class Connection:
    """A socket that never waits past its deadline."""

    def __init__(self, sock: socket.socket, deadline: float, clock: Callable[[], float], timeout: float):
        self.sock, self._deadline, self._clock, self._timeout = sock, deadline, clock, timeout

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _arm(self) -> None:
        left = self._deadline - self._clock()
        if left <= 0:
            raise Stop(SILENT, f"it does not come to an end in {self._timeout:g} seconds")
        self.sock.settimeout(left)

    def send(self, data: bytes) -> None:
        """All of it. Raises Stop."""
        self._arm()
        try:
            self.sock.sendall(data)
        except TimeoutError as error:
            raise Stop(SILENT, f"it does not take what is sent in {self._timeout:g} seconds") from error
        except OSError as error:
            raise Stop(CLOSED, "it closed the connection") from error

    def receive(self, size: int) -> bytes:
        """What has arrived; empty when the other side has closed. Raises Stop."""
        self._arm()
        try:
            return self.sock.recv(size)
        except TimeoutError as error:
            raise Stop(SILENT, f"it does not answer in {self._timeout:g} seconds") from error
        except OSError as error:
            raise Stop(CLOSED, "it closed the connection") from error

    def close(self) -> None:
        """Let go."""
        self.sock.close()
