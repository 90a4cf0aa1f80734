# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log: who did what to what, and how it ended. Never content, never a secret; arguments only as a hash.

`AuditLog.record` never waits: events are queued, written in batches on a connection of their own, and flushed at the
end. The queue has a bound; what does not fit, or what Postgres will not take, is counted and said in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg

from mcpstack.common import database
from mcpstack.common.secretfile import SecretError

log = logging.getLogger(__name__)

_INSERT = """
INSERT INTO gateway.audit_log (event, at, service, who, action, target, result, request_id, arguments_sha256)
SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                     %s::text[], %s::bytea[])
ON CONFLICT DO NOTHING"""
_BATCH = 500
_EVERY = 0.5  # seconds between batches, so that a busy service writes few and large ones
_FIRST_RETRY, _LAST_RETRY = 0.5, 10.0
_SAY_EVERY = 10.0
_LIFETIME = 600.0  # of a connection


class Event(NamedTuple):
    event: uuid.UUID
    at: datetime
    service: str
    who: str
    action: str
    target: str | None
    result: str
    request_id: str | None
    arguments_sha256: bytes | None


def make(
    service: str,
    who: str,
    action: str,
    target: str | None = None,
    result: str = "ok",
    request_id: str | None = None,
    arguments: Any = None,
) -> Event:
    """`arguments`: bytes, or anything JSON can say; only their hash is kept."""
    return Event(
        uuid.uuid4(),
        datetime.now(UTC),
        _clean(service, 40),
        _clean(who, 200),
        _clean(action, 100),
        None if target is None else _clean(target, 300),
        _clean(result, 100),
        None if request_id is None else _clean(request_id, 100),
        None if arguments is None else arguments_hash(arguments),
    )


def arguments_hash(arguments: Any) -> bytes:
    """The same for the same arguments in another order of names."""
    if not isinstance(arguments, bytes):
        text = json.dumps(arguments, sort_keys=True, separators=(",", ":"), default=str)
        arguments = text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(arguments).digest()


def _clean(text: str, limit: int) -> str:
    """Names come from clients: no control character, nothing that is no text, never too long, never empty."""
    text = "".join(piece if piece.isprintable() else "\N{REPLACEMENT CHARACTER}" for piece in text[:limit])
    return text.strip() or "-"


def _values(events: Sequence[Event]) -> tuple[list[Any], ...]:
    return tuple(list(column) for column in zip(*events, strict=True))


def write(conn: psycopg.Connection[Any], *events: Event) -> None:
    """At once, in the transaction of the caller: what is not logged does not happen."""
    if events:
        conn.execute(_INSERT.encode(), _values(events))


class AuditLog:
    """`parameters`: how to connect, asked for every new connection (see database.parameters)."""

    def __init__(self, service: str, parameters: Callable[[], dict[str, Any]], capacity: int = 10_000) -> None:
        self._service = service
        self._parameters = parameters
        self._capacity = capacity
        self._queue: deque[Event] = deque()
        self._task: asyncio.Task[None] | None = None
        self._something = asyncio.Event()
        self._stopping = asyncio.Event()
        self._opened_at = 0.0
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._said_at = float("-inf")
        self.dropped = 0
        self.written = 0
        self.reason: str | None = None  # why nothing can be written right now

    @property
    def queued(self) -> int:
        return len(self._queue)

    def record(
        self,
        who: str,
        action: str,
        target: str | None = None,
        result: str = "ok",
        request_id: str | None = None,
        arguments: Any = None,
    ) -> None:
        """Never waits, never fails."""
        if len(self._queue) >= self._capacity:
            self._drop(1, "the queue is full")
            return
        self._queue.append(make(self._service, who, action, target, result, request_id, arguments))
        self._something.set()

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def stop(self, limit: float = 3.0) -> None:
        """Write what is queued, but not for longer than `limit`; what is left is counted as dropped."""
        self._stopping.set()
        self._something.set()
        if self._task is not None:
            await database.give_up(self._task, limit)
            self._task = None
        if self._queue:
            self._said_at = float("-inf")
            self._drop(len(self._queue), "the service stops")
            self._queue.clear()

    def _drop(self, number: int, why: str) -> None:
        self.dropped += number
        if time.monotonic() - self._said_at >= _SAY_EVERY:
            self._said_at = time.monotonic()
            log.error("audit events are lost", extra={"reason": why, "dropped": self.dropped})

    async def _work(self) -> None:
        pause = _FIRST_RETRY
        try:
            while self._queue or not self._stopping.is_set():
                await self._something.wait()
                self._something.clear()
                try:
                    while self._queue:
                        await self._write([self._queue[n] for n in range(min(_BATCH, len(self._queue)))])
                except (psycopg.Error, TimeoutError, SecretError, OSError) as error:
                    if self.reason is None:
                        log.warning("the audit log cannot be written", extra={"reason": database.reason(error)})
                    self.reason = database.reason(error)
                    await self._hang_up()
                    self._something.set()
                    await asyncio.sleep(_FIRST_RETRY if self._stopping.is_set() else pause)
                    pause = min(pause * 2, _LAST_RETRY)
                else:
                    pause = _FIRST_RETRY
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), _EVERY)
        finally:
            await self._hang_up()

    async def _write(self, batch: list[Event]) -> None:
        try:
            await self._insert(batch)
            self.written += len(batch)
        except (psycopg.DataError, psycopg.IntegrityError):
            # One event that Postgres will not take must not hold up the others.
            for event in batch:
                try:
                    await self._insert([event])
                    self.written += 1
                except (psycopg.DataError, psycopg.IntegrityError) as error:
                    self._drop(1, f"Postgres refuses an event ({type(error).__name__})")
        for _ in batch:
            self._queue.popleft()
        if self.reason is not None:
            log.info("the audit log is written again", extra={"queued": len(self._queue)})
        self.reason = None

    async def _insert(self, batch: list[Event]) -> None:
        async with asyncio.timeout(10):
            if self._conn is not None and time.monotonic() - self._opened_at > _LIFETIME:
                await self._hang_up()  # a rotated login is taken up
            if self._conn is None or self._conn.closed or self._conn.broken:
                self._conn = await psycopg.AsyncConnection.connect(**self._parameters())
                self._opened_at = time.monotonic()
            await self._conn.execute(_INSERT.encode(), _values(batch))

    async def _hang_up(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()
