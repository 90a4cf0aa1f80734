# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The running worker: into the queue, out of it when the database goes away, back again, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import psycopg
from procrastinate.exceptions import ConnectorException
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from mcpstack import __version__
from mcpstack.common import migrate
from mcpstack.common.secretfile import SecretError
from mcpstack.worker import recover, schedule
from mcpstack.worker.kinds import Kind, Pool
from mcpstack.worker.metrics import Collector, Metrics
from mcpstack.worker.patience import within
from mcpstack.worker.queue import Queue, why
from mcpstack.worker.settings import Secrets, Settings, database_parameters
from mcpstack.worker.watchdog import Watchdog

log = logging.getLogger(__name__)

COMPONENTS = ("gateway", "jobs", "registry")
EXIT_NEWER = 3

_FIRST_RETRY = 0.25
_LAST_RETRY = 5.0
_SKEW = 5.0  # seconds of difference between the clocks that are worth a line in the log
_AFTER_GRACE = 5.0  # for jobs that are being cancelled to end
_TROUBLE = (psycopg.Error, PoolTimeout, ConnectorException, OSError, TimeoutError, SecretError)


class GoneError(Exception):
    """The database has given this worker up as dead, or cannot be told that it lives."""


class Service:
    def __init__(self, settings: Settings, secrets: Secrets, kinds: Iterable[Kind]) -> None:
        self.settings = settings
        self.secrets = secrets
        self.kinds = tuple(kinds)
        self.metrics = Metrics(kind.name for kind in self.kinds)
        self.pool: Pool = AsyncConnectionPool(
            kwargs=self._parameters,
            configure=_autocommit,
            check=AsyncConnectionPool.check_connection,
            min_size=1,
            max_size=settings.concurrency + 3,
            timeout=3.0,
            max_lifetime=600,
            reconnect_timeout=10,
            open=False,
        )
        # Handlers have connections of their own: a busy one must not keep a sign of life waiting.
        self.work_pool: Pool = AsyncConnectionPool(
            kwargs=lambda: database_parameters(settings, secrets, "mcpstack-worker-tasks"),
            check=AsyncConnectionPool.check_connection,
            min_size=0,
            max_size=4 * settings.concurrency,
            timeout=10.0,
            max_idle=60.0,
            max_lifetime=600,
            reconnect_timeout=10,
            open=False,
        )
        self.queue = Queue(settings, secrets, self.pool, self.work_pool, self.kinds, self.metrics)
        self.collector = Collector(self.metrics, self.pool, settings.stalled_after)
        self.fatal: str | None = None
        self.stopping = asyncio.Event()
        self._reason: str | None = "not connected yet"
        self._working = False
        self._behind: str | None = None
        self._skewed = False

    def _parameters(self) -> dict[str, Any]:
        found = database_parameters(self.settings, self.secrets)
        # procrastinate names its tables without a schema, and sets this one itself where it listens.
        found["options"] += " -c search_path=jobs"
        del found["autocommit"]
        return found

    def readiness(self) -> tuple[int, dict[str, Any]]:
        status = "shutting_down" if self.stopping.is_set() else "ready" if self._working else "unavailable"
        postgres = {"status": "up" if self._working else "down", "reason": None if self._working else self._reason}
        return (200 if status == "ready" else 503), {"status": status, "checks": {"postgres": postgres}}

    # Life

    async def run(self) -> int:
        """Until a signal; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        watchdog = asyncio.create_task(
            Watchdog(self.settings.block_limit, lambda: self.queue.active.values()).beat(), name="watchdog"
        )
        async with aiohttp.ClientSession(trust_env=False) as session:
            self.queue.http = session
            await self.pool.open(wait=False)
            await self.work_pool.open(wait=False)
            await self.queue.open()
            try:
                await self._stay()
            finally:
                watchdog.cancel()
                await asyncio.gather(self.pool.close(timeout=1.0), self.work_pool.close(timeout=1.0))
        return EXIT_NEWER if self.fatal else 0

    def _stop(self) -> None:
        if self.stopping.is_set():
            self.queue.interrupt()  # a second signal does not wait
            return
        log.info("stopping", extra={"running": len(self.queue.active)})
        self.stopping.set()
        self.queue.stop()

    async def _stay(self) -> None:
        pause = _FIRST_RETRY
        while not self.stopping.is_set() and self.fatal is None:
            reason: str | None = None
            try:
                if await self._prepared():
                    await self._work()
                    pause = _FIRST_RETRY
                else:
                    reason = self._behind
            except GoneError as error:
                reason, pause = str(error), _FIRST_RETRY
            except _TROUBLE as error:
                reason = why(error)
            except Exception:
                log.exception("the worker stumbled over something unexpected")
                reason = "something unexpected"
            if self.stopping.is_set() or self.fatal is not None:
                return
            self._not_working(reason)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), pause)
            pause = min(pause * 2, _LAST_RETRY)

    def _not_working(self, reason: str | None) -> None:
        if self._working or reason != self._reason:
            log.warning("not working", extra={"reason": reason})
        self._working, self._reason = False, reason

    async def _prepared(self) -> bool:
        verdict = await within(8, self._verdict())
        if verdict.state == "newer":
            self.fatal = verdict.reason
            log.critical("the database cannot be used", extra={"reason": self.fatal})
            return False
        self._behind = verdict.reason
        return verdict.state == "ok"

    async def _verdict(self) -> migrate.Verdict:
        async with self.pool.connection() as conn:
            return await migrate.check_async(conn, *COMPONENTS)

    async def _work(self) -> None:
        """One stay in the queue. Ends when it is asked to, or raises when it cannot go on."""
        worker = self.queue.new_worker()
        run = asyncio.create_task(worker.run(), name="queue")  # type: ignore[no-untyped-call]
        guard = asyncio.create_task(self._guard(), name="guard")
        asked = asyncio.create_task(self.stopping.wait(), name="asked to stop")
        try:
            await asyncio.wait({run, guard, asked}, return_when=asyncio.FIRST_COMPLETED)
            while not run.done():
                self.queue.stop()  # once more: it forgets what it was told before it began
                waiting = {run} if asked.done() else {run, asked}
                done, _ = await asyncio.wait(waiting, timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED)
                # Without a database the end may take as long as that is away; with handlers at work it must not.
                if not done and (asked.done() or self.queue.active):
                    await self._give_up()
        finally:
            for task in (guard, asked):
                task.cancel()
            await asyncio.gather(guard, asked, return_exceptions=True)
        gone = None if guard.cancelled() else guard.exception()
        try:
            await run
        except _TROUBLE:
            if gone is None:
                raise
        if gone is not None:
            raise gone

    def _patience(self) -> float:
        """A stop that was asked for has its grace; a worker that lost the database has none to give."""
        settings = self.settings
        return settings.shutdown_grace + _AFTER_GRACE if self.stopping.is_set() else settings.stalled_after / 6

    async def _give_up(self) -> None:
        """Something ignores that it is cancelled. What it works on goes back and the process ends, so it ends too."""
        worker_id = self.queue.worker.worker_id if self.queue.worker else None
        log.error("tasks do not end; leaving without them", extra={"running": sorted(self.queue.active.values())})
        if worker_id is not None and self._working:
            with contextlib.suppress(*_TROUBLE):
                log.warning("put back", extra={"jobs": await within(2, recover.give_back(self.pool, worker_id))})
        for handler in logging.getLogger().handlers:
            handler.flush()
        os._exit(0 if self.stopping.is_set() else 1)

    # Signs of life, dead workers, the schedule

    async def _guard(self) -> None:
        settings, queue = self.settings, self.queue
        # All in all less than stalled_after, with a heartbeat of at most a quarter of it (see the settings).
        patience = settings.stalled_after / 8
        last = time.monotonic()
        missing: set[tuple[int, int]] = set()
        while True:
            worker_id = queue.worker.worker_id if queue.worker is not None else None
            try:
                if worker_id is not None:
                    await within(patience, self._beat(worker_id))
                    last = time.monotonic()
                    missing = await within(patience, self._round(worker_id, missing))
            except _TROUBLE as error:
                self._not_working(why(error))
                if time.monotonic() - last > settings.stalled_after / 3:
                    # Soon others may take the jobs for abandoned: they must not run here then.
                    queue.interrupt()
                    raise GoneError(why(error)) from None
            if self.stopping.is_set():
                # Signs of life go on while jobs end.
                await asyncio.sleep(settings.heartbeat)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), settings.heartbeat if worker_id is not None else 0.02)

    async def _beat(self, worker_id: int) -> None:
        began = datetime.now(UTC)
        now = await recover.beat(self.pool, worker_id)
        if now is None:
            self.queue.interrupt()
            raise GoneError("it was taken for dead")
        ended = datetime.now(UTC)
        self.queue.clock_offset = now - (began + (ended - began) / 2)
        offset = self.queue.clock_offset.total_seconds()
        self.metrics.clock.set(offset)
        self.metrics.heartbeat.set(ended.timestamp())
        if (abs(offset) > _SKEW) is not self._skewed:
            self._skewed = abs(offset) > _SKEW
            log.log(
                logging.WARNING if self._skewed else logging.INFO,
                "this clock and that of the database differ" if self._skewed else "the clocks agree again",
                extra={"offset_s": round(offset, 1)},
            )
        if not self._working:
            log.info("working", extra={"worker_id": worker_id})
        self._working, self._reason = True, None

    async def _round(self, worker_id: int, before: set[tuple[int, int]]) -> set[tuple[int, int]]:
        settings = self.settings
        # Jobs that are ours but not running, twice in a row: the end of their run could not be written.
        mine = await recover.doing(self.pool, worker_id)
        running = self.queue.running()
        missing = {run for run in mine if run[0] not in running}
        lost = [job_id for job_id, _ in missing & before]
        for job in await recover.take_back(
            self.pool,
            stalled_after=settings.stalled_after,
            cap=settings.max_attempts,
            base=settings.retry_base,
            limit=settings.retry_limit,
            lost=lost,
        ):
            self.metrics.recover(job.task, job.status)
        if not self.stopping.is_set():
            await schedule.tick(self.pool, self.kinds)
        return missing


async def _autocommit(conn: psycopg.AsyncConnection[Any]) -> None:
    await conn.set_autocommit(True)


async def main(settings: Settings, secrets: Secrets, kinds: Iterable[Kind]) -> int:
    from mcpstack.worker import web

    # procrastinate's lines repeat the arguments of jobs; ours say what happened without them.
    logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
    service = Service(settings, secrets, kinds)
    log.info("starting", extra={"version": __version__, "environment": settings.environment, "port": settings.port})
    try:
        runner = await web.serve(service)
    except OSError as error:
        log.critical("the port cannot be used", extra={"port": settings.port, "reason": error.strerror})
        return 1
    try:
        return await service.run()
    finally:
        await runner.cleanup()
        log.info("stopped")
