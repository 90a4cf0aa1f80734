# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the services reach Valkey: TLS under the stack's own CA, the password read for every connection, a short wait.

A Valkey that fails once is not asked again until `check()` finds it working: `up` is the breaker, and the caller's
monitor closes it. So requests never wait twice for a broken server. One connection carries the script (`Script`),
whose calls travel together in one round trip; others carry single commands.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from valkey.asyncio import Connection, SSLConnection
from valkey.credentials import CredentialProvider
from valkey.exceptions import NoScriptError, ResponseError, ValkeyError

from mcpstack.common.secretfile import SecretError, SecretFile

log = logging.getLogger(__name__)

FAILURES = (ValkeyError, OSError, TimeoutError, SecretError)
_CONNECT_PATIENCE = 0.5  # a TLS handshake takes longer than an answer; only the monitor waits for one
_PLAIN_CONNECTIONS = 2
_TOGETHER = 64  # calls in one run of the script: it must not keep others waiting for long
_LINGER = 0.01


class ValkeySettings(Protocol):
    """What a service's settings say about Valkey."""

    @property
    def valkey_host(self) -> str: ...
    @property
    def valkey_port(self) -> int: ...
    @property
    def valkey_user(self) -> str: ...
    @property
    def valkey_prefix(self) -> str: ...
    @property
    def valkey_timeout(self) -> float: ...
    @property
    def tls_ca_file(self) -> Path: ...


class DownError(ValkeyError):
    """Valkey is known not to work; it was not asked."""


class _Credentials(CredentialProvider):
    """Asked by the client for every new connection, so a rotated password is used without a restart."""

    def __init__(self, user: str, password: SecretFile[str]) -> None:
        self._user = user
        self._password = password

    def get_credentials(self) -> tuple[str, str]:
        return self._user, self._password.read()


class _Connection(SSLConnection):
    """Trusts the stack's own CA and no other; the CA file is read again for every connection."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = dict(Connection._connection_arguments(self))
        arguments["ssl"] = ssl.create_default_context(cafile=self.ca_certs)
        return arguments


class Link:
    """One service's way to Valkey."""

    def __init__(self, settings: ValkeySettings, password: SecretFile[str]) -> None:
        self._settings = settings
        self._password = password
        self.prefix = settings.valkey_prefix
        self.timeout = settings.valkey_timeout
        self.up = False  # until the first check
        self.reason: str | None = "not connected yet"
        self.on_failure: Callable[[], None] = lambda: None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._slots = asyncio.Semaphore(_PLAIN_CONNECTIONS)
        self._closed = False

    def failed(self, error: BaseException) -> None:
        self.reason = _reason(error)
        if self.up:
            log.warning("valkey does not answer", extra={"reason": self.reason})
        self.up = False
        self.on_failure()

    def works(self) -> None:
        if not self.up:
            log.info("valkey answers")
        self.up, self.reason = True, None

    async def command(self, *words: bytes | str | int) -> Any:
        """One command and its answer, all within the time limit. Its failure is the caller's matter: `up` stays."""
        if not self.up:
            raise DownError("valkey is down")
        async with asyncio.timeout(self.timeout), self._slots:
            connection = self._idle.pop() if self._idle else await self.connect()
            try:
                answer = await exchange(connection, words)
            except ResponseError:
                self._idle.append(connection)
                raise
            except BaseException:
                await self.drop(connection)
                raise
            self._idle.append(connection)
            return answer

    async def connect(self) -> Connection:
        if self._closed:
            raise DownError("this process is stopping")
        connection = _Connection(
            host=self._settings.valkey_host,
            port=self._settings.valkey_port,
            credential_provider=_Credentials(self._settings.valkey_user, self._password),
            ssl_ca_certs=str(self._settings.tls_ca_file),
            socket_timeout=None,  # the limit here is on a whole exchange, by asyncio.timeout
            socket_connect_timeout=_CONNECT_PATIENCE,
            socket_keepalive=True,
            lib_name=None,
            lib_version=None,
        )
        self._open.add(connection)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await self.drop(connection)
            raise
        return connection

    async def drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        await connection.disconnect(nowait=True)

    async def close(self) -> None:
        self._closed, self.up, self.reason = True, False, "this process is stopping"
        self._idle.clear()
        for connection in list(self._open):
            await self.drop(connection)


class _Call(NamedTuple):
    keys: Sequence[str]
    what: str
    asked: asyncio.Future[str] | None
    forsaken: Callable[[str], None] | None = None


class Script:
    """A script that serves many calls in one run: each is some keys and a line of words, and gets a line back.

    Calls made while others are on their way travel together afterwards. `ask` waits for its answer; `tell` does not,
    and unless it is urgent it lingers a moment, so that it shares the round trip of the next one that asks.
    A line that begins with ! is an error of that call alone.
    """

    def __init__(self, link: Link, source: str) -> None:
        self._link = link
        self._source = source.encode()
        self._sha = hashlib.sha1(self._source, usedforsecurity=False).hexdigest().encode()
        self._waiting: list[_Call] = []
        self._hurry = False  # somebody waits, or would like to
        self._sending: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connection: Connection | None = None

    async def ask(self, keys: Sequence[str], what: str, forsaken: Callable[[str], None] | None = None) -> str:
        """`forsaken` gets the answer when the one who asked was cancelled meanwhile."""
        if not self._link.up:
            raise DownError("valkey is down")
        asked = self._put(keys, what, forsaken)
        try:
            return await asked
        except asyncio.CancelledError:
            # Cancelled between the answer and this line: the future does not know.
            if forsaken is not None and not asked.cancelled() and asked.exception() is None:
                forsaken(asked.result())
            raise

    def tell(self, keys: Sequence[str], what: str, *, urgent: bool) -> bool:
        """Without await, so that a task that is being cancelled can use it. False while Valkey is down."""
        if not self._link.up:
            return False
        self._waiting.append(_Call(keys, what, None))
        if urgent or len(self._waiting) >= _TOGETHER:
            self._start()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LINGER, self._start)
        return True

    async def check(self, calls: Sequence[tuple[Sequence[str], str]]) -> list[str]:
        """Connect if need be and ask, although Valkey counts as down: the only thing that ends that."""
        try:
            if self._connection is None:
                async with asyncio.timeout(_CONNECT_PATIENCE):
                    self._connection = await self._link.connect()
            answers = await asyncio.gather(*(self._put(keys, what) for keys, what in calls))
        except FAILURES as error:
            self._link.failed(error)
            raise
        self._link.works()
        return answers

    async def flush(self) -> None:
        """Send what lingers and wait until nothing is on its way."""
        self._start()
        while self._sending is not None and not self._sending.done():
            await asyncio.wait((self._sending,))

    def _put(
        self, keys: Sequence[str], what: str, forsaken: Callable[[str], None] | None = None
    ) -> asyncio.Future[str]:
        asked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(keys, what, asked, forsaken))
        self._start()
        return asked

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._hurry = True
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._hurry and self._waiting:
            batch, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
            self._hurry = bool(self._waiting)
            try:
                answers = await self._exchange(batch)
            except Exception as error:  # whatever it is, somebody waits to hear of it
                self._link.failed(error)
                batch, self._waiting = batch + self._waiting, []
                for call in batch:
                    if call.asked is not None and not call.asked.done():
                        call.asked.set_exception(error)
                continue
            for call, answer in zip(batch, answers, strict=True):
                if call.asked is None:
                    if answer.startswith("!"):
                        log.warning("valkey did not take a report", extra={"reason": answer[1:200]})
                elif call.asked.done():
                    if call.forsaken is not None and not answer.startswith("!"):
                        call.forsaken(answer)
                elif answer.startswith("!"):
                    call.asked.set_exception(ResponseError(answer[1:]))
                else:
                    call.asked.set_result(answer)

    async def _exchange(self, batch: Sequence[_Call]) -> list[str]:
        connection = self._connection
        if connection is None:
            raise DownError("valkey is not connected")
        words: list[bytes | str | int] = [sum(len(call.keys) for call in batch)]
        for call in batch:
            words.extend(call.keys)
        words.extend(call.what for call in batch)
        try:
            async with asyncio.timeout(self._link.timeout):
                try:
                    answer = await exchange(connection, (b"EVALSHA", self._sha, *words))
                except NoScriptError:
                    # A server that was restarted has lost its scripts. Nothing was done, so send the script itself.
                    answer = await exchange(connection, (b"EVAL", self._source, *words))
        except ResponseError:
            raise
        except BaseException:
            self._connection = None
            await self._link.drop(connection)
            raise
        lines: list[str] = answer.decode().split("\n")
        if len(lines) != len(batch):
            raise ValkeyError("the script gave another number of answers")
        return lines


async def exchange(connection: Connection, words: Sequence[bytes | str | int]) -> Any:
    pieces = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    await connection.send_packed_command(b"".join(pieces), check_health=False)
    return await connection.read_response()


def _reason(error: BaseException) -> str:
    """Why Valkey could not be used, in a few words without addresses."""
    text = str(error).lower()
    for needles, words in (
        (("certificate", "ssl"), "its certificate is not trusted"),
        (("wrongpass", "noauth", "username-password"), "the login is refused"),
        (("noperm", "no permission", "no permissions", "acl failure"), "a permission is missing"),
        (("oom ",), "its memory is full"),
        (("timeout",), "it does not answer in time"),
    ):
        if any(needle in text for needle in needles):
            return words
    if isinstance(error, SecretError):
        return "its password cannot be read"
    return "it does not answer in time" if isinstance(error, TimeoutError) else "no connection"
