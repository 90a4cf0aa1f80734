# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a key may ask: requests a minute (shared, in Valkey) and requests at once (in this process).

The bucket holds one minute's worth and refills steadily. When Valkey does not answer within its time limit, a bucket
of this process decides instead, with this replica's share of the limit: slower to refuse across replicas, never
unlimited. Valkey is used again as soon as the monitor's ping succeeds, so requests never wait for a broken one twice.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from valkey.asyncio import BlockingConnectionPool, Connection, SSLConnection, Valkey
from valkey.credentials import CredentialProvider
from valkey.exceptions import NoScriptError, ValkeyError

from mcpstack.common.errors import ApiError
from mcpstack.common.secretfile import SecretError, SecretFile
from mcpstack.gateway.settings import Secrets, Settings

log = logging.getLogger(__name__)

_CONNECTIONS = 2  # one for the requests, one for the monitor
_LOCAL_BUCKETS = 10_000

# KEYS[1] bucket; ARGV[1] capacity. Returns {allowed, whole tokens left, ms until one token, ms until full}.
_LUA = """\
local cap = tonumber(ARGV[1])
local per_ms = cap / 60000
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local b = redis.call('HMGET', KEYS[1], 'n', 't')
local n = math.min(cap, (tonumber(b[1]) or cap) + math.max(0, now - (tonumber(b[2]) or now)) * per_ms)
local ok = 0
if n >= 1 then n = n - 1; ok = 1 end
redis.call('HSET', KEYS[1], 'n', tostring(n), 't', tostring(now))
redis.call('PEXPIRE', KEYS[1], 61000)
return {ok, math.floor(n), math.ceil(math.max(0, 1 - n) / per_ms), math.ceil((cap - n) / per_ms)}
"""


_Question = tuple[str, int, "asyncio.Future[list[int]]"]  # bucket, requests a minute, who waits


class Verdict(NamedTuple):
    allowed: bool
    limit: int
    remaining: int
    wait_ms: int  # until one more request is allowed
    reset_ms: int  # until the bucket is full
    degraded: bool

    def headers(self) -> list[tuple[bytes, bytes]]:
        found = [
            (b"x-ratelimit-limit-requests", b"%d" % self.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % self.remaining),
            (b"x-ratelimit-reset-requests", b"%dms" % self.reset_ms),
        ]
        if self.degraded:
            found.append((b"x-ratelimit-degraded", b"local"))
        return found


class LocalBuckets:
    """The same bucket in memory."""

    def __init__(self, capacity: int = _LOCAL_BUCKETS) -> None:
        self._capacity = capacity
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, kid: str, limit: int, now: float) -> Verdict:
        per_ms = limit / 60000
        tokens, then = self._buckets.pop(kid, (float(limit), now))
        tokens = min(float(limit), tokens + max(0.0, now - then) * 1000 * per_ms)
        allowed = tokens >= 1
        if allowed:
            tokens -= 1
        self._buckets[kid] = (tokens, now)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        wait, reset = math.ceil(max(0.0, 1 - tokens) / per_ms), math.ceil((limit - tokens) / per_ms)
        return Verdict(allowed, limit, int(tokens), wait, reset, True)


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


class Limiter:
    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self._settings = settings
        self._local = LocalBuckets()
        self._running: Counter[str] = Counter()
        self.up = False  # until the first ping
        self.reason: str | None = "not connected yet"
        self._sha = ""
        self._waiting: list[_Question] = []
        self._asking: asyncio.Task[None] | None = None
        self.on_failure: Callable[[], None] = lambda: None
        pool = BlockingConnectionPool(
            max_connections=_CONNECTIONS,
            timeout=settings.valkey_timeout,  # type: ignore[arg-type] # any number works
            connection_class=_Connection,
            host=settings.valkey_host,
            port=settings.valkey_port,
            credential_provider=_Credentials(settings.valkey_user, secrets.valkey_password),
            ssl_ca_certs=str(settings.tls_ca_file),
            socket_timeout=settings.valkey_timeout,
            socket_connect_timeout=max(0.5, settings.valkey_timeout),
            socket_keepalive=True,
            lib_name=None,
            lib_version=None,
        )
        self._valkey: Valkey = Valkey(connection_pool=pool)
        self._pool = pool

    async def check(self) -> None:
        """Ping; the only thing that ends a degraded phase."""
        try:
            self._sha = await self._valkey.script_load(_LUA)
        except (ValkeyError, OSError, TimeoutError, SecretError) as error:
            self._failed(error)
            raise
        if not self.up:
            log.info("valkey answers; limits are shared again")
        self.up, self.reason = True, None

    def _failed(self, error: Exception) -> None:
        self.reason = _reason(error)
        if self.up:
            log.warning("valkey does not answer; the local limiter stands in", extra={"reason": self.reason})
        self.up = False

    async def take(self, kid: str, rpm: int) -> Verdict:
        if self.up:
            try:
                return await self._shared(kid, rpm)
            except (ValkeyError, OSError, TimeoutError, SecretError) as error:
                self._failed(error)
                self.on_failure()
        return self._local.take(kid, max(1, rpm // self._settings.replicas), time.monotonic())

    async def _shared(self, kid: str, rpm: int) -> Verdict:
        """Requests that arrive together are asked about together: one round trip, one connection."""
        asked: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((f"{self._settings.valkey_prefix}rpm:{kid}", rpm, asked))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        allowed, remaining, wait_ms, reset_ms = await asked
        return Verdict(bool(allowed), rpm, remaining, wait_ms, reset_ms, False)

    async def _ask(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                answers = await self._run(batch, "EVALSHA", self._sha)
                # After a restart of the server its scripts are gone: nothing was counted, so send the script itself.
                if any(isinstance(answer, NoScriptError) for answer in answers):
                    answers = await self._run(batch, "EVAL", _LUA)
            except Exception as error:
                answers = [error] * len(batch)
            for (_, _, asked), answer in zip(batch, answers, strict=True):
                if asked.done():
                    continue
                if isinstance(answer, Exception):
                    asked.set_exception(answer)
                else:
                    asked.set_result(answer)

    async def _run(self, batch: list[_Question], command: str, script: str) -> list[Any]:
        pipeline = self._valkey.pipeline(transaction=False)
        for bucket, rpm, _ in batch:
            pipeline.execute_command(command, script, 1, bucket, rpm)
        return await pipeline.execute(raise_on_error=False)  # type: ignore[no-any-return]

    def enter(self, kid: str, concurrency: int) -> None:
        if self._running[kid] >= max(1, concurrency // self._settings.replicas):
            raise ApiError(
                "concurrency_limit_exceeded", f"This key may have {concurrency} requests running at once, not more."
            )
        self._running[kid] += 1

    def leave(self, kid: str) -> None:
        self._running[kid] -= 1
        if self._running[kid] <= 0:
            del self._running[kid]

    async def close(self) -> None:
        await self._valkey.aclose()
        await self._pool.disconnect()


def refusal(verdict: Verdict) -> ApiError:
    seconds = max(1, math.ceil(verdict.wait_ms / 1000))
    return ApiError(
        "rate_limit_exceeded",
        f"This key may make {verdict.limit} requests a minute; the next one is possible in {seconds} s.",
        retry_after=seconds,
    )


def _reason(error: Exception) -> str:
    text = str(error).lower()
    if "certificate" in text or "ssl" in text:
        return "its certificate is not trusted"
    if "wrongpass" in text or "noauth" in text or "username-password" in text:
        return "the login is refused"
    if "noperm" in text:
        return "a permission is missing"
    return "it does not answer in time" if "timeout" in text or isinstance(error, TimeoutError) else "no connection"
