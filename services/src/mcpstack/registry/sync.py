# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking over what outside servers list: all pages or nothing, within bounds, one run for a server at a time.

A list that ends early, is too long or cannot be read changes nothing: tools do not vanish because a server stumbles.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg

from mcpstack.common.audit import AuditLog
from mcpstack.registry import definitions, store
from mcpstack.registry.arguments import Checker, SchemaUnusableError
from mcpstack.registry.client import NOT_MODIFIED, Info, RpcError, Upstream, UpstreamError
from mcpstack.registry.execute import endpoint, param_headers
from mcpstack.registry.outbound_metrics import Metrics
from mcpstack.registry.store import TOOLS_PER_SERVER, Changes, NotFoundError, Store

log = logging.getLogger(__name__)

MAX_PAGES = 200
MAX_PAGE_BYTES = 4 << 20
MAX_BYTES = 16 << 20
MAX_CURSOR = 4096
MAX_INFO = 16 * 1024
LONGEST_TTL = 86_400.0
FIRST_RETRY, LAST_RETRY = 30.0, 3600.0
_LOCK = 0x6D637073  # "mcps": the class of our advisory locks, one for each server below it
_SAID = 50  # changed tools that are named one by one in the audit log

Result = Literal["ok", "unchanged", "failed", "busy", "gone"]


@dataclass(frozen=True, slots=True)
class Report:
    """How a synchronisation went."""

    server: str
    result: Result
    changes: Changes = field(default_factory=Changes)
    reason: str | None = None
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """For replies and logs: numbers, and why something was refused."""
        return {
            "server": self.server,
            "result": self.result,
            "reason": self.reason,
            "added": len(self.changes.added),
            "quarantined": list(self.changes.quarantined[:100]),
            "restored": len(self.changes.restored),
            "removed": len(self.changes.removed),
            "unchanged": self.changes.unchanged,
            "refused": [{"name": name, "reason": why} for name, why in self.changes.refused[:100]],
        }


class SyncError(Exception):
    """The list cannot be taken over; the words are for operators."""


class Syncer:
    def __init__(
        self,
        tools: Store,
        pool: store.Pool,
        upstream: Upstream,
        audit: AuditLog,
        metrics: Metrics,
        *,
        timeout: float = 120.0,
        at_once: int = 2,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = tools
        self._pool = pool
        self._upstream = upstream
        self._audit = audit
        self._metrics = metrics
        self._timeout = timeout
        # Each run keeps a connection for its lock and needs a second one now and then.
        self._places = asyncio.Semaphore(at_once)
        self._jitter = jitter

    async def sync_due(self, limit: int = 20) -> list[Report]:
        """Synchronise servers whose time has come, for the worker's job. One failing server stops no other."""
        due = await self._store.claim_due(limit)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._sync(row, "worker", None, force=False)) for row in due]
        return [task.result() for task in tasks]

    async def sync_server(self, server_id: str, *, who: str = "worker", request_id: str | None = None) -> Report:
        """Synchronise one server now, whatever its list says about being unchanged. NotFoundError: no such server."""
        row = await self._store.server(server_id)
        if row is None:
            raise NotFoundError(f"There is no server {server_id!r}.")
        return await self._sync(row, who, request_id, force=True)

    async def _sync(self, row: store.Server, who: str, request_id: str | None, *, force: bool) -> Report:
        started = time.monotonic()
        async with self._places, self._lock(row.id) as mine:
            if not mine:
                report = Report(row.id, "busy", reason="it is being synchronised right now")
            else:
                try:
                    async with asyncio.timeout(self._timeout):
                        report = await self._take_over(row, force)
                except (SyncError, UpstreamError, RpcError, TimeoutError) as error:
                    report = await self._failed(row, _reason(error))
                except (psycopg.DataError, psycopg.IntegrityError):
                    log.exception("a list of tools cannot be stored", extra={"server": row.id})
                    report = await self._failed(row, "its tools cannot be stored")
                except NotFoundError:
                    report = Report(row.id, "gone", reason="the server was removed meanwhile")
        report = Report(report.server, report.result, report.changes, report.reason, time.monotonic() - started)
        self._tell(report, who, request_id)
        return report

    async def _take_over(self, row: store.Server, force: bool) -> Report:
        server = endpoint(row)
        info = await self._upstream.describe(server)
        listed, etag, ttl = await self._list(row, None if force else row.etag)
        if listed is None:
            await self._store.sync_unchanged(row.id)
            await self._plan(row, ttl)
            return Report(row.id, "unchanged")
        usable, refused = await _usable(listed)
        changes = await self._store.apply_sync(
            row.id, usable, etag=etag, protocol_version=info.version, server_info=_kept(info)
        )
        if not etag and row.etag:
            await self._forget_etag(row.id)
        await self._plan(row, ttl)
        changes = Changes(
            changes.added,
            changes.quarantined,
            changes.restored,
            changes.removed,
            changes.unchanged,
            (*refused, *changes.refused)[:100],
        )
        return Report(row.id, "ok", changes)

    async def _list(
        self, row: store.Server, etag: str | None
    ) -> tuple[list[dict[str, Any]] | None, str | None, float | None]:
        """All tools (None: unchanged), the tag of a list of one page, and for how long it says it is fresh."""
        server = endpoint(row)
        listed: list[dict[str, Any]] = []
        cursor: str | None = None
        cursors: set[str] = set()
        size = 0
        ttl: float | None = None
        for page in range(MAX_PAGES):
            answer = await self._upstream.list_tools(
                server, cursor, max_answer=MAX_PAGE_BYTES, etag=etag if page == 0 else None
            )
            if answer is NOT_MODIFIED:
                if page == 0 and etag:
                    return None, etag, None
                raise SyncError("it says that nothing changed without having been asked that")
            size += answer.size
            tools = answer.result.get("tools")
            if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
                raise SyncError("its list of tools is not a list of tools")
            listed += tools
            if len(listed) > TOOLS_PER_SERVER:
                raise SyncError(f"it lists more than {TOOLS_PER_SERVER} tools")
            if size > MAX_BYTES:
                raise SyncError(f"its list of tools is larger than {MAX_BYTES} bytes")
            ttl = _shorter(ttl, answer.result.get("ttlMs"))
            cursor = answer.result.get("nextCursor")
            if cursor is None:
                tag = answer.etag if page == 0 and answer.etag and len(answer.etag) <= 512 else None
                return listed, tag, ttl
            if not isinstance(cursor, str) or len(cursor) > MAX_CURSOR or cursor in cursors:
                raise SyncError("its list of tools has no end")
            cursors.add(cursor)
        raise SyncError(f"its list of tools has more than {MAX_PAGES} pages")

    async def _failed(self, row: store.Server, reason: str) -> Report:
        """Try again later, later each time, and never sooner than the operator wants it anyway."""
        pause = min(FIRST_RETRY * 2.0 ** min(row.failures, 20), max(LAST_RETRY, float(row.sync_interval)))
        await self._store.sync_failed(row.id, reason, pause * (0.5 + self._jitter() / 2))
        return Report(row.id, "failed", reason=reason)

    async def _plan(self, row: store.Server, ttl: float | None) -> None:
        """When to look again: as the operator wants it, or later where the server says so, for a day at most."""
        pause = max(float(row.sync_interval), min(ttl or 0.0, LONGEST_TTL)) * (0.9 + self._jitter() / 5)
        await self._set(b"next_sync = now() + make_interval(secs => %s)", pause, row.id)

    async def _forget_etag(self, server_id: str) -> None:
        await self._set(b"etag = %s", None, server_id)

    async def _set(self, assignment: bytes, value: Any, server_id: str) -> None:
        async with self._pool.connection() as conn:
            await conn.execute(b"UPDATE registry.mcp_server SET " + assignment + b" WHERE id = %s", (value, server_id))

    @contextlib.asynccontextmanager
    async def _lock(self, server_id: str) -> AsyncIterator[bool]:
        """True for one synchronisation of a server at a time, in all processes. It goes with the connection."""
        async with self._pool.connection() as conn:
            row = await (
                await conn.execute(b"SELECT pg_try_advisory_lock(%s, hashtext(%s))", (_LOCK, server_id))
            ).fetchone()
            mine = bool(row and row[0])
            try:
                yield mine
            finally:
                if mine and not conn.closed:
                    with contextlib.suppress(psycopg.Error):  # a broken connection has given it back
                        await conn.execute(b"SELECT pg_advisory_unlock(%s, hashtext(%s))", (_LOCK, server_id))

    def _tell(self, report: Report, who: str, request_id: str | None) -> None:
        self._metrics.syncs.labels(report.result).inc()
        changes = report.changes
        for change in ("added", "quarantined", "restored", "removed"):
            names: tuple[str, ...] = getattr(changes, change)
            self._metrics.definitions.labels(change).inc(len(names))
            for name in names[:_SAID]:
                self._audit.record(
                    who, f"tool.{change}", definitions.public_name(report.server, name), "ok", request_id
                )
        self._metrics.definitions.labels("refused").inc(len(changes.refused))
        self._audit.record(who, "server.sync", report.server, report.result, request_id)
        shown = {"server": report.server, "result": report.result, "reason": report.reason}
        if report.result == "failed":
            log.warning("a server cannot be synchronised", extra=shown)
        elif changes.quarantined or changes.refused:
            held = {"quarantined": len(changes.quarantined), "refused": len(changes.refused)}
            log.warning("definitions of tools are held back", extra={**shown, **held})
        else:
            log.info("a server is synchronised", extra=shown)


async def _usable(listed: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Tools that can be called, and those that cannot, with why."""
    usable: list[dict[str, Any]] = []
    refused: list[tuple[str, str]] = []
    for number, tool in enumerate(listed):
        if number % 50 == 49:
            await asyncio.sleep(0)  # there are others in this process
        schema = tool.get("inputSchema")
        try:
            if isinstance(schema, dict):  # whatever else is wrong with a definition is found where it is read
                Checker(schema)
                param_headers(schema)
            usable.append(tool)
        except SchemaUnusableError as error:
            refused.append((definitions.clean(str(tool.get("name")), 128), f"inputSchema cannot be used: {error}"))
    return usable, refused


def _kept(info: Info) -> dict[str, Any] | None:
    """What is kept of what a server says about itself, or nothing where it says too much."""
    said = {"serverInfo": info.server_info, "capabilities": info.capabilities, "instructions": info.instructions}
    try:
        text = json.dumps(said, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    if len(text) > MAX_INFO:
        return None
    cleaned: dict[str, Any] = _visible(said)
    return cleaned


def _visible(value: Any) -> Any:
    if isinstance(value, dict):
        return {definitions.visible(key): _visible(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_visible(member) for member in value]
    return definitions.visible(value) if isinstance(value, str) else value


def _shorter(ttl: float | None, said: Any) -> float | None:
    """The shortest time that any page says, in seconds."""
    if isinstance(said, bool) or not isinstance(said, int | float) or said < 0:
        return ttl
    return said / 1000 if ttl is None else min(ttl, said / 1000)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not list its tools in time"
    if isinstance(error, UpstreamError):
        return error.reason
    if isinstance(error, RpcError):
        return f"it answers with the error {error.code}"
    return str(error)
