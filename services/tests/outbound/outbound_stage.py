# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry without its front: real Postgres, real servers, the parts that call them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
from outbound_servers import Farm
from prometheus_client import CollectorRegistry
from psycopg_pool import AsyncConnectionPool

import support
from mcpstack.common.audit import AuditLog
from mcpstack.registry.breaker import Breakers
from mcpstack.registry.client import Upstream
from mcpstack.registry.execute import Executor, SharedBreakers
from mcpstack.registry.outbound_metrics import Metrics
from mcpstack.registry.principal import SCOPES, Principal
from mcpstack.registry.store import ServerSpec, Store
from mcpstack.registry.summarise import Summariser
from mcpstack.registry.sync import Syncer

WHO = Principal("kid_test", "key", frozenset(SCOPES), kid="kid_test")


@dataclass
class Stage:
    database: str
    postgres: support.Postgres
    pool: AsyncConnectionPool[Any]
    store: Store
    upstream: Upstream
    breakers: Breakers
    shared: SharedBreakers
    audit: AuditLog
    registry: CollectorRegistry
    metrics: Metrics
    executor: Executor
    syncer: Syncer

    async def put(self, server_id: str, url: str | None, **more: Any) -> None:
        """Register a server as an operator does."""
        spec = ServerSpec(**{"id": server_id, "name": f"test/{server_id}", "url": url, "trust": "trusted", **more})
        await self.store.put_server(spec)

    async def synced(self, server_id: str, url: str, **more: Any) -> Any:
        await self.put(server_id, url, **more)
        return await self.syncer.sync_server(server_id)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.postgres.login(self.database) as conn:
            return conn.execute(query.encode(), values).fetchall()

    async def calls(self) -> list[dict[str, Any]]:
        """The records, once they are written."""
        await self.executor.calls.stop()
        with self.postgres.login(self.database) as conn, conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            return cursor.execute("SELECT * FROM registry.tool_call ORDER BY at, duration_ms").fetchall()

    async def audited(self) -> list[tuple[Any, ...]]:
        await self.audit.stop()
        return self.rows("SELECT who, action, target, result FROM gateway.audit_log ORDER BY at, action, target")

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


_databases: dict[int, str] = {}
_FILLED = ("registry.mcp_server", "registry.tool_call", "registry.server_entry", "gateway.audit_log")


def emptied(postgres: support.Postgres) -> str:
    """One database for all tests here, with nothing in it: making one takes longer than most of them."""
    name = _databases.get(postgres.port)
    if name is None:
        name = _databases[postgres.port] = postgres.new_database()
    with postgres.admin(name) as conn:
        for table in _FILLED:
            conn.execute(f"DELETE FROM {table}".encode())
    return name


@contextlib.asynccontextmanager
async def staged(
    postgres: support.Postgres,
    farm: Farm,
    *,
    summariser: Summariser | None = None,
    role: str = "registry",
    **options: Any,
) -> AsyncIterator[Stage]:
    database = emptied(postgres)
    parameters = {
        "host": str(postgres.folder),
        "port": postgres.port,
        "dbname": database,
        "user": f"{role}_a",
        "password": support.DB_PASSWORD,
        "autocommit": True,
    }
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    async with AsyncConnectionPool(kwargs=parameters, min_size=1, max_size=6, open=False) as pool:
        store = Store(pool)
        audit = AuditLog(role, lambda: parameters)
        audit.start()
        upstream = await farm.upstream(**options)
        shared = SharedBreakers(store)
        breakers = Breakers(threshold=3, shortest=30.0, on_change=shared.changed)
        metrics.watch(breakers)
        executor = Executor(store, upstream, breakers, audit, metrics, summariser)
        executor.calls.start()
        syncer = Syncer(store, pool, upstream, audit, metrics, timeout=10)
        try:
            yield Stage(
                database, postgres, pool, store, upstream, breakers, shared, audit, registry, metrics, executor, syncer
            )
        finally:
            await executor.calls.stop()
            await shared.close()
            await audit.stop()
