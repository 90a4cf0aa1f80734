# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running gateway: what it holds, how it watches what it depends on, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from mcpstack.common import database
from mcpstack.common.audit import AuditLog
from mcpstack.common.errors import ApiError
from mcpstack.common.keys import KeyStore, UnavailableError
from mcpstack.common.limits import Limiter
from mcpstack.common.migrate import MigrationError
from mcpstack.common.secretfile import SecretError
from mcpstack.common.valkey import Link, ValkeyError
from mcpstack.gateway.admission import Doors
from mcpstack.gateway.cache import Cache
from mcpstack.gateway.metrics import Metrics
from mcpstack.gateway.pool import Pool
from mcpstack.gateway.settings import Secrets, Settings
from mcpstack.gateway.usage import Usage

log = logging.getLogger(__name__)

_EVERY = 5.0  # between checks of something that answers
_FIRST_RETRY = 0.25
_LAST_RETRY = 5.0
_LAST_USED_EVERY = 60.0

_EXPECTED = (UnavailableError, ApiError, ValkeyError, psycopg.Error, OSError, TimeoutError, SecretError)


class Gateway:
    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self.settings = settings
        self.secrets = secrets
        self.metrics = Metrics(settings.metrics_keys)
        self.keys = KeyStore(settings, secrets)
        self.audit = AuditLog("gateway", lambda: self.keys.parameters("-audit"))
        self.valkey = Link(settings, secrets.valkey_password)
        self.usage = Usage(settings, secrets.db_login)
        self.limiter = Limiter(settings, self.valkey, self.usage.totals, settings.lease_seconds)
        self.usage.limits = self.limiter
        self.doors = Doors()
        self.cache = Cache(settings, self.valkey)
        self.pool = Pool(settings)
        self.answers: set[asyncio.Task[Any]] = set()
        self.in_flight = 0
        self._idle = asyncio.Event()
        self.draining = False
        self.aborting = False
        self.fatal: str | None = None
        self.on_fatal: Callable[[], None] = lambda: None
        self._up: dict[str, bool] = {}
        self._look: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self.pool.on_change = lambda: self._seen("model_runner", self.pool.up)
        await self.pool.open()
        self.metrics.queue_length.set_function(lambda: self.pool.waiting)
        self.metrics.runners.read = self.pool.states
        self.metrics.audit_lost.set_function(lambda: self.audit.dropped)
        self._look = {name: asyncio.Event() for name in ("postgres", "valkey")}
        self.keys.on_failure = self._look["postgres"].set
        self.valkey.on_failure = self._look["valkey"].set
        for name, check in (
            ("postgres", self._postgres),
            ("valkey", self.limiter.check),
        ):
            self._tasks.append(asyncio.create_task(self._watch(name, check)))
        for work in (self._write_last_used(), self.limiter.keep(), self.usage.run()):
            self._tasks.append(asyncio.create_task(work))
        self.audit.start()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        ends = (self.audit.stop(), self.keys.close(), self.usage.close(), self.limiter.close(), self.pool.close())
        await asyncio.gather(*ends, return_exceptions=True)

    async def drain(self) -> None:
        """Refuse new work, let running answers end, cut what is left after the grace."""
        self.draining = True
        log.info("stopping", extra={"in_flight": self.in_flight})
        if not await self._becomes_idle(self.settings.shutdown_grace):
            log.warning("the grace is over; cutting running answers", extra={"in_flight": self.in_flight})
            self.aborting = True
            for task in list(self.answers):
                task.cancel()
            await self._becomes_idle(1)

    async def _becomes_idle(self, wait: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while self.in_flight:
                    self._idle.clear()
                    await self._idle.wait()
        return not self.in_flight

    def enter(self) -> None:
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

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
            log.log(
                level,
                "dependency is up" if up else "dependency is down",
                extra={
                    "dependency": name,
                    "reason": None if up else self._reason(name),
                },
            )
        self._up[name] = up
        self.metrics.dependency.labels(name).set(up)
        self.metrics.degraded.set(not self.limiter.up)

    def _reason(self, name: str) -> str | None:
        return {"postgres": self.keys, "valkey": self.limiter, "model_runner": self.pool}[name].reason  # type: ignore[attr-defined,no-any-return]

    async def _write_last_used(self) -> None:
        while True:
            await asyncio.sleep(_LAST_USED_EVERY)
            if self.keys.ready:
                await self.keys.write_last_used()

    # What /ready says

    def readiness(self) -> tuple[int, dict[str, Any]]:
        checks: dict[str, dict[str, str | None]] = {}
        for name in ("postgres", "valkey", "model_runner"):
            up = self._up.get(name, False) and (name != "valkey" or self.limiter.up)
            checks[name] = {"status": "up" if up else "down", "reason": None if up else self._reason(name)}
        checks["model_runner"]["reason"] = self.pool.reason  # some may be down while others serve
        all_up = all(check["status"] == "up" and check["reason"] is None for check in checks.values())
        grace = time.monotonic() - self.keys.last_answer < self.settings.key_grace_seconds
        if self.draining:
            status = "shutting_down"
        elif checks["postgres"]["status"] == "down" and not grace:
            status = "unavailable"
        else:
            status = "ready" if all_up else "degraded"
        return (200 if status in ("ready", "degraded") else 503), {"status": status, "checks": checks}
