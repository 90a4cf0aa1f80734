# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the services reach Valkey: TLS under the stack's own CA, the password read for every connection, a short wait.

A Valkey that fails once is not asked again until `check()` finds it working: `up` is the breaker, and the caller's
monitor closes it. So requests never wait twice for a broken server. One connection carries the script (`Script`),
whose calls travel together in one round trip; another carries single commands, so that a large value holds nobody up.

The connection and the protocol are the client library's. What it has no place for is here: its pool and its commands
wait for each answer before the next question, and a place must be given back without waiting at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from valkey import exceptions as library
from valkey.asyncio import Connection, SSLConnection
from valkey.credentials import CredentialProvider

from mcpstack.common.secretfile import SecretError, SecretFile

log = logging.getLogger(__name__)

_CONNECT_PATIENCE = 0.5  # a TLS handshake takes longer than an answer; only the monitor waits this long for one
_TOGETHER = 64  # calls in one run of the script: it must not keep others waiting for long
_LINGER = 0.01

Word = bytes | str | int


class ValkeyError(Exception):
    """Valkey cannot be used."""


class DownError(ValkeyError):
    """It is known not to work; it was not asked."""


class AnswerError(ValkeyError):
    """It answered that it will not."""


FAILURES = (ValkeyError, OSError, TimeoutError, SecretError)


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


class _Credentials(CredentialProvider):
    """Asked by the library for every new connection, so a rotated password is used without a restart."""

    def __init__(self, user: str, password: SecretFile[str]) -> None:
        self._user = user
        self._password = password

    def get_credentials(self) -> tuple[str, str]:
        return self._user, self._password.read()


class _Connection(SSLConnection):
    def _connection_arguments(self) -> Mapping[str, Any]:
        """Trusts the stack's own CA and no other; the CA file is read again for every connection."""
        arguments = dict(Connection._connection_arguments(self))
        arguments["ssl"] = ssl.create_default_context(cafile=self.ca_certs)
        arguments["ssl_shutdown_timeout"] = _CONNECT_PATIENCE
        return arguments

    def abort(self) -> None:
        """At once, whatever has not been sent: the library's own way waits for the other side."""
        if self._writer is not None:
            self._writer.transport.abort()


class Wire:
    """One connection. Commands may follow each other without waiting; their answers come in the same order.

    It reads all the time, so a server that goes away is noticed although nobody asks.
    """

    def __init__(self, connection: _Connection) -> None:
        self.closed = False
        self.on_lost: Callable[[BaseException], None] = lambda error: None
        self._connection = connection
        self._unsent: list[Sequence[Word]] = []
        self._asked: deque[Callable[[Any], None]] = deque()
        self._reading = asyncio.create_task(self._read())
        self._writing: asyncio.Task[None] | None = None

    def send(self, words: Sequence[Word], then: Callable[[Any], None]) -> None:
        """`then` gets the answer or an exception, always and once."""
        if self.closed:
            then(DownError("the connection is closed"))
            return
        self._asked.append(then)
        self._unsent.append(words)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def ask(self, *words: Word) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def then(found: Any) -> None:
            if not answer.done():
                if isinstance(found, BaseException):
                    answer.set_exception(found)
                else:
                    answer.set_result(found)

        self.send(words, then)
        return await answer

    def abort(self, error: BaseException) -> None:
        if self.closed:
            return
        self.closed = True
        self._connection.abort()  # which ends both tasks
        asked, self._asked = self._asked, deque()
        for then in asked:
            then(error)
        self.on_lost(error)

    async def gone(self) -> None:
        """Returns when nothing of it is left."""
        tasks = [task for task in (self._reading, self._writing) if task is not None]
        await asyncio.wait(tasks, timeout=_CONNECT_PATIENCE)

    async def _write(self) -> None:
        try:
            # Asked to send on a connection that is closed, the library would open another one.
            while self._unsent and not self.closed:
                unsent, self._unsent = self._unsent, []
                packed = self._connection.pack_commands(unsent)
                await self._connection.send_packed_command(packed, check_health=False)
        except _TROUBLE as error:
            self.abort(_translated(error))

    async def _read(self) -> None:
        try:
            while True:
                found: Any
                try:
                    found = await self._connection.read_response(disconnect_on_error=False)
                except library.ResponseError as error:
                    found = AnswerError(_text(error))
                if not self._asked:
                    raise ValkeyError("an answer to nothing")
                self._asked.popleft()(found)
        except _TROUBLE as error:
            self.abort(_translated(error))
        finally:
            self.abort(ValkeyError("nobody reads the answers"))
            await self._connection.disconnect(nowait=True)


_TROUBLE = (*FAILURES, library.ValkeyError, ValueError)  # the last one: a number that is none

# The library takes these words out of the server's text and makes classes of them.
_CODES = (
    (library.NoScriptError, "NOSCRIPT"),
    (library.NoPermissionError, "NOPERM"),
    (library.AuthenticationError, "WRONGPASS"),
    (library.OutOfMemoryError, "OOM"),
    (library.BusyLoadingError, "LOADING"),
)


def _text(error: Exception) -> str:
    for kind, code in _CODES:
        if isinstance(error, kind):
            return f"{code} {error}"
    return str(error)


def _translated(error: Exception) -> Exception:
    """The library's exception as one of FAILURES."""
    if isinstance(error, FAILURES):
        return error
    if isinstance(error.__context__, OSError):
        return error.__context__  # without the address that the library adds
    if isinstance(error, library.ResponseError | library.AuthenticationError | library.BusyLoadingError):
        return AnswerError(_text(error))
    if isinstance(error, library.ConnectionError):
        return ConnectionResetError(str(error))
    return ValkeyError("the answer is not understood")


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
        self._wires: set[Wire] = set()
        self._plain: Wire | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    def failed(self, error: BaseException) -> None:
        if self._closed:
            return
        self.reason = reason(error)
        if self.up:
            log.warning("valkey cannot be used", extra={"reason": self.reason})
        self.up = False
        self.on_failure()

    def works(self) -> None:
        if not self.up and not self._closed:
            log.info("valkey can be used")
            self.up, self.reason = True, None

    async def command(self, *words: Word) -> Any:
        """One command and its answer, all within the time limit. Its failure is the caller's matter: `up` stays."""
        if not self.up:
            raise DownError("valkey is down")
        try:
            async with asyncio.timeout(self.timeout):
                async with self._connecting:
                    if self._plain is None or self._plain.closed:
                        self._plain = await self.connect()
                return await self._plain.ask(*words)
        except TimeoutError as error:
            if self._plain is not None:
                self._plain.abort(error)  # what is still to come belongs to nobody
            raise

    async def connect(self) -> Wire:
        if self._closed:
            raise DownError("this process is stopping")
        settings = self._settings
        connection = _Connection(
            host=settings.valkey_host,
            port=settings.valkey_port,
            credential_provider=_Credentials(settings.valkey_user, self._password),
            ssl_ca_certs=str(settings.tls_ca_file),
            socket_timeout=None,  # the time limits are ours, over all of it
            socket_keepalive=True,
            encoding_errors="backslashreplace",  # a name from a token may hold what UTF-8 cannot carry
            lib_name=None,
            lib_version=None,
        )
        try:
            async with asyncio.timeout(_CONNECT_PATIENCE):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            connection.abort()
            await connection.disconnect()
            if isinstance(error, Exception):
                raise _translated(error) from None
            raise
        wire = Wire(connection)
        self._wires = {known for known in self._wires if not known.closed} | {wire}
        return wire

    async def close(self) -> None:
        self._closed, self.up, self.reason = True, False, "this process is stopping"
        for wire in self._wires:
            wire.abort(DownError("this process is stopping"))
        await asyncio.gather(*(wire.gone() for wire in self._wires))


class _Call(NamedTuple):
    keys: Sequence[str]
    what: str
    asked: asyncio.Future[str] | None
    lost: Callable[[], None]
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
        self._batch: list[_Call] = []  # on its way
        self._hurry = False  # somebody waits
        self._scheduled = False
        self._linger: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._wire: Wire | None = None

    async def ask(
        self, keys: Sequence[str], what: str, lost: Callable[[], None], forsaken: Callable[[str], None]
    ) -> str:
        """`lost` is called when nobody can say whether it was done, `forsaken` with an answer that nobody waits for."""
        if not self._link.up:
            raise DownError("valkey is down")
        asked = self._put(_Call(keys, what, asyncio.get_running_loop().create_future(), lost, forsaken))
        try:
            return await asked
        except asyncio.CancelledError:
            # Cancelled between the answer and this line: the future does not know.
            if not asked.cancelled() and asked.exception() is None:
                forsaken(asked.result())
            raise

    def tell(self, keys: Sequence[str], what: str, lost: Callable[[], None], *, urgent: bool) -> bool:
        """Without await, so that a task that is being cancelled can use it. False while Valkey is down."""
        if not self._link.up:
            return False
        self._waiting.append(_Call(keys, what, None, lost))
        if urgent or len(self._waiting) >= _TOGETHER:
            self._start()
        else:
            self._later()
        return True

    async def check(self, calls: Sequence[tuple[Sequence[str], str]]) -> list[str]:
        """Connect if need be and ask, although Valkey counts as down: the only thing that ends that."""
        try:
            if self._wire is None or self._wire.closed:
                self._wire = await self._link.connect()
                self._wire.on_lost = self._link.failed
            loop = asyncio.get_running_loop()
            batch = [_Call(keys, what, loop.create_future(), lambda: None) for keys, what in calls]
            answers = await asyncio.gather(*(self._put(call) for call in batch))
        except FAILURES as error:
            self._link.failed(error)
            raise
        self._link.works()
        return answers

    async def flush(self) -> None:
        """Send what lingers and wait for the end of what is on its way; each way has a time limit."""
        self._start()
        while self._batch or self._waiting:  # noqa: ASYNC110 - at the end of the process, once
            await asyncio.sleep(0.001)

    def _put(self, call: _Call) -> asyncio.Future[str]:
        assert call.asked is not None  # noqa: S101 - made with one
        self._waiting.append(call)
        self._start()
        return call.asked

    def _start(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._hurry = True
        if not self._scheduled and not self._batch:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._fire)  # so that what happens now travels together

    def _later(self) -> None:
        if self._linger is None and not self._scheduled:
            self._linger = asyncio.get_running_loop().call_later(_LINGER, self._start)

    def _fire(self) -> None:
        self._scheduled = False
        if self._batch or not self._waiting:
            return
        self._batch, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
        self._hurry = bool(self._waiting)
        self._send(b"EVALSHA", self._sha)

    def _send(self, command: bytes, script: bytes) -> None:
        words: list[Word] = [command, script, sum(len(call.keys) for call in self._batch)]
        for call in self._batch:
            words.extend(call.keys)
        words.extend(call.what for call in self._batch)
        if self._wire is None:
            self._answered(DownError("valkey is not connected"))
            return
        self._late = asyncio.get_running_loop().call_later(self._link.timeout, self._give_up)
        self._wire.send(words, self._answered)

    def _give_up(self) -> None:
        if self._wire is not None:
            self._wire.abort(TimeoutError("valkey does not answer in time"))

    def _answered(self, answer: Any) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if isinstance(answer, AnswerError) and str(answer).startswith("NOSCRIPT"):
            # A server that was restarted has lost its scripts. Nothing was done, so send the script itself.
            self._send(b"EVAL", self._source)
            return
        batch, self._batch = self._batch, []
        lines = answer.decode(errors="replace").split("\n") if isinstance(answer, bytes) else []
        if len(lines) == len(batch):
            for call, line in zip(batch, lines, strict=True):
                _hand_over(call, line)
        else:
            error = answer if isinstance(answer, BaseException) else ValkeyError("the script answered something else")
            self._link.failed(error)
            batch, self._waiting, self._hurry = batch + self._waiting, [], False
            for call in batch:
                call.lost()
                if call.asked is not None and not call.asked.done():
                    call.asked.set_exception(error)
        if self._hurry:
            self._fire()
        elif self._waiting:
            self._later()


def _hand_over(call: _Call, line: str) -> None:
    if call.asked is None:
        if line.startswith("!"):
            log.warning("valkey did not take a report", extra={"reason": line[1:200]})
    elif call.asked.done():  # cancelled
        if call.forsaken is not None and not line.startswith("!"):
            call.forsaken(line)
    elif line.startswith("!"):
        call.asked.set_exception(AnswerError(line[1:]))
    else:
        call.asked.set_result(line)


def reason(error: BaseException) -> str:
    """Why Valkey could not be used, in a few words without addresses."""
    text = str(error).lower()
    for needles, words in (
        (("certificate", "ssl"), "its certificate is not trusted"),
        (("wrongpass", "noauth", "username-password"), "the login is refused"),
        (("noperm", "acl failure", "user executing the script can't"), "a permission is missing"),
        (("oom ",), "its memory is full"),
        (("loading",), "it is starting"),
    ):
        if any(needle in text for needle in needles):
            return words
    if isinstance(error, SecretError):
        return "its password cannot be read"
    return "it does not answer in time" if isinstance(error, TimeoutError) else "no connection"
