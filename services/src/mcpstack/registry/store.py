# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers, tools and calls in Postgres. Every function is one transaction; nothing is kept in the process.

What a server says is pinned: the definition in force is the one that was approved (or came first from a trusted
server). Another one for the same name waits in `pending`, the tool is quarantined meanwhile, and approving it needs
no more than its name and, to be sure that what was read is what is approved, its hash.
"""

# ruff: noqa: S608 - what is put into a statement here is names of columns, constants of this module

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from mcpstack.registry import definitions
from mcpstack.registry.definitions import Definition, DefinitionError

Status = Literal["active", "quarantined", "disabled"]
Connection = psycopg.AsyncConnection[Any]

TOOLS_PER_SERVER = 2000


class StoreError(Exception):
    """What was asked for cannot be done; the message is for the client."""


class NotFoundError(StoreError):
    code = "server_not_found"  # of the answer


class ConflictError(StoreError):
    """`code` is that of the answer: name_taken, definition_changed, not_editable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Server:
    id: str
    name: str
    title: str
    description: str
    version: str
    url: str | None
    transport: str
    auth_ref: str | None
    headers: dict[str, str]
    trust: Literal["trusted", "untrusted"]
    enabled: bool
    call_timeout: float
    sync_interval: int
    status: Literal["new", "ok", "failing"]
    failures: int
    last_error: str | None
    last_sync: datetime | None
    last_success: datetime | None
    next_sync: datetime
    etag: str | None
    protocol_version: str | None
    server_info: dict[str, Any] | None
    breaker_until: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """What an operator says about a server; the rest of a row is what happened to it."""

    id: str
    name: str
    title: str = ""
    description: str = ""
    version: str = "0.0.0"
    url: str | None = None
    transport: str = "streamable-http"
    auth_ref: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    trust: str = "untrusted"
    enabled: bool = True
    call_timeout: float = 30.0
    sync_interval: int = 900


@dataclass(frozen=True, slots=True)
class Tool:
    id: int
    server_id: str
    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    annotations: dict[str, Any] | None
    extra: dict[str, Any] | None
    def_hash: str
    approved_hash: str | None
    pending: dict[str, Any] | None
    status: Status
    disabled_by: Literal["sync", "admin"] | None
    source: Literal["sync", "manual"]
    created_at: datetime
    updated_at: datetime

    @property
    def public_name(self) -> str:
        return definitions.public_name(self.server_id, self.name)

    @property
    def wire(self) -> dict[str, Any]:
        """The definition in force as MCP writes it."""
        return definitions.wire(self.name, {name: getattr(self, name) for name in definitions.PARTS})


@dataclass(frozen=True, slots=True)
class Changes:
    """What a synchronisation did, by name of tool."""

    added: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()  # new ones of an untrusted server, changed ones of any
    restored: tuple[str, ...] = ()  # back, or back to what was approved
    removed: tuple[str, ...] = ()
    unchanged: int = 0
    refused: tuple[tuple[str, str], ...] = ()  # name and why

    def __bool__(self) -> bool:
        return bool(self.added or self.quarantined or self.restored or self.removed)


class Approval(NamedTuple):
    name: str
    def_hash: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A finished call. No argument, no result: sizes and a hash."""

    server_id: str
    tool: str
    subject: str
    via: Literal["rest", "mcp", "job"]
    request_id: str
    status: str  # ok, or the code of the error
    duration_ms: float
    bytes_in: int
    bytes_out: int
    args_hash: str
    summarised: bool = False
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A version of a server in the registry API."""

    name: str
    version: str
    server_id: str
    document: dict[str, Any]
    status: Literal["active", "deprecated", "deleted"]
    is_latest: bool
    published_at: datetime
    updated_at: datetime


class Pool(Protocol):
    """What is needed of a pool of connections in autocommit mode."""

    def connection(self) -> contextlib.AbstractAsyncContextManager[Connection]: ...


_SERVER = ", ".join(Server.__dataclass_fields__)
_TOOL = ", ".join(Tool.__dataclass_fields__)
_SPEC = tuple(ServerSpec.__dataclass_fields__)


class Store:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # Servers

    async def servers(self, *, after: str = "", limit: int = 100) -> list[Server]:
        """By id, those behind `after`."""
        query = f"SELECT {_SERVER} FROM registry.mcp_server WHERE id > %s ORDER BY id LIMIT %s"
        return await self._rows(Server, query, (after, limit))

    async def server(self, server_id: str) -> Server | None:
        rows = await self._rows(Server, f"SELECT {_SERVER} FROM registry.mcp_server WHERE id = %s", (server_id,))
        return rows[0] if rows else None

    async def put_server(self, spec: ServerSpec, document: Mapping[str, Any] | None = None) -> tuple[Server, bool]:
        """Make or change a server; True where it is new. With `document`, its entry in the registry API as well.

        Another URL, another trust or another login means another server: what was approved of the tools stays
        pinned, and the next synchronisation is due at once.
        """
        values = [Jsonb(dict(spec.headers)) if name == "headers" else getattr(spec, name) for name in _SPEC]
        insert = f"""
            INSERT INTO registry.mcp_server ({", ".join(_SPEC)}) VALUES ({", ".join(["%s"] * len(_SPEC))})
            ON CONFLICT (id) DO NOTHING RETURNING {_SERVER}"""
        update = f"""
            UPDATE registry.mcp_server SET {", ".join(f"{name} = %s" for name in _SPEC)}, updated_at = now(),
                etag = NULL, failures = 0, breaker_until = NULL, next_sync = now()
            WHERE id = %s RETURNING {_SERVER}"""
        async with self._transaction() as conn:
            try:
                row, created = await _upsert(conn, insert, values, update, [*values, spec.id])
            except psycopg.errors.UniqueViolation:
                raise ConflictError("name_taken", f"Another server is called {spec.name!r}.") from None
            if row is None:
                raise NotFoundError(f"There is no server {spec.id!r}.")
            if document is not None:
                await _put_entry(conn, spec, document)
        return Server(*row), created

    async def delete_server(self, server_id: str) -> bool:
        """Remove a server with its tools. The registry API goes on to say that it was deleted."""
        async with self._transaction() as conn:
            gone = await conn.execute(b"DELETE FROM registry.mcp_server WHERE id = %s", (server_id,))
            await conn.execute(
                b"UPDATE registry.server_entry SET status = 'deleted', updated_at = clock_timestamp() "
                b"WHERE server_id = %s AND status <> 'deleted'",
                (server_id,),
            )
        return gone.rowcount > 0

    # Synchronisation

    async def claim_due(self, limit: int = 20, lease: float = 300.0) -> list[Server]:
        """Servers whose synchronisation is due; nobody else gets them before `lease` seconds are over."""
        query = f"""
            UPDATE registry.mcp_server SET next_sync = now() + make_interval(secs => %s) WHERE id IN (
                SELECT id FROM registry.mcp_server WHERE enabled AND url IS NOT NULL AND next_sync <= now()
                ORDER BY next_sync LIMIT %s FOR UPDATE SKIP LOCKED)
            RETURNING {_SERVER}"""
        return await self._rows(Server, query, (lease, limit))

    async def sync_failed(self, server_id: str, reason: str, retry_in: float) -> int:
        """Note a failure; the number of failures in a row."""
        query = b"""
            UPDATE registry.mcp_server SET status = 'failing', failures = failures + 1, last_error = %s,
                last_sync = now(), next_sync = now() + make_interval(secs => %s)
            WHERE id = %s RETURNING failures"""
        async with self._pool.connection() as conn:
            values = (definitions.clean(reason, 500), retry_in, server_id)
            row = await (await conn.execute(query, values)).fetchone()
        return row[0] if row else 0

    async def sync_unchanged(self, server_id: str) -> None:
        """The server answered that nothing changed."""
        async with self._pool.connection() as conn:
            await conn.execute(_SYNCED, (None, None, None, server_id))

    async def set_breaker(self, server_id: str, until: datetime | None) -> None:
        async with self._pool.connection() as conn:
            await conn.execute(b"UPDATE registry.mcp_server SET breaker_until = %s WHERE id = %s", (until, server_id))

    async def apply_sync(
        self,
        server_id: str,
        listed: Iterable[Mapping[str, Any]],
        *,
        etag: str | None = None,
        protocol_version: str | None = None,
        server_info: Mapping[str, Any] | None = None,
    ) -> Changes:
        """Take over a complete tools/list answer. Synchronisations of one server wait for each other."""
        found: dict[str, Definition] = {}
        refused: list[tuple[str, str]] = []
        for raw in listed:
            try:
                definition = definitions.read(raw)
                if definition.name in found:
                    raise DefinitionError("the server lists this name twice; the first one counts")  # noqa: TRY301
                if len(found) == TOOLS_PER_SERVER:
                    raise DefinitionError(f"the server lists more than {TOOLS_PER_SERVER} tools")  # noqa: TRY301
            except DefinitionError as error:
                if len(refused) < 100:
                    refused.append((definitions.clean(str(raw.get("name")), 128), str(error)))
            else:
                found[definition.name] = definition
        async with self._transaction() as conn:
            row = await (
                await conn.execute(b"SELECT trust FROM registry.mcp_server WHERE id = %s FOR UPDATE", (server_id,))
            ).fetchone()
            if row is None:
                raise NotFoundError(f"There is no server {server_id!r}.")
            changes = await _merge(conn, server_id, found, trusted=row[0] == "trusted")
            info = Jsonb(server_info) if server_info is not None else None
            await conn.execute(_SYNCED, (etag, protocol_version, info, server_id))
        return Changes(**changes, refused=tuple(refused))

    # Tools

    async def tools(
        self,
        *,
        server_id: str | None = None,
        status: Status | None = None,
        after: tuple[str, str] = ("", ""),
        limit: int = 100,
    ) -> list[Tool]:
        """By server and name, those behind `after`."""
        query = f"""
            SELECT {_TOOL} FROM registry.tool WHERE (server_id, name) > (%s, %s)
                AND (%s::text IS NULL OR server_id = %s) AND (%s::text IS NULL OR status = %s)
            ORDER BY server_id, name LIMIT %s"""
        return await self._rows(Tool, query, (*after, server_id, server_id, status, status, limit))

    async def tool(self, server_id: str, name: str) -> Tool | None:
        query = f"SELECT {_TOOL} FROM registry.tool WHERE server_id = %s AND name = %s"
        rows = await self._rows(Tool, query, (server_id, name))
        return rows[0] if rows else None

    async def resolve(self, public_name: str) -> tuple[Server, Tool] | None:
        """The server and the tool behind `server__tool`, whatever their status."""
        parts = definitions.split_name(public_name)
        if parts is None:
            return None
        server = ", ".join(f"s.{name}" for name in Server.__dataclass_fields__)
        tool = ", ".join(f"t.{name}" for name in Tool.__dataclass_fields__)
        query = f"""
            SELECT {server}, {tool} FROM registry.tool t JOIN registry.mcp_server s ON s.id = t.server_id
            WHERE t.server_id = %s AND t.name = %s"""
        async with self._pool.connection() as conn:
            row = await (await conn.execute(query.encode(), parts)).fetchone()
        split = len(Server.__dataclass_fields__)
        return (Server(*row[:split]), Tool(*row[split:])) if row else None

    async def tool_counts(self) -> dict[str, dict[str, int]]:
        """By server and status."""
        found: dict[str, dict[str, int]] = {}
        async with self._pool.connection() as conn:
            query = b"SELECT server_id, status, count(*) FROM registry.tool GROUP BY server_id, status"
            for server_id, status, number in await (await conn.execute(query)).fetchall():
                found.setdefault(server_id, {})[status] = number
        return found

    async def create_tool(self, server_id: str, definition: Definition) -> Tool:
        """The same, for a name that is free."""
        query = f"""
            INSERT INTO registry.tool ({", ".join(_DEFINED)}, server_id, approved_hash, status, source)
            VALUES ({", ".join(["%s"] * len(_DEFINED))}, %s, %s, 'active', 'manual')
            ON CONFLICT (server_id, name) DO NOTHING RETURNING {_TOOL}"""
        async with self._pool.connection() as conn:
            try:
                values = (*_values(definition), server_id, definition.def_hash)
                row = await (await conn.execute(query.encode(), values)).fetchone()
            except psycopg.errors.ForeignKeyViolation:
                raise NotFoundError(f"There is no server {server_id!r}.") from None
        if row is None:
            raise ConflictError("name_taken", f"The server {server_id!r} has a tool {definition.name!r} already.")
        return Tool(*row)

    async def put_tool(self, server_id: str, definition: Definition) -> tuple[Tool, bool]:
        """Register a tool by hand: whoever may do so approves it by that. True where it is new."""
        insert = f"""
            INSERT INTO registry.tool ({", ".join(_DEFINED)}, server_id, approved_hash, status, source)
            VALUES ({", ".join(["%s"] * len(_DEFINED))}, %s, %s, 'active', 'manual')
            ON CONFLICT (server_id, name) DO NOTHING RETURNING {_TOOL}"""
        update = f"""
            UPDATE registry.tool SET {", ".join(f"{name} = %s" for name in _DEFINED)}, approved_hash = %s,
                status = 'active', disabled_by = NULL, pending = NULL, updated_at = now()
            WHERE server_id = %s AND name = %s AND source = 'manual' RETURNING {_TOOL}"""
        values = _values(definition)
        async with self._transaction() as conn:
            try:
                row, created = await _upsert(
                    conn,
                    insert,
                    [*values, server_id, definition.def_hash],
                    update,
                    [*values, definition.def_hash, server_id, definition.name],
                )
            except psycopg.errors.ForeignKeyViolation:
                raise NotFoundError(f"There is no server {server_id!r}.") from None
        if row is None:
            raise ConflictError("not_editable", f"The definition of {definition.name!r} comes from its server.")
        return Tool(*row), created

    async def delete_tool(self, server_id: str, name: str) -> bool:
        """Remove a tool; one that its server lists is switched off instead, until it is approved again."""
        async with self._pool.connection() as conn:
            done = await conn.execute(
                b"""
                WITH off AS (
                    UPDATE registry.tool SET status = 'disabled', disabled_by = 'admin', updated_at = now()
                    WHERE server_id = %(server)s AND name = %(name)s
                        AND source = 'sync' AND disabled_by IS DISTINCT FROM 'sync' RETURNING 1),
                gone AS (
                    DELETE FROM registry.tool WHERE server_id = %(server)s AND name = %(name)s
                        AND (source = 'manual' OR disabled_by = 'sync') RETURNING 1)
                SELECT 1 FROM off UNION ALL SELECT 1 FROM gone""",
                {"server": server_id, "name": name},
            )
            return await done.fetchone() is not None

    async def approve(
        self, server_id: str, names: Sequence[str], hashes: Mapping[str, str] | None = None
    ) -> list[Approval]:
        """Let these tools be used as their server defines them now; all of them, or none and an error.

        `hashes` says which definition was read: where the server has said something else since, nothing is approved.
        """
        hashes = hashes or {}
        async with self._transaction() as conn:
            rows = await (
                await conn.execute(
                    b"SELECT name, def_hash, approved_hash, pending, status, disabled_by FROM registry.tool "
                    b"WHERE server_id = %s AND name = ANY(%s) ORDER BY name FOR UPDATE",
                    (server_id, list(names)),
                )
            ).fetchall()
            missing = sorted(set(names) - {row[0] for row in rows})
            if missing:
                raise ConflictError("definition_changed", f"The server {server_id!r} has no tool {missing[0]!r}.")
            for name, def_hash, _, _, _, disabled_by in rows:
                if hashes.get(name, def_hash) != def_hash:
                    message = f"The definition of {name!r} is another one by now."
                    raise ConflictError("definition_changed", message)
                if disabled_by == "sync":
                    raise ConflictError("not_editable", f"The server does not list {name!r} any more.")
            done = []
            for name, def_hash, _, pending, status, _ in rows:
                if status != "active":
                    await conn.execute(_APPROVE, _pending(pending) | {"server": server_id, "name": name})
                done.append(Approval(name, def_hash, status != "active"))
        return done

    # Calls

    async def record_call(self, call: Call) -> None:
        await self.record_calls([call])

    async def record_calls(self, calls: Sequence[Call]) -> None:
        fields = tuple(Call.__dataclass_fields__)
        query = (
            f"INSERT INTO registry.tool_call ({', '.join(fields)}) VALUES ({', '.join(['%s'] * len(fields))})".encode()
        )
        async with self._pool.connection() as conn, conn.cursor() as cursor:
            values = [tuple(getattr(call, name) for name in fields) for call in calls]
            if len(values) == 1:
                await cursor.execute(query, values[0])
            else:
                await cursor.executemany(query, values)

    # Helpers

    async def _rows(self, kind: type[Any], query: str, values: Sequence[Any]) -> list[Any]:
        async with self._pool.connection() as conn, conn.cursor(row_factory=class_row(kind)) as cursor:
            await cursor.execute(query.encode(), values)
            return await cursor.fetchall()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with self._pool.connection() as conn, conn.transaction():
            yield conn


def diff(tool: Tool) -> list[str]:
    """What its server says now against what was approved, as lines; nothing where it is the same."""
    in_force = {name: getattr(tool, name) for name in definitions.PARTS}
    if tool.approved_hash is None:
        return definitions.diff(tool.public_name, None, in_force)
    return [] if tool.pending is None else definitions.diff(tool.public_name, in_force, tool.pending)


_DEFINED = ("name", *definitions.PARTS, *definitions.DERIVED, "def_hash")
_SYNCED = b"""
UPDATE registry.mcp_server SET status = 'ok', failures = 0, last_error = NULL, last_sync = now(), last_success = now(),
    next_sync = now() + make_interval(secs => sync_interval), etag = coalesce(%s, etag),
    protocol_version = coalesce(%s, protocol_version), server_info = coalesce(%s, server_info)
WHERE id = %s"""
_APPROVE = b"""
UPDATE registry.tool SET approved_hash = def_hash, status = 'active', disabled_by = NULL, pending = NULL,
    updated_at = now(), title = coalesce(%(title)s, title), description = coalesce(%(description)s, description),
    input_schema = coalesce(%(input_schema)s, input_schema),
    output_schema = CASE WHEN %(present)s THEN %(output_schema)s::jsonb ELSE output_schema END,
    annotations = CASE WHEN %(present)s THEN %(annotations)s::jsonb ELSE annotations END,
    extra = CASE WHEN %(present)s THEN %(extra)s::jsonb ELSE extra END,
    arguments = coalesce(%(arguments)s, arguments), content_hash = coalesce(%(content_hash)s, content_hash),
    trigrams = coalesce(%(trigrams)s, trigrams)
WHERE server_id = %(server)s AND name = %(name)s"""
_INSERT = f"""
INSERT INTO registry.tool ({", ".join(_DEFINED)}, server_id, approved_hash, status, source)
VALUES ({", ".join(["%s"] * len(_DEFINED))}, %s, %s, %s, 'sync')""".encode()
_REPLACE = f"""
UPDATE registry.tool SET {", ".join(f"{name} = %s" for name in _DEFINED)}, approved_hash = %s, status = %s,
    disabled_by = %s, pending = NULL, source = 'sync', updated_at = now() WHERE id = %s""".encode()
_HOLD = b"""
UPDATE registry.tool SET def_hash = %s, pending = %s, status = %s, disabled_by = %s, source = 'sync',
    updated_at = now() WHERE id = %s"""
_REMOVE = b"""
UPDATE registry.tool SET status = 'disabled', disabled_by = 'sync', updated_at = now() WHERE id = ANY(%s)"""


async def _upsert(
    conn: Connection, insert: str, new: Sequence[Any], update: str, changed: Sequence[Any]
) -> tuple[tuple[Any, ...] | None, bool]:
    """The row, and whether it is new. One statement with ON CONFLICT DO UPDATE cannot say that for sure."""
    for _ in range(3):  # what is there may be removed between the two
        row = await (await conn.execute(insert.encode(), new)).fetchone()
        if row is not None:
            return row, True
        row = await (await conn.execute(update.encode(), changed)).fetchone()
        if row is not None:
            return row, False
    return None, False


def _values(definition: Definition) -> tuple[Any, ...]:
    return tuple(_json(getattr(definition, name)) for name in _DEFINED)


def _json(value: Any) -> Any:
    return Jsonb(value) if isinstance(value, dict) else value


def _pending(pending: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values for _APPROVE: the definition that waits, or nothing where the one in the row is the one to approve."""
    names = (*definitions.PARTS, *definitions.DERIVED)
    return {name: _json((pending or {}).get(name)) for name in names} | {"present": pending is not None}


async def _merge(conn: Connection, server_id: str, found: dict[str, Definition], *, trusted: bool) -> dict[str, Any]:
    rows = await (
        await conn.execute(
            b"SELECT id, name, def_hash, approved_hash, status, disabled_by, source FROM registry.tool "
            b"WHERE server_id = %s ORDER BY name FOR UPDATE",
            (server_id,),
        )
    ).fetchall()
    lists: dict[str, list[str]] = {"added": [], "quarantined": [], "restored": [], "removed": []}
    insert, replace, hold, remove, unchanged = [], [], [], [], 0
    for tool_id, name, def_hash, approved_hash, status, disabled_by, source in rows:
        definition = found.pop(name, None)
        if definition is None:
            if source == "sync" and status != "disabled":
                remove.append(tool_id)
                lists["removed"].append(name)
            continue
        off = disabled_by == "admin"  # stays off until somebody approves the tool
        approved, known = definition.def_hash == approved_hash, definition.def_hash == def_hash
        wanted = "disabled" if off else "active" if approved else "quarantined"
        if known and status == wanted and source == "sync":
            unchanged += 1
            continue
        by = "admin" if off else None
        if approved or approved_hash is None:
            replace.append((*_values(definition), approved_hash, wanted, by, tool_id))
        else:
            hold.append((definition.def_hash, Jsonb(definition.document()), wanted, by, tool_id))
        if not off and (status != wanted or not known):
            lists["restored" if approved else "quarantined"].append(name)
    for name, definition in found.items():
        status = "active" if trusted else "quarantined"
        insert.append((*_values(definition), server_id, definition.def_hash if trusted else None, status))
        lists["added" if trusted else "quarantined"].append(name)
    async with conn.cursor() as cursor:
        for query, values in ((_INSERT, insert), (_REPLACE, replace), (_HOLD, hold)):
            if values:
                await cursor.executemany(query, values)
        if remove:
            await cursor.execute(_REMOVE, (remove,))
    return {name: tuple(names) for name, names in lists.items()} | {"unchanged": unchanged}


async def _put_entry(conn: Connection, spec: ServerSpec, document: Mapping[str, Any]) -> None:
    """What was registered last is the latest version. A server that is switched off is listed as deprecated."""
    await conn.execute(
        b"UPDATE registry.server_entry SET is_latest = false, updated_at = clock_timestamp() "
        b"WHERE is_latest AND name = %s AND version <> %s",
        (spec.name, spec.version),
    )
    await conn.execute(
        b"UPDATE registry.server_entry SET status = 'deleted', updated_at = clock_timestamp() "
        b"WHERE server_id = %s AND name <> %s AND status <> 'deleted'",
        (spec.id, spec.name),
    )
    await conn.execute(
        b"""
        INSERT INTO registry.server_entry AS e (name, version, server_id, document, status, is_latest)
        VALUES (%s, %s, %s, %s, %s, true)
        ON CONFLICT (name, version) DO UPDATE SET server_id = excluded.server_id, document = excluded.document,
            is_latest = true, status = excluded.status, updated_at = clock_timestamp()
        WHERE (e.server_id, e.document, e.is_latest, e.status)
            IS DISTINCT FROM (excluded.server_id, excluded.document, true, excluded.status)""",
        (spec.name, spec.version, spec.id, Jsonb(document), "active" if spec.enabled else "deprecated"),
    )
