# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is asking: the key from the header, checked against Postgres, remembered for a little while."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from mcpstack.common import apikey, database, migrate
from mcpstack.common.errors import ApiError
from mcpstack.common.secretfile import SecretError
from mcpstack.gateway.settings import Secrets, Settings

log = logging.getLogger(__name__)

COMPONENT = "gateway"

_SELECT = """
SELECT hmac, pepper_version, scopes, rpm, concurrency, expires_at FROM api_key WHERE kid = %s AND revoked_at IS NULL"""
_TOUCH = """
UPDATE api_key SET last_used_at = used.at FROM unnest(%s::text[], %s::timestamptz[]) AS used(kid, at)
WHERE api_key.kid = used.kid AND (api_key.last_used_at IS NULL OR api_key.last_used_at < used.at)"""
_CACHED_KEYS = 10_000
_PATIENCE = 1.0  # longest wait of a request for a look-up
_PAUSE = 1.0  # after one that failed, requests do not ask for this long


def migrations() -> list[migrate.Migration]:
    return migrate.read(resources.files("mcpstack.gateway") / "migrations")


def connection_parameters(settings: Settings, secrets: Secrets, role: str) -> dict[str, Any]:
    return database.parameters(
        settings.db_host, settings.db_port, settings.db_name, settings.tls_ca_file, secrets.db_login, role
    )


@dataclass(frozen=True, slots=True)
class Key:
    kid: str
    hmac: bytes
    pepper_version: int
    scopes: frozenset[str]
    rpm: int
    concurrency: int
    expires_at: datetime | None
    read_at: float  # monotonic


class UnavailableError(Exception):
    """Postgres cannot be asked right now."""


class KeyStore:
    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self._settings = settings
        self._secrets = secrets
        self._cache: OrderedDict[str, Key] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Key | None]] = {}
        self._used: dict[str, datetime] = {}
        self._pause_until = 0.0
        self.ready = False  # the schema is there
        self.reason: str | None = "not connected yet"
        self.last_answer = float("-inf")  # monotonic
        self.on_failure: Callable[[], None] = lambda: None
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
            kwargs=lambda: connection_parameters(settings, secrets, "mcpstack-gateway"),
            min_size=1,
            max_size=4,
            timeout=1.0,
            max_lifetime=600,
            reconnect_timeout=10,
            open=False,
        )

    # Life

    async def prepare(self) -> None:
        """Bring the schema up to date; psycopg.Error means not now, MigrationError means never."""
        todo = await asyncio.to_thread(self._migrate)
        for migration in todo:
            log.info("migration applied", extra={"version": migration.version, "migration": migration.name})
        await self._pool.open(wait=False)
        self.ready = True

    def _migrate(self) -> list[migrate.Migration]:
        with psycopg.connect(**connection_parameters(self._settings, self._secrets, "mcpstack-migrate")) as conn:
            return migrate.apply(conn, migrations(), COMPONENT)

    async def check(self) -> None:
        """Ask Postgres for nothing, so that an outage is known before a client meets it."""
        await self._run("SELECT 1", ())

    async def write_last_used(self) -> None:
        used, self._used = self._used, {}
        if used:
            try:
                await self._run(_TOUCH, (list(used), list(used.values())), fetch=False)
            except UnavailableError:
                self._used = used | self._used

    async def close(self) -> None:
        if self.ready:
            await self.write_last_used()
        await self._pool.close(timeout=1.0)

    # Requests

    async def verify(self, header: str | None) -> Key:
        """Return the key behind an Authorization header or raise the answer for the client."""
        scheme, _, text = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise ApiError("missing_api_key", "This endpoint needs an API key in the Authorization header.")
        parsed = apikey.parse(text.strip())
        if parsed is None:
            raise ApiError("invalid_api_key", "The API key is malformed or was mistyped: its check sum is wrong.")
        key = await self._find(parsed.kid)
        if key is None or not self._matches(key, parsed):
            raise ApiError("invalid_api_key", "The API key is not known here, or it was revoked.")
        now = datetime.now(UTC)
        if key.expires_at is not None and key.expires_at <= now:
            raise ApiError("expired_api_key", f"The API key expired at {key.expires_at.isoformat(timespec='seconds')}.")
        self._used[key.kid] = now
        return key

    def _matches(self, key: Key, parsed: apikey.ApiKey) -> bool:
        try:
            pepper = self._secrets.pepper.read().by_version.get(key.pepper_version)
        except SecretError as error:
            log.error("the pepper cannot be read", extra={"reason": str(error)})  # noqa: TRY400 - no trace needed
            pepper = None
        if pepper is None:
            log.error("no pepper for a stored key", extra={"kid": key.kid, "pepper_version": key.pepper_version})
            raise ApiError("auth_unavailable", "API keys cannot be checked at the moment.", reason="pepper")
        return hmac.compare_digest(apikey.digest(parsed.text, pepper), key.hmac)

    async def _find(self, kid: str) -> Key | None:
        now = time.monotonic()
        cached = self._cache.get(kid)
        if cached is not None and now - cached.read_at < self._settings.key_cache_seconds:
            return cached
        if now >= self._pause_until:
            try:
                return await self._ask_once(kid)
            except UnavailableError:
                self._pause_until = time.monotonic() + _PAUSE
                self.on_failure()
        if cached is not None and now - cached.read_at < self._settings.key_grace_seconds:
            return cached
        raise ApiError("auth_unavailable", "API keys cannot be checked at the moment.", reason="key store")

    async def _ask_once(self, kid: str) -> Key | None:
        """Requests that need the same key share one look-up, and none of them waits long for it."""
        task = self._asking.get(kid)
        if task is None:
            task = self._asking[kid] = asyncio.create_task(self._ask(kid))
            task.add_done_callback(self._asked)
        try:
            # Not cancelled when the time is over: psycopg would then wait for a server that does not answer.
            return await asyncio.wait_for(asyncio.shield(task), _PATIENCE)
        except TimeoutError:
            self.reason = "it does not answer in time"
            raise UnavailableError from None
        finally:
            if self._asking.get(kid) is task:
                del self._asking[kid]

    @staticmethod
    def _asked(task: asyncio.Task[Key | None]) -> None:
        """Nobody may be waiting any more: take the error, so that it is not reported as lost."""
        if not task.cancelled():
            task.exception()

    async def _ask(self, kid: str) -> Key | None:
        rows = await self._run(_SELECT, (kid,))
        if not rows:
            self._cache.pop(kid, None)
            return None
        digest, pepper_version, scopes, rpm, concurrency, expires_at = rows[0]
        key = Key(
            kid,
            bytes(digest),
            pepper_version,
            frozenset(scopes),
            rpm or self._settings.default_rpm,
            concurrency or self._settings.default_concurrency,
            expires_at,
            time.monotonic(),
        )
        self._cache[kid] = key
        self._cache.move_to_end(kid)
        if len(self._cache) > _CACHED_KEYS:
            self._cache.popitem(last=False)
        return key

    async def _run(self, query: str, values: tuple[Any, ...], fetch: bool = True) -> list[Any]:
        if not self.ready:
            raise UnavailableError
        try:
            async with asyncio.timeout(2.0), self._pool.connection() as conn:
                cursor = await conn.execute(query.encode(), values)
                rows = await cursor.fetchall() if fetch else []
        except (psycopg.Error, PoolTimeout, TimeoutError, SecretError, OSError) as error:
            self.reason = database.reason(error)
            raise UnavailableError from error
        self.reason, self.last_answer, self._pause_until = None, time.monotonic(), 0.0
        return rows
