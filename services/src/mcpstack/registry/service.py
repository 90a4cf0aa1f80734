# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running registry: what it holds, how it watches what it depends on, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests
from starlette.types import ASGIApp, Receive, Scope, Send

from mcpstack.common import database, tracing
from mcpstack.common.audit import AuditLog
from mcpstack.common.errors import ApiError
from mcpstack.common.keys import KeyStore, UnavailableError
from mcpstack.common.limits import Lease, Limiter, Limits, refusal
from mcpstack.common.migrate import MigrationError
from mcpstack.common.secretfile import SecretError
from mcpstack.common.valkey import Link, ValkeyError
from mcpstack.registry.auth import authenticator
from mcpstack.registry.breaker import Breakers
from mcpstack.registry.client import Upstream
from mcpstack.registry.embed import Embedder
from mcpstack.registry.execute import Executor, SharedBreakers
from mcpstack.registry.mcp_endpoint import McpEndpoint
from mcpstack.registry.metrics import DEPENDENCIES, Metrics
from mcpstack.registry.principal import Principal
from mcpstack.registry.search import Searcher
from mcpstack.registry.settings import Secrets, Settings
from mcpstack.registry.store import Connection, Store
from mcpstack.registry.summarise import Summariser
from mcpstack.registry.sync import Syncer
from mcpstack.registry.tools import Tools

log = logging.getLogger(__name__)

_EVERY = 5.0  # between checks of something that answers
_FIRST_RETRY = 0.25
_LAST_RETRY = 5.0
_LAST_USED_EVERY = 60.0
_PATIENCE = 1.0  # longest wait for a connection to Postgres
_LIMIT = 5.0  # longest time a request may keep one; longer than statement_timeout
_SYNC = 150.0  # the same for a synchronisation, which holds its lock by one
_WAITING = 256  # requests that may wait for one

_DOWN = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, TooManyRequests, SecretError)
_EXPECTED = (UnavailableError, ApiError, ValkeyError, psycopg.Error, PoolTimeout, OSError, TimeoutError, SecretError)
_INDEX = b"SELECT jobs.defer('vector_index', '{}', 'vector_index')"


class DatabaseError(ApiError, psycopg.OperationalError):
    """The answer for a client and, for work in the background that goes on without one, Postgres' own kind of error."""


class Database:
    """A pool whose failures are an answer to a client: 503, try again. Nobody holds a connection for ever."""

    def __init__(self, parameters: Callable[[], dict[str, Any]], size: int, limit: float = _LIMIT) -> None:
        self._limit = limit
        self.on_failure: Callable[[], None] = lambda: None
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            kwargs=parameters,
            min_size=0 if limit > _LIMIT else 1,
            max_size=size,
            max_waiting=_WAITING,
            timeout=_PATIENCE,
            max_lifetime=600,
            reconnect_timeout=10,
            configure=_configure,
            open=False,
        )

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close(timeout=1.0)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        try:
            with tracing.span("registry database", "client", db__system__name="postgresql"):
                async with self._pool.connection() as conn:
                    timer = asyncio.get_running_loop().call_later(self._limit, _hang_up, conn)
                    try:
                        yield conn
                    finally:
                        timer.cancel()
        except _DOWN as error:
            self.on_failure()
            log.warning("postgres cannot be used", extra={"reason": database.reason(error)})
            raise DatabaseError(
                "registry_unavailable", "The registry cannot reach its database at the moment.", reason="database"
            ) from None


def _hang_up(conn: Connection) -> None:
    """Cancelling would wait for a server that does not answer; a connection that is shut fails at once."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)


async def _configure(conn: Connection) -> None:
    # The statements here are few and always the same: planning them anew costs as much as running them.
    await conn.execute(b"SET plan_cache_mode = force_generic_plan")
    await conn.execute(b"SET jit = off")


# What the request that is being answered holds of its limits.
_held: ContextVar[list[Lease]] = ContextVar("held")


class Places:
    """Gives back, at the end of every request, what `admit` took for it: of REST and of MCP alike."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: list[Lease] = []
        token = _held.set(held)
        try:
            await self._app(scope, receive, send)
        finally:
            _held.reset(token)
            for lease in held:
                lease.end()


class Registry:
    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self.settings = settings
        self.secrets = secrets
        self.metrics = Metrics()
        self.keys = KeyStore(settings, secrets, service="registry", components=("gateway", "jobs", "registry"))
        self.valkey = Link(settings, secrets.valkey_password)
        self.limiter = Limiter(settings, self.valkey)
        introspection = secrets.introspection if settings.oidc_introspection_url else None
        self.auth = authenticator(settings, self.keys, introspection)
        self.audit = AuditLog("registry", lambda: self._parameters("-audit"))
        self.database = Database(lambda: self._parameters(""), settings.db_connections)
        self.store = Store(self.database)
        self.embedder = self._embedder()
        self.searcher = Searcher(self.database, self.embedder)
        self.upstream = Upstream(settings.outbound_allow, auth_dir=settings.outbound_auth_dir)
        shared = SharedBreakers(self.store)
        self.shared_breakers = shared
        self.breakers = Breakers(on_change=shared.changed)
        self.metrics.outbound.watch(self.breakers)
        self.summariser = Summariser(
            settings.model_url, secrets.model_api_key, self.metrics.outbound, model=settings.summary_model or None
        )
        self.executor = Executor(
            self.store, self.upstream, self.breakers, self.audit, self.metrics.outbound, self.summariser
        )
        # Of its own: slow servers must not take the connections that everybody else works with.
        self.sync_database = Database(lambda: self._parameters("-sync"), 2, _SYNC)
        self.syncer = Syncer(self.store, self.sync_database, self.upstream, self.audit, self.metrics.outbound)
        self.tools = Tools(self.store, self.searcher, self.executor, self.metrics)
        self.mcp = McpEndpoint(settings, self.auth, self.tools, self.admit)
        self.in_flight = 0
        self._idle = asyncio.Event()
        self.draining = False
        self.fatal: str | None = None
        self.on_fatal: Callable[[], None] = lambda: None
        self._up: dict[str, bool] = {}
        self._look: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def _embedder(self) -> Embedder | None:
        settings = self.settings
        if not settings.embedding_model:
            return None
        url = settings.embeddings_url or settings.model_url
        return Embedder(url, self.secrets.model_api_key, query_timeout=settings.embedding_timeout)

    def _parameters(self, what: str) -> dict[str, Any]:
        settings = self.settings
        return database.parameters(
            settings.db_host,
            settings.db_port,
            settings.db_name,
            settings.tls_ca_file,
            self.secrets.db_login,
            f"mcpstack-registry{what}",
        )

    # Life

    async def start(self) -> None:
        self._look = {name: asyncio.Event() for name in DEPENDENCIES}
        self.keys.on_failure = self.database.on_failure = self.sync_database.on_failure = self._look["postgres"].set
        self.valkey.on_failure = self._look["valkey"].set
        await self.upstream.open()
        await self.summariser.open()
        self.audit.start()
        self.executor.calls.start()
        for name, check in (("postgres", self._postgres), ("valkey", self.limiter.check)):
            self._tasks.append(asyncio.create_task(self._watch(name, check)))
        for work in (self._write_last_used(), self.limiter.keep()):
            self._tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.executor.calls.stop()
        ends = [
            self.upstream.close(),
            self.summariser.close(),
            self.shared_breakers.close(),
            self.auth.close(),
            self.keys.close(),
            self.limiter.close(),
        ]
        if self.embedder is not None:
            ends.append(self.embedder.close())
        await asyncio.gather(*ends, self.audit.stop(), return_exceptions=True)
        await self.database.close()
        await self.sync_database.close()

    async def drain(self) -> None:
        """Refuse new work, let running requests end; uvicorn cuts what is left."""
        self.draining = True
        self.mcp.drain()
        log.info("stopping", extra={"in_flight": self.in_flight})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.shutdown_grace):
                while self.in_flight:
                    self._idle.clear()
                    await self._idle.wait()
        if self.in_flight:
            log.warning("the grace is over; cutting running requests", extra={"in_flight": self.in_flight})

    def enter(self) -> None:
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    # Requests

    async def admit(self, who: Principal) -> list[tuple[bytes, bytes]]:
        """Within his limits? Headers for the answer, or the refusal. His place is his until the request has ended."""
        held = _held.get()
        rpm = who.rpm if who.rpm is not None else self.settings.default_rpm
        concurrency = who.concurrency if who.concurrency is not None else self.settings.default_concurrency
        verdict, lease = await self.limiter.take(who.id, Limits(rpm, concurrency))
        if lease is not None:
            held.append(lease)
        if not verdict.allowed:
            raise refusal(verdict)
        return verdict.headers()

    async def index_soon(self) -> None:
        """Tell the worker that there are tools without a vector. It looks by itself as well: a failure is no loss."""
        if not self.settings.embedding_model:
            return
        try:
            async with self.database.connection() as conn:
                await conn.execute(_INDEX)
        except (ApiError, psycopg.Error) as error:
            log.warning("the index job is not queued", extra={"reason": type(error).__name__})

    # Dependencies

    async def _postgres(self) -> None:
        if self.keys.ready:
            await self.keys.check()
            return
        try:
            await self.keys.prepare()
        except MigrationError as error:
            self.fatal = str(error)
            log.critical("the database cannot be used", extra={"reason": self.fatal})
            self.on_fatal()
            raise
        except (psycopg.Error, OSError) as error:
            self.keys.reason = database.reason(error)
            raise
        await self.database.open()
        await self.sync_database.open()
        await self.keys.check()

    async def _watch(self, name: str, check: Callable[[], Awaitable[None]]) -> None:
        pause = _FIRST_RETRY
        while True:
            try:
                await check()
            except MigrationError:
                return
            except _EXPECTED as error:
                self._seen(name, False)
                if isinstance(error, SecretError):
                    log.error("a secret cannot be read", extra={"reason": str(error)})  # noqa: TRY400
                pause, wait = min(pause * 2, _LAST_RETRY), pause
            except Exception:
                log.exception("a check failed in an unexpected way", extra={"dependency": name})
                self._seen(name, False)
                pause, wait = min(pause * 2, _LAST_RETRY), pause
            else:
                self._seen(name, True)
                pause, wait = _FIRST_RETRY, _EVERY
            # A request that met a failure wakes the check early, so that recovery is noticed soon as well.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look[name].wait(), wait)
                await asyncio.sleep(_FIRST_RETRY)
            self._look[name].clear()

    def _seen(self, name: str, up: bool) -> None:
        if self._up.get(name) is not up:
            level = logging.INFO if up else logging.WARNING
            reason = None if up else self._reason(name)
            words = "dependency is up" if up else "dependency is down"
            log.log(level, words, extra={"dependency": name, "reason": reason})
        self._up[name] = up
        self.metrics.dependency.labels(name).set(up)
        self.metrics.degraded.set(not self.limiter.up)
        self.metrics.audit_lost.set(self.audit.dropped)

    def _reason(self, name: str) -> str | None:
        return self.keys.reason if name == "postgres" else self.limiter.reason

    async def _write_last_used(self) -> None:
        while True:
            await asyncio.sleep(_LAST_USED_EVERY)
            if self.keys.ready:
                await self.keys.write_last_used()

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Without Postgres there are no tools; without Valkey each replica limits for itself."""
        checks: dict[str, dict[str, str | None]] = {}
        for name in DEPENDENCIES:
            up = self._up.get(name, False) and (name != "valkey" or self.limiter.up)
            checks[name] = {"status": "up" if up else "down", "reason": None if up else self._reason(name)}
        if self.draining:
            status = "shutting_down"
        elif checks["postgres"]["status"] == "down":
            status = "unavailable"
        else:
            status = "ready" if checks["valkey"]["status"] == "up" else "degraded"
        return (200 if status in ("ready", "degraded") else 503), {"status": status, "checks": checks}
