# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs themselves: procrastinate, with our own idea of retries, time limits, outcomes and logs.

procrastinate's log lines repeat the arguments of jobs, so they are switched off and this module writes its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Container, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import procrastinate
import psycopg
from procrastinate.exceptions import ConnectorException, JobAborted
from procrastinate.job_context import AbortReason, JobContext, JobResult
from procrastinate.jobs import Job, Status
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from procrastinate.worker import Worker
from psycopg.types.json import Jsonb
from psycopg_pool import PoolTimeout
from pydantic import ValidationError

from mcpstack.common import database
from mcpstack.common.logs import redact
from mcpstack.common.secretfile import SecretError
from mcpstack.worker.kinds import Kind, PermanentError, Pool, TaskError, Work
from mcpstack.worker.metrics import Metrics
from mcpstack.worker.settings import Secrets, Settings

log = logging.getLogger(__name__)

_OUTCOME = """
INSERT INTO jobs.outcome (job_id, attempt, reason, message, result) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (job_id) DO UPDATE SET attempt = excluded.attempt, at = now(), reason = excluded.reason,
    message = excluded.message, result = excluded.result"""
# The number of attempts tells one run of a job from the next: what another worker has taken over is left alone.
_OURS = """
SELECT FROM jobs.procrastinate_jobs WHERE id = %s AND worker_id = %s AND attempts = %s AND status = 'doing'"""
# An interruption is not the job's fault and does not count.
_PUT_BACK = """
UPDATE jobs.procrastinate_jobs
   SET status = (CASE WHEN abort_requested THEN 'aborted' ELSE 'todo' END)::jobs.procrastinate_job_status,
       abort_requested = false, worker_id = NULL
 WHERE id = %s AND worker_id = %s AND attempts = %s AND status = 'doing'"""
_TROUBLE = (psycopg.Error, PoolTimeout, OSError, ConnectorException, SecretError)
_WRITE_AGAIN = 0.5
_STOP_AGAIN = 1.0


class InterruptedTaskError(Exception):
    """The worker is being stopped; the job goes back as it was."""


class PutBack(RetryDecision):
    """The job goes back as it was."""


class Backoff(BaseRetryStrategy):
    """Twice the pause each time, somewhere in its upper half, by the clock of the database."""

    def __init__(self, attempts: int, base: float, limit: float, now: Callable[[], datetime]) -> None:
        self._attempts, self._base, self._limit, self._now = attempts, base, limit, now

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, InterruptedTaskError | asyncio.CancelledError):
            return PutBack()
        if isinstance(exception, PermanentError) or job.attempts + 1 >= self._attempts:
            return None
        return RetryDecision(retry_at=self._now() + timedelta(seconds=self.pause(job.attempts)))

    def pause(self, attempts: int) -> float:
        longest = min(self._limit, self._base * 2.0 ** min(attempts, 30))
        return random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, protects nothing


class FencedWorker(Worker):
    """Writes the end of a run only while the run is still its own, and again when the database is away for a moment."""

    def __init__(
        self, app: procrastinate.App, pool: Pool, known: Container[str], patience: float, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._pool, self._known, self._patience = pool, known, patience

    async def _persist_job_status(
        self,
        job: Job,
        status: Status,
        retry_decision: RetryDecision | None,
        context: JobContext,
        job_result: JobResult | None,
    ) -> None:
        until = time.monotonic() + self._patience
        run = (job.id, job.worker_id, job.attempts)
        while True:
            try:
                async with self._pool.connection() as conn:
                    if isinstance(retry_decision, PutBack):
                        await conn.execute(_PUT_BACK, run)
                        return
                    ours = await (await conn.execute(_OURS, run)).fetchone()
                if ours is None:
                    log.warning("a job was taken over by another worker", extra={"job_id": job.id})
                    return
                if job.task_name not in self._known:
                    await self._unknown(job)
                await super()._persist_job_status(job, status, retry_decision, context, job_result)
            except _TROUBLE as error:
                if time.monotonic() > until:
                    # It stays "doing" under our name, which the guard notices.
                    fields = {"job_id": job.id, "reason": why(error)}
                    log.error("the end of a job could not be written", extra=fields)  # noqa: TRY400 - no trace needed
                    return
            else:
                return
            await asyncio.sleep(_WRITE_AGAIN)

    async def _unknown(self, job: Job) -> None:
        message = "This release of the worker does not know the task."
        log.error("a job became a dead letter", extra={"job_id": job.id, "task": "other", "reason": "unknown_task"})
        async with self._pool.connection() as conn:
            await conn.execute(_OUTCOME, (job.id, job.attempts + 1, "unknown_task", message, None))


def why(error: BaseException) -> str:
    """In a few words, without addresses."""
    if isinstance(error, SecretError):
        return str(error)
    return database.reason(error.__cause__ if isinstance(error, ConnectorException) and error.__cause__ else error)


class Queue:
    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        pool: Pool,
        work_pool: Pool,
        kinds: Iterable[Kind],
        metrics: Metrics,
    ) -> None:
        """`pool` finds the queue's tables without their schema; `work_pool` is for what handlers do."""
        self.settings, self.secrets, self.metrics = settings, secrets, metrics
        self.pool, self.work_pool = pool, work_pool
        self.kinds = {kind.name: kind for kind in kinds}
        self.http: aiohttp.ClientSession | None = None
        self.worker: Worker | None = None
        self.clock_offset = timedelta()
        self.active: dict[int, str] = {}  # jobs whose handlers are at work, and their kinds
        self._interrupted = False
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector())
        for kind in self.kinds.values():
            retry = Backoff(kind.attempts or settings.max_attempts, settings.retry_base, settings.retry_limit, self.now)
            self._app.task(name=kind.name, retry=retry, pass_context=True)(self._handler(kind))

    def now(self) -> datetime:
        return datetime.now(UTC) + self.clock_offset

    async def open(self) -> None:
        await self._app.open_async(self.pool)

    def new_worker(self) -> Worker:
        """One stay in the queue: registered with the database until it ends."""
        self._interrupted = False
        self.worker = FencedWorker(
            self._app,
            self.pool,
            self.kinds,
            self.settings.stalled_after / 2,
            name=None,
            concurrency=self.settings.concurrency,
            fetch_job_polling_interval=self.settings.poll_interval,
            abort_job_polling_interval=self.settings.poll_interval,
            shutdown_graceful_timeout=self.settings.shutdown_grace,
            stalled_worker_timeout=self.settings.stalled_after,
            # Its own heartbeat ends with the first failure and nothing notices; ours is in the service.
            update_heartbeat_interval=10**9,
            install_signal_handlers=False,
            worker_middleware=[self._around],
        )
        return self.worker

    def stop(self) -> None:
        """Take no more jobs; those that run may end within the grace."""
        if self.worker is not None:
            self.worker.stop()  # type: ignore[no-untyped-call]

    def interrupt(self) -> None:
        """The jobs may have been given to others: stop them now, without grace."""
        self._interrupted = True
        if self.worker is not None:
            self.worker.shutdown_graceful_timeout = 0.0
            self.stop()
            # Not left to the worker: it may be waiting for a database that does not answer.
            for task, context in list(self.worker._running_jobs.items()):
                self.worker._abort_job(task, context, AbortReason.SHUTDOWN)

    def running(self) -> dict[int, str]:
        """Jobs that are being run or whose end is being written, by id."""
        contexts = self.worker._running_jobs.values() if self.worker is not None else ()
        return {context.job.id: context.job.task_name for context in contexts if context.job.id is not None}

    # One run

    def _handler(self, kind: Kind) -> Callable[..., Awaitable[Any]]:
        async def run(context: JobContext, /, **arguments: Any) -> dict[str, Any] | None:
            try:
                payload = kind.payload.model_validate(arguments)
            except ValidationError as error:
                places = sorted({".".join(str(part) for part in entry["loc"])[:64] for entry in error.errors()})
                message = f"The arguments of this task do not fit: {', '.join(places)[:500]}."
                raise PermanentError("invalid_payload", message) from None
            assert self.http is not None and context.job.id is not None  # noqa: S101, PT018 - opened before the worker
            work = Work(
                self.settings,
                self.secrets,
                self.work_pool,
                self.http,
                self.metrics,
                context.job.id,
                context.job.attempts + 1,
                context.should_abort,
            )
            return await kind.run(work, payload)

        return run

    async def _around(self, call: Callable[[], Awaitable[Any]], context: JobContext, _: Worker) -> Any:
        job = context.job
        kind = self.kinds[job.task_name]
        began = time.monotonic()
        self.metrics.running.labels(kind.name).inc()
        self.active[job.id] = kind.name  # type: ignore[index]  # a fetched job has an id
        outcome: str = "dead"
        reason: str | None = "internal"
        try:
            result = await self._limited(call, kind, context)
            await self._note(job, None, None, result)
            outcome, reason = "succeeded", None
        except JobAborted:
            await self._note(job, "cancelled", "Stopped because its owner asked for it.", None)
            outcome, reason = "cancelled", None
            raise
        except (InterruptedTaskError, asyncio.CancelledError):
            # Also when its end was just being noted: it is run again, which every handler allows for.
            outcome, reason = "interrupted", None
            raise InterruptedTaskError from None
        except TaskError as error:
            outcome, reason = self._fate(error, job, kind), error.reason
            await self._note(job, error.reason, error.message, None)
            raise
        except Exception as error:
            outcome = self._fate(error, job, kind)
            log.exception("a task failed in an unexpected way", extra={"job_id": job.id, "task": kind.name})
            await self._note(job, reason, f"Something unexpected happened ({type(error).__name__}).", None)
            raise
        finally:
            took = time.monotonic() - began
            del self.active[job.id]  # type: ignore[arg-type]
            self.metrics.running.labels(kind.name).dec()
            self.metrics.jobs.labels(kind.name, outcome).inc()
            self.metrics.duration.labels(kind.name).observe(took)
            log.log(
                {"dead": logging.ERROR, "retried": logging.WARNING}.get(outcome, logging.INFO),
                "job",
                extra={
                    "job_id": job.id,
                    "task": kind.name,
                    "attempt": job.attempts + 1,
                    "outcome": outcome,
                    "reason": reason,
                    "duration_ms": round(took * 1000, 1),
                },
            )
        return None

    async def _limited(self, call: Callable[[], Awaitable[Any]], kind: Kind, context: JobContext) -> Any:
        stopper = asyncio.create_task(self._stop_again(asyncio.current_task(), context))
        try:
            async with asyncio.timeout(kind.limit) as limit:
                return await call()
        except TimeoutError as error:
            if not limit.expired():
                raise TaskError("timeout", "Something this task waits for did not answer in time.") from error
            raise TaskError("time_limit", f"The task took longer than {kind.limit:g} s.") from error
        except asyncio.CancelledError:
            if context.abort_reason() is AbortReason.SHUTDOWN or self._interrupted:
                raise InterruptedTaskError from None
            if context.abort_reason() is AbortReason.USER_REQUEST:
                raise JobAborted from None
            raise TaskError("internal", "The task cancelled itself.") from None
        except SystemExit:
            raise TaskError("internal", "The task tried to end the worker.") from None
        except Exception:
            if context.abort_reason() is AbortReason.USER_REQUEST:
                raise JobAborted from None  # it need not be tried again
            raise
        finally:
            stopper.cancel()

    @staticmethod
    async def _stop_again(task: asyncio.Task[Any] | None, context: JobContext) -> None:
        """A cancellation that arrives as a library's own wait ends can get lost in it, and comes only once."""
        while task is not None:
            await asyncio.sleep(_STOP_AGAIN)
            if context.abort_reason() is AbortReason.USER_REQUEST:
                task.cancel()

    def _fate(self, error: Exception, job: Job, kind: Kind) -> str:
        last = job.attempts + 1 >= (kind.attempts or self.settings.max_attempts)
        return "dead" if last or isinstance(error, PermanentError) else "retried"

    async def _note(self, job: Job, reason: str | None, message: str | None, result: Any) -> None:
        """What came of a run; the state of the job itself is written by procrastinate right after."""
        if reason is None and not result and not job.attempts:
            return
        values = (
            job.id,
            job.attempts + 1,
            reason[:64] if reason else None,
            redact(message)[:1000] if message else None,
            Jsonb(result) if result else None,
        )
        try:
            async with self.pool.connection() as conn:
                await conn.execute(_OUTCOME, values)
        except _TROUBLE as error:
            log.warning("an outcome could not be written", extra={"job_id": job.id, "reason": why(error)})
