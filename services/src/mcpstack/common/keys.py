# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is asking: the key from the header, checked against Postgres, remembered for a little while.

A key that was seen is trusted for 30 s and, while Postgres is away, for five minutes. Whoever changes a key notifies
every replica (a trigger does), so a revoked one stops at once; without that connection it stops after the 30 s.

A guess learns nothing from how long it takes. Whatever is wrong with it, the same is done: the key is hashed once with
each pepper, held against a fixed number of stored hashes, Postgres is asked, and the hashes are compared again. Only a
key that is right is spared the question.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from mcpstack.common import apikey, database, migrate, tracing
from mcpstack.common.errors import ApiError
from mcpstack.common.secretfile import Login, Peppers, SecretError, SecretFile

log = logging.getLogger(__name__)

CHANNEL = "mcpstack_keys"
MAX_SECRETS = 4  # of one key that are looked at; mcpstack-admin makes no more

_SELECT = """
SELECT k.kid, s.id, s.hmac, s.pepper_version, s.not_before, s.expires_at, k.name, k.scopes, k.rpm, k.concurrency,
       k.tpm, k.tokens_day, k.tokens_month, k.cache, k.expires_at
FROM gateway.api_key k CROSS JOIN LATERAL (
    SELECT * FROM gateway.api_key_secret s WHERE s.kid = k.kid AND s.revoked_at IS NULL
    ORDER BY s.expires_at IS NOT NULL AND s.expires_at <= now(), s.created_at DESC, s.id DESC LIMIT %s
) s WHERE k.kid = ANY (%s) AND k.revoked_at IS NULL"""
_TOUCH = """
UPDATE gateway.api_key_secret SET last_used_at = used.at
FROM unnest(%s::bigint[], %s::timestamptz[]) AS used(id, at)
WHERE api_key_secret.id = used.id AND (api_key_secret.last_used_at IS NULL OR api_key_secret.last_used_at < used.at)"""
_CACHED_KEYS = 10_000
_BATCH = 500  # keys that one question asks for
_PATIENCE = 1.0  # longest wait of a request for a look-up
_PAUSE = 1.0  # after one that failed, requests do not ask for this long
_HEARTBEAT = 5.0  # between signs of life on the connection that listens
_LAST_RETRY = 5.0
_LIFETIME = 600.0  # of a connection


class KeySettings(Protocol):
    """What of a service's settings the key store reads."""

    @property
    def db_host(self) -> str: ...
    @property
    def db_port(self) -> int: ...
    @property
    def db_name(self) -> str: ...
    @property
    def tls_ca_file(self) -> Path: ...
    @property
    def default_rpm(self) -> int: ...
    @property
    def default_concurrency(self) -> int: ...
    @property
    def key_cache_seconds(self) -> float: ...
    @property
    def key_grace_seconds(self) -> float: ...


class KeySecrets(Protocol):
    """What of a service's secrets the key store reads."""

    @property
    def db_login(self) -> SecretFile[Login]: ...
    @property
    def pepper(self) -> SecretFile[Peppers]: ...


@dataclass(frozen=True, slots=True)
class Key:
    """Who asks and what they may do. None for a token limit: the service's default applies."""

    kid: str
    name: str
    scopes: frozenset[str]
    rpm: int
    concurrency: int
    tpm: int | None
    tokens_day: int | None
    tokens_month: int | None
    cache: bool
    expires_at: datetime | None  # of the key or of the secret that was used, whichever comes first
    secret_id: int


class _Secret(NamedTuple):
    hmac: bytes
    pepper_version: int
    not_before: datetime | None
    key: Key


class _Entry(NamedTuple):
    secrets: tuple[_Secret, ...]
    read_at: float  # monotonic, of the question: what was asked before a change is older than the change


_NOBODY = Key("", "", frozenset(), 0, 0, None, None, None, False, None, 0)
_DUMMY = _Secret(bytes(32), 0, None, _NOBODY)
_EMPTY = _Entry((), float("-inf"))


class _Ask:
    """One key that is asked for, by however many requests."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[_Entry] = asyncio.get_running_loop().create_future()
        # Nobody may be waiting any more: take the error, so that it is not reported as lost.
        self.answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.changed = False  # news of the key came while the question was on its way
        self.tries = 0


class _Lane:
    """Keys that wait for the next question, and those the question on its way asks for."""

    def __init__(self) -> None:
        self.waiting: dict[str, _Ask] = {}
        self.asking: dict[str, _Ask] = {}
        self.worker: asyncio.Task[None] | None = None


class UnavailableError(Exception):
    """Postgres cannot be asked right now."""


class KeyStore:
    def __init__(
        self,
        settings: KeySettings,
        secrets: KeySecrets,
        service: str = "gateway",
        components: Iterable[str] = ("gateway",),
    ) -> None:
        """`components`: the schemas that this service cannot work without."""
        self._settings = settings
        self._secrets = secrets
        self._service = service
        self._components = tuple(components)
        self._cache: OrderedDict[str, _Entry] = OrderedDict()
        # Those who hold a right key never queue behind those who guess.
        self._known, self._unknown = _Lane(), _Lane()
        self._fresh_since = float("-inf")  # what was read before may have changed without our hearing of it
        self._used: dict[int, datetime] = {}
        self._pause_until = 0.0
        self._listener: asyncio.Task[None] | None = None
        self.listening = False
        self.ready = False  # the schema is there
        self.reason: str | None = "not connected yet"
        self.last_answer = float("-inf")  # monotonic
        self.on_failure: Callable[[], None] = lambda: None
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
            kwargs=lambda: self.parameters(),
            min_size=1,
            max_size=4,
            timeout=1.0,
            max_lifetime=_LIFETIME,
            reconnect_timeout=10,
            open=False,
        )

    # Life

    async def prepare(self) -> None:
        """Look at the schema, then open. UnavailableError and psycopg.Error mean not now, MigrationError never."""
        async with asyncio.timeout(8):
            conn = await psycopg.AsyncConnection.connect(**self.parameters("-check"))
            async with conn:
                verdict = await migrate.check_async(conn, *self._components)
        if verdict.state == "newer":
            raise migrate.MigrationError(verdict.reason)
        if verdict.state == "behind":
            self.reason = verdict.reason
            raise UnavailableError(verdict.reason)
        await self._pool.open(wait=False)
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen())
        self.ready = True

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
        if self._listener is not None:
            await database.give_up(self._listener)
        if self.ready:
            await database.give_up(asyncio.create_task(self.write_last_used()), 2.0)
        await self._pool.close(timeout=1.0)

    def parameters(self, what: str = "") -> dict[str, Any]:
        """How this service connects; `what` is put behind its name, for who looks at Postgres."""
        settings = self._settings
        return database.parameters(
            settings.db_host,
            settings.db_port,
            settings.db_name,
            settings.tls_ca_file,
            self._secrets.db_login,
            f"mcpstack-{self._service}{what}",
        )

    # Requests

    async def verify(self, header: str | None) -> Key:
        """Return the key behind an Authorization header or raise the answer for the client."""
        scheme, _, text = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise ApiError("missing_api_key", "This endpoint needs an API key in the Authorization header.")
        parsed = apikey.parse(text.strip())
        if parsed is None:
            raise ApiError("invalid_api_key", "The API key is malformed or was mistyped: its check sum is wrong.")
        peppers = self._peppers()
        digests = {version: apikey.digest(parsed.text, pepper) for version, pepper in peppers.by_version.items()}
        entry = self._cache.get(parsed.kid, _EMPTY)
        now = time.monotonic()
        secret = self._match(entry, digests)
        fresh = entry.read_at > self._fresh_since and now - entry.read_at < self._settings.key_cache_seconds
        if secret is None or not fresh:
            try:
                with tracing.span("SELECT gateway.api_key", "client", db__system__name="postgresql"):
                    entry = await self._ask(parsed.kid, self._unknown if secret is None else self._known)
                secret = self._match(entry, digests)
            except UnavailableError:
                if secret is None or now - entry.read_at >= self._settings.key_grace_seconds:
                    raise _unavailable("key store") from None
        if secret is None:
            self._complain_of_peppers(entry, peppers)
            raise ApiError("invalid_api_key", "The API key is not known here, or it was revoked.")
        return self._admit(secret)

    @staticmethod
    def _complain_of_peppers(entry: _Entry, peppers: Peppers) -> None:
        """A stored hash whose pepper is gone: the key may be right, nobody can tell."""
        for secret in entry.secrets:
            if secret.pepper_version not in peppers.by_version:
                fields = {"kid": secret.key.kid, "pepper_version": secret.pepper_version}
                log.error("no pepper for a stored key", extra=fields)
                raise _unavailable("pepper")

    def _admit(self, secret: _Secret) -> Key:
        """The secret is right; whether it is valid at this hour may be told to the one who has it."""
        key, now = secret.key, datetime.now(UTC)
        if key.expires_at is not None and key.expires_at <= now:
            raise ApiError("expired_api_key", f"The API key expired at {key.expires_at.isoformat(timespec='seconds')}.")
        if secret.not_before is not None and secret.not_before > now:
            begins = secret.not_before.isoformat(timespec="seconds")
            raise ApiError("invalid_api_key", f"The API key is not valid before {begins}.")
        self._used[key.secret_id] = now
        return key

    def _peppers(self) -> Peppers:
        try:
            return self._secrets.pepper.read()
        except SecretError as error:
            log.error("the pepper cannot be read", extra={"reason": str(error)})  # noqa: TRY400 - no trace needed
            raise _unavailable("pepper") from None

    @staticmethod
    def _match(entry: _Entry, digests: dict[int, bytes]) -> _Secret | None:
        """The secret of the entry that the key has; as many comparisons for every key, known or not."""
        found = None
        for position in range(MAX_SECRETS):
            secret = entry.secrets[position] if position < len(entry.secrets) else _DUMMY
            given = digests.get(secret.pepper_version)
            same = hmac.compare_digest(given if given is not None else b"\1" * 32, secret.hmac)
            if same and secret is not _DUMMY and found is None:
                found = secret
        return found

    async def _ask(self, kid: str, lane: _Lane) -> _Entry:
        """Requests that arrive together are asked about together, and none of them waits long."""
        if time.monotonic() < self._pause_until:
            raise UnavailableError
        ask = lane.asking.get(kid) or lane.waiting.get(kid)
        if ask is None:
            ask = lane.waiting[kid] = _Ask()
        if lane.worker is None:
            lane.worker = asyncio.create_task(self._work(lane))
        worker = lane.worker
        try:
            return await asyncio.wait_for(asyncio.shield(ask.answer), _PATIENCE)
        except TimeoutError:
            # Not cancelled: psycopg would then wait for a server that does not answer. The next one starts afresh.
            if lane.worker is worker:
                lane.worker, lane.asking = None, {}
            lane.waiting.pop(kid, None)
            self.reason = "it does not answer in time"
            self._failed()
            raise UnavailableError from None
        except UnavailableError:
            self._failed()
            raise

    def _failed(self) -> None:
        self._pause_until = time.monotonic() + _PAUSE
        self.on_failure()

    async def _work(self, lane: _Lane) -> None:
        me = asyncio.current_task()
        while lane.waiting and lane.worker is me:
            batch = {kid: lane.waiting.pop(kid) for kid in list(islice(lane.waiting, _BATCH))}
            lane.asking = batch
            for ask in batch.values():
                ask.changed = False
            began = time.monotonic()
            try:
                rows = await self._run(_SELECT, (MAX_SECRETS, list(batch)))
                found: dict[str, list[_Secret]] = {kid: [] for kid in batch}
                for row in rows:
                    found[row[0]].append(self._secret(*row))
            except Exception as error:
                if not isinstance(error, UnavailableError):
                    log.exception("keys could not be looked up")
                for ask in batch.values():
                    if not ask.answer.done():
                        ask.answer.set_exception(UnavailableError())
                rows, found = [], {}
            if lane.worker is me:
                lane.asking = {}
            for kid, secrets in found.items():
                self._answer(lane if lane.worker is me else None, kid, batch[kid], _Entry(tuple(secrets), began))
        if lane.worker is me:
            lane.worker = None

    def _answer(self, lane: _Lane | None, kid: str, ask: _Ask, entry: _Entry) -> None:
        """`lane`: None when it was given up; news of changes would not have reached the answer."""
        if lane is not None and ask.changed and ask.tries < 3:  # it may be from before the change
            ask.tries += 1
            lane.waiting[kid] = ask
            return
        if lane is not None:
            if entry.secrets and not ask.changed:
                self._cache[kid] = entry
                self._cache.move_to_end(kid)
                if len(self._cache) > _CACHED_KEYS:
                    self._cache.popitem(last=False)
            else:
                self._cache.pop(kid, None)
        if not ask.answer.done():
            ask.answer.set_result(entry)

    def _secret(self, *row: Any) -> _Secret:
        (kid, number, digest, pepper_version, not_before, secret_ends, name, scopes, rpm, concurrency, tpm, day, month,
         cache, key_ends) = row  # fmt: skip
        ends = [moment for moment in (secret_ends, key_ends) if moment is not None]
        key = Key(
            kid,
            name,
            frozenset(scopes),
            rpm or self._settings.default_rpm,
            concurrency or self._settings.default_concurrency,
            tpm,
            day,
            month,
            cache,
            min(ends) if ends else None,
            number,
        )
        return _Secret(bytes(digest), pepper_version, not_before, key)

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

    # News of changed keys

    async def _listen(self) -> None:
        pause = 0.25
        while True:
            try:
                async with asyncio.timeout(8):
                    conn = await psycopg.AsyncConnection.connect(**self.parameters("-listen"))
                async with conn:
                    async with asyncio.timeout(3):
                        await conn.execute(f"LISTEN {CHANNEL}".encode())
                    # What changed while nobody listened was not heard.
                    self._fresh_since = time.monotonic()
                    self.listening, pause = True, 0.25
                    await self._hear(conn)
            except (psycopg.Error, TimeoutError, SecretError, OSError) as error:
                if self.listening:
                    log.warning("changes of keys are not heard at once", extra={"reason": database.reason(error)})
            except Exception:
                log.exception("listening for changes of keys failed in an unexpected way")
            self.listening = False
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_RETRY)

    async def _hear(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Returns after a while, so that a rotated login is taken up here as well."""
        until = time.monotonic() + _LIFETIME
        while time.monotonic() < until:
            async with contextlib.aclosing(conn.notifies(timeout=_HEARTBEAT)) as notices:
                async for notice in notices:
                    self.forget(notice.payload)
            async with asyncio.timeout(3):
                await conn.execute("SELECT 1")

    def forget(self, kid: str) -> None:
        """Postgres says that this key has changed."""
        self._cache.pop(kid, None)
        for lane in (self._known, self._unknown):
            if kid in lane.asking:
                lane.asking[kid].changed = True


def _unavailable(reason: str) -> ApiError:
    return ApiError("auth_unavailable", "API keys cannot be checked at the moment.", reason=reason)
