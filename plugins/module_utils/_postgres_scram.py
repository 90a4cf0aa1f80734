# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SCRAM as PostgreSQL uses it (RFC 5802, RFC 7677). PRIVATE, may change at any time.

The server is only ever given a verifier computed here, so a password never stands in a statement; a stored verifier
is compared by computing it again with its own salt, so a password that has not changed changes nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets

#: What PostgreSQL stores in pg_authid.rolpassword.
_STORED = re.compile(r"^SCRAM-SHA-256\$([1-9][0-9]*):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)\Z")

ITERATIONS = 4096


class ScramError(Exception):
    """The other side did not keep to SCRAM, or does not know the password."""


def _keys(password: str, salt: bytes, iterations: int, algorithm: str = "sha256") -> tuple[bytes, bytes, bytes]:
    """Return (client key, stored key, server key)."""
    salted = hashlib.pbkdf2_hmac(algorithm, password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", algorithm)
    return client_key, hashlib.new(algorithm, client_key).digest(), hmac.digest(salted, b"Server Key", algorithm)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def verifier(password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """Compute what ``ALTER ROLE ... PASSWORD`` takes instead of the password itself."""
    salt = secrets.token_bytes(16) if salt is None else salt
    _client, stored, server = _keys(password, salt, iterations)
    return f"SCRAM-SHA-256${iterations}:{_b64(salt)}${_b64(stored)}:{_b64(server)}"


def matches(stored: str | None, password: str) -> bool:
    """Whether the verifier in ``pg_authid`` was made from this password. Anything else than SCRAM never matches."""
    found = _STORED.match(stored or "")
    if not found:
        return False
    try:
        salt = base64.b64decode(found[2], validate=True)
    except binascii.Error:
        return False
    return hmac.compare_digest(verifier(password, salt, int(found[1])), stored)


class Client:
    """The client's side of one SCRAM exchange, without channel binding."""

    def __init__(self, password: str, user: str = "", nonce: str | None = None, algorithm: str = "sha256") -> None:
        self._password = password
        self._algorithm = algorithm
        self._nonce = nonce if nonce is not None else _b64(secrets.token_bytes(18))
        self._first_bare = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={self._nonce}"
        self._server_signature = b""

    def first(self) -> str:
        """The client-first-message."""
        return "n,," + self._first_bare

    def final(self, server_first: str) -> str:
        """Answer the server-first-message with the client-final-message."""
        try:
            fields = dict(part.split("=", 1) for part in server_first.split(","))
            nonce, salt, iterations = fields["r"], base64.b64decode(fields["s"], validate=True), int(fields["i"])
        except (KeyError, ValueError) as exc:
            raise ScramError("the server's challenge is not SCRAM") from exc
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramError("the server's challenge does not belong to this login")
        if not 1 <= iterations <= 10_000_000:
            raise ScramError(f"the server asks for {iterations} iterations")
        client_key, stored_key, server_key = _keys(self._password, salt, iterations, self._algorithm)
        without_proof = f"c=biws,r={nonce}"
        message = f"{self._first_bare},{server_first},{without_proof}".encode()
        signature = hmac.digest(stored_key, message, self._algorithm)
        self._server_signature = hmac.digest(server_key, message, self._algorithm)
        proof = bytes(left ^ right for left, right in zip(client_key, signature, strict=True))
        return f"{without_proof},p={_b64(proof)}"

    def check(self, server_final: str) -> None:
        """Verify the server-final-message: the server must know the verifier, too."""
        expected = f"v={_b64(self._server_signature)}"
        if not self._server_signature or not hmac.compare_digest(
            server_final.split(",")[0].encode(), expected.encode()
        ):
            raise ScramError("the server could not prove that it knows the password's verifier")
