# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finish handshakes with the ssl module, and read what a server says under encryption in TLS 1.3.

PRIVATE: internal to the collection, may change in any release. Standard library only.

In TLS 1.3 the certificates and the session tickets travel encrypted, and Python shows neither the chain (before 3.13)
nor what a ticket allows. The ssl module does the handshake here; the keys of that one connection, which it writes for
the purpose of debugging, open a copy of the records. Nothing is authenticated here: OpenSSL has done that, or the
handshake would have failed.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import ssl
import struct
import tempfile
import warnings
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_probe as probe

_SUITES = {
    "TLS_AES_128_GCM_SHA256": ("sha256", 16, 16),
    "TLS_AES_256_GCM_SHA384": ("sha384", 32, 16),
    "TLS_CHACHA20_POLY1305_SHA256": ("sha256", 32, 16),
    "TLS_AES_128_CCM_SHA256": ("sha256", 16, 16),
    "TLS_AES_128_CCM_8_SHA256": ("sha256", 16, 8),
}


@dataclass(frozen=True)
class Ticket:
    """A ticket of TLS 1.3. One of at most 32 bytes is a number in the server's memory, a longer one holds the session."""

    lifetime: int
    size: int
    early_data: int


@dataclass
class Session:
    """What a finished handshake of TLS 1.3 showed."""

    version: str = ""
    suite: str = ""
    chain: tuple[bytes, ...] = ()
    stapled: bool = False
    tickets: list[Ticket] = field(default_factory=list)


# -- ciphers, one direction each --------------------------------------------------------------------------------------


def _tables() -> tuple[bytes, list[int]]:
    """The substitution of AES, and multiplication by two in its field."""
    double = [value << 1 ^ (0x11B if value & 0x80 else 0) for value in range(256)]
    box, p, q = bytearray(256), 1, 1
    while True:
        p = p ^ double[p]
        for shift in (1, 2, 4):
            q ^= q << shift
        q &= 0xFF
        if q & 0x80:
            q ^= 0x09
        spread = q ^ (q << 1 | q >> 7) ^ (q << 2 | q >> 6) ^ (q << 3 | q >> 5) ^ (q << 4 | q >> 4)
        box[p] = spread & 0xFF ^ 0x63
        if p == 1:
            break
    box[0] = 0x63
    return bytes(box), double


_BOX, _DOUBLE = _tables()
_SHIFT = tuple((4 * (column + row) + row) % 16 for column in range(4) for row in range(4))


def aes_keys(key: bytes) -> list[bytes]:
    """The round keys of AES."""
    words = [key[place : place + 4] for place in range(0, len(key), 4)]
    size, factor = len(words), 1
    for number in range(size, 4 * (size + 7)):
        word = words[-1]
        if number % size == 0:
            word = bytes(_BOX[byte] for byte in word[1:] + word[:1])
            word = bytes((word[0] ^ factor,)) + word[1:]
            factor = _DOUBLE[factor]
        elif size > 6 and number % size == 4:
            word = bytes(_BOX[byte] for byte in word)
        words.append(bytes(a ^ b for a, b in zip(words[number - size], word)))
    return [b"".join(words[place : place + 4]) for place in range(0, len(words), 4)]


def aes_block(keys: list[bytes], block: bytes) -> bytes:
    """Encrypt one block."""
    state = [a ^ b for a, b in zip(block, keys[0])]
    for key in keys[1:-1]:
        moved = [_BOX[state[place]] for place in _SHIFT]
        state = []
        for column in range(0, 16, 4):
            a, b, c, d = moved[column : column + 4]
            every = a ^ b ^ c ^ d
            for one, two in ((a, b), (b, c), (c, d), (d, a)):
                state.append(one ^ every ^ _DOUBLE[one ^ two] ^ key[len(state)])
    return bytes(_BOX[state[place]] ^ keys[-1][number] for number, place in enumerate(_SHIFT))


def chacha_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """One block of the stream (RFC 8439)."""
    start = struct.unpack("<16I", b"expand 32-byte k" + key + counter.to_bytes(4, "little") + nonce)
    state = list(start)
    for _round in range(10):
        for a, b, c, d in (
            (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
        ):  # fmt: skip
            for one, two, three, left in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[one] = state[one] + state[two] & 0xFFFFFFFF
                mixed = state[three] ^ state[one]
                state[three] = (mixed << left | mixed >> 32 - left) & 0xFFFFFFFF
    return struct.pack("<16I", *(a + b & 0xFFFFFFFF for a, b in zip(state, start)))


def _expand(secret: bytes, label: str, size: int, algorithm: str) -> bytes:
    """HKDF-Expand-Label without a context (RFC 8446 7.1); one block of the hash is always enough here."""
    name = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes((len(name),)) + name + b"\0"
    return hmac.digest(secret, info + b"\x01", algorithm)[:size]


class Opener:
    """Opens the records that one traffic secret protects, in their order."""

    def __init__(self, suite: str, secret: bytes):
        algorithm, size, self._tag = _SUITES[suite]
        self._suite, self._sequence = suite, 0
        key = _expand(secret, "key", size, algorithm)
        self._iv = _expand(secret, "iv", 12, algorithm)
        if "CHACHA20" in suite:
            self._block = lambda counter, nonce: chacha_block(key, counter, nonce)
            self._first = 1
        else:
            keys = aes_keys(key)
            ccm = "_CCM" in suite
            self._first = 1 if ccm else 2
            self._block = lambda counter, nonce: aes_block(
                keys, b"\x02" + nonce + counter.to_bytes(3, "big") if ccm else nonce + counter.to_bytes(4, "big")
            )

    def open(self, payload: bytes) -> tuple[int, bytes]:
        """The kind and the content of the next record."""
        nonce = bytes(a ^ b for a, b in zip(self._iv, self._sequence.to_bytes(12, "big")))
        self._sequence += 1
        data = payload[: -self._tag]
        width = 64 if "CHACHA20" in self._suite else 16
        stream = b"".join(self._block(self._first + n, nonce) for n in range(-(-len(data) // width)))
        plain = bytes(a ^ b for a, b in zip(data, stream)).rstrip(b"\0")
        return (plain[-1], plain[:-1]) if plain else (0, b"")


# -- the copy of the records ------------------------------------------------------------------------------------------


def read_records(data: bytes, suite: str, handshake: bytes, traffic: bytes) -> Session:
    """Read the server's records with the two secrets of its direction."""
    session = Session(suite=suite)
    opener, messages, position, finished = Opener(suite, handshake), b"", 0, False
    while len(data) - position >= 5:
        kind, size = data[position], int.from_bytes(data[position + 3 : position + 5], "big")
        payload = data[position + 5 : position + 5 + size]
        position += 5 + size
        if kind != 23 or len(payload) < size:
            continue
        inner, content = opener.open(payload)
        if inner != 22:
            continue
        messages += content
        while len(messages) >= 4:
            length = int.from_bytes(messages[1:4], "big")
            if len(messages) < 4 + length:
                break
            what, body, messages = messages[0], messages[4 : 4 + length], messages[4 + length :]
            if what == 11 and not finished:
                session.chain = probe.certificates(body, modern=True)
                session.stapled = _stapled(body)
            elif what == 20 and not finished:
                opener, finished = Opener(suite, traffic), True
            elif what == 4 and finished:
                session.tickets.append(_ticket(body))
    return session


def _stapled(body: bytes) -> bool:
    """Whether the first entry of a Certificate message of TLS 1.3 carries the status of the certificate."""
    reader = probe._Reader(body)
    reader.vector(1)
    entries = probe._Reader(reader.vector(3))
    if not entries.left:
        return False
    entries.vector(3)
    extensions = probe._Reader(entries.vector(2))
    while extensions.left:
        if extensions.number(2) == 5:
            return True
        extensions.vector(2)
    return False


def _ticket(body: bytes) -> Ticket:
    reader = probe._Reader(body)
    lifetime = reader.number(4)
    reader.take(4)
    reader.vector(1)
    size, early = len(reader.vector(2)), 0
    extensions = probe._Reader(reader.vector(2))
    while extensions.left:
        kind, value = extensions.number(2), extensions.vector(2)
        if kind == 42 and len(value) == 4:
            early = int.from_bytes(value, "big")
    return Ticket(lifetime, size, early)


# -- handshakes -------------------------------------------------------------------------------------------------------


def lenient_context() -> ssl.SSLContext:
    """A client that talks to anything its OpenSSL can talk to. What it is told is judged, never trusted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        # Servers that cannot renegotiate safely are reported, not avoided.
        context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    try:
        context.set_ciphers("ALL:@SECLEVEL=0")
    except ssl.SSLError:
        context.set_ciphers("ALL")
    return context


class Shake:
    """One TLS connection over a Connection, with a copy of all that arrived."""

    def __init__(self, connection: probe.Connection, context: ssl.SSLContext, name: str):
        self.connection, self.copy = connection, bytearray()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        wanted = name if name and probe.server_name_bytes(name) else None
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=wanted)
        self._do(self.tls.do_handshake)

    def _flush(self) -> None:
        data = self._out.read()
        if data:
            self.connection.send(data)

    def _do(self, what, *arguments):
        while True:
            try:
                result = what(*arguments)
                self._flush()
                return result
            except ssl.SSLWantReadError:
                self._flush()
                data = self.connection.receive(1 << 14)
                if not data:
                    raise probe.Stop(probe.CLOSED, "it closed the connection in the middle of the handshake") from None
                if len(self.copy) > probe.MOST:
                    raise probe.Stop(probe.GARBAGE, "it does not come to an end of its answer") from None
                self.copy += data
                self._in.write(data)
            except ssl.SSLError:
                self._flush()
                raise

    def send(self, data: bytes) -> None:
        """Encrypt and send."""
        self._do(self.tls.write, data)

    def receive(self, size: int) -> bytes:
        """Decrypted bytes; empty at the end."""
        try:
            return self._do(self.tls.read, size)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        except probe.Stop as stop:
            if stop.kind == probe.CLOSED:
                return b""
            raise

    def hang_up(self) -> None:
        """Say goodbye and read what was still under way, such as tickets."""
        try:
            self.tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # the other side has not said goodbye yet; what we say is in the buffer
        self._flush()
        while len(self.copy) <= probe.MOST:
            data = self.connection.receive(1 << 14)
            if not data:
                return
            self.copy += data


def modern_session(endpoint: probe.Endpoint, name: str) -> Session:
    """Finish one handshake of TLS 1.3 and read chain and tickets from it. Raises Stop."""
    context = lenient_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory(prefix="mcpstack-tls-") as directory:
        path = os.path.join(directory, "keys")
        try:
            context.keylog_filename = path
        except AttributeError as error:
            raise probe.Stop(probe.UNREACHABLE, "this Python cannot look into TLS 1.3") from error
        with endpoint.open() as connection:
            try:
                shake = Shake(connection, context, name)
                suite = shake.tls.cipher()[0]
                try:
                    shake.hang_up()
                except probe.Stop:
                    pass  # a server that keeps the line open has sent its tickets by now
            except (ssl.SSLError, ValueError) as error:
                raise probe.Stop(probe.ALERT, f"the handshake fails: {why(error)}") from error
        with open(path, encoding="ascii", errors="replace") as keys:
            secrets = {line.split()[0]: line.split()[2] for line in keys if len(line.split()) == 3}
    try:
        handshake = bytes.fromhex(secrets["SERVER_HANDSHAKE_TRAFFIC_SECRET"])
        traffic = bytes.fromhex(secrets["SERVER_TRAFFIC_SECRET_0"])
    except (KeyError, ValueError) as error:
        raise probe.Stop(probe.UNREACHABLE, "this Python cannot look into TLS 1.3") from error
    if suite not in _SUITES:
        raise probe.Stop(probe.UNREACHABLE, f"records of {suite} cannot be read")
    session = read_records(bytes(shake.copy), suite, handshake, traffic)
    session.version = "TLS 1.3"
    return session


def why(error: Exception) -> str:
    """What OpenSSL says, without the place in its source."""
    text = getattr(error, "reason", None) or str(error)
    return str(text).replace("_", " ").lower()


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate."""
    return hashlib.sha256(der).hexdigest()
