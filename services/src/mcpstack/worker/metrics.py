# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus metrics. Labels are kinds of tasks and words fixed here; what is in a job's row never becomes one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from mcpstack import __version__
from mcpstack.worker.kinds import Pool
from mcpstack.worker.patience import within

if TYPE_CHECKING:
    from mcpstack.registry.outbound_metrics import Metrics as OutboundMetrics

_DURATION = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
_OUTCOMES = ("succeeded", "retried", "dead", "cancelled", "interrupted")
_STATES = ("todo", "doing", "failed")

# Of the oldest job in each group, the last event that has come: deferred or due, started, failed.
_QUEUE = """
SELECT queue_name, task_name, status::text, number,
       extract(epoch FROM now() - (SELECT max(at) FROM jobs.procrastinate_events WHERE job_id = oldest AND at <= now()))
  FROM (SELECT queue_name, task_name, status, count(*) AS number,
               min(id) FILTER (WHERE status <> 'todo' OR scheduled_at IS NULL OR scheduled_at <= now()) AS oldest
          FROM jobs.procrastinate_jobs WHERE status IN ('todo', 'doing', 'failed')
         GROUP BY queue_name, task_name, status) AS job"""
_HEALTH = "SELECT service, up FROM jobs.service_health"
_WORKERS = "SELECT count(*) FROM jobs.procrastinate_workers WHERE last_heartbeat > now() - %s::interval"


class Metrics:
    def __init__(self, kinds: Iterable[str]) -> None:
        self._kinds = frozenset(kinds)
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        Gauge("worker_build_info", "Version of the worker", ["version"], registry=r).labels(__version__).set(1)
        self.jobs = Counter("worker_jobs", "Runs of jobs, by how they ended", ["task", "outcome"], registry=r)
        self.duration = Histogram(
            "worker_job_duration_seconds", "Time of a run", ["task"], buckets=_DURATION, registry=r
        )
        self.running = Gauge("worker_jobs_running", "Jobs being run by this worker", ["task"], registry=r)
        self.recovered = Counter(
            "worker_jobs_recovered", "Jobs of dead workers, by what became of them", ["task", "outcome"], registry=r
        )
        self.queue = Gauge("worker_queue_jobs", "Jobs in the queue", ["queue", "task", "status"], registry=r)
        self.oldest = Gauge(
            "worker_queue_oldest_seconds",
            "How long the oldest job has been in its state; waiting ones count from when they are due",
            ["queue", "task", "status"],
            registry=r,
        )
        self.dead = Gauge("worker_dead_letters", "Jobs that failed for good", ["task"], registry=r)
        self.queue_read = Gauge("worker_queue_read", "1 while the figures of the queue are fresh", registry=r)
        self.alive = Gauge("worker_workers_alive", "Workers with a recent sign of life", registry=r)
        self.heartbeat = Gauge(
            "worker_last_heartbeat_timestamp_seconds", "Last sign of life that was written", registry=r
        )
        self.clock = Gauge("worker_clock_offset_seconds", "Clock of the database minus this one", registry=r)
        self.up = Gauge("worker_service_up", "1 when the last health_check reached it", ["service"], registry=r)
        self.free = Gauge("worker_models_free_bytes", "Free space where the models are", registry=r)
        self.files = Gauge("worker_model_files", "Model files by what model_cache found", ["state"], registry=r)
        self.embedded = Counter("worker_tools_embedded", "Tools embedded by vector_index", registry=r)
        self.cleaned = Counter("worker_rows_deleted", "Rows deleted by data_cleanup", ["what"], registry=r)
        for kind in self._kinds:
            self.running.labels(kind).set(0)
            for outcome in _OUTCOMES:
                self.jobs.labels(kind, outcome)

        self._outbound: OutboundMetrics | None = None

    def outbound(self) -> OutboundMetrics:
        """What a synchronisation of MCP servers counts; made when there is the first one."""
        if self._outbound is None:
            from mcpstack.registry.outbound_metrics import Metrics as Found

            self._outbound = Found(self.registry)
        return self._outbound

    def label(self, task: str) -> str:
        return task if task in self._kinds else "other"

    def recover(self, task: str, status: str) -> None:
        self.recovered.labels(self.label(task), {"failed": "dead", "todo": "retried"}.get(status, "cancelled")).inc()


class Collector:
    """Reads the figures that are the database's, at most once in a while, and never for long."""

    def __init__(self, metrics: Metrics, pool: Pool, stalled_after: float, keep: float = 5.0) -> None:
        self._metrics, self._pool, self._stalled, self._keep = metrics, pool, stalled_after, keep
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        async with self._lock:
            if time.monotonic() - self._read_at < self._keep:
                return
            groups, health, alive = await within(3, self._read())
            self._read_at = time.monotonic()
        metrics = self._metrics
        sums: dict[tuple[str, str, str], tuple[int, float]] = {}
        for queue, task, status, number, age in groups:
            place = ("default" if queue == "default" else "other", metrics.label(task), status)
            before = sums.get(place, (0, 0.0))
            sums[place] = (before[0] + number, max(before[1], float(age or 0)))
        self._fill(sums)
        metrics.up.clear()
        for service, up in health:
            metrics.up.labels(service).set(up)
        metrics.alive.set(alive[0] if alive else 0)

    async def _read(self) -> tuple[list[Any], list[Any], Any]:
        async with self._pool.connection() as conn:
            groups = await (await conn.execute(_QUEUE)).fetchall()
            health = await (await conn.execute(_HEALTH)).fetchall()
            alive = await (await conn.execute(_WORKERS, (f"{self._stalled} seconds",))).fetchone()
        return groups, health, alive

    def _fill(self, sums: Mapping[tuple[str, str, str], tuple[int, float]]) -> None:
        metrics = self._metrics
        for gauge in (metrics.queue, metrics.oldest, metrics.dead):
            gauge.clear()
        for status in _STATES:  # an empty queue is a figure, not a gap
            metrics.queue.labels("default", "other", status).set(0)
        for place, (number, age) in sums.items():
            metrics.queue.labels(*place).set(number)
            metrics.oldest.labels(*place).set(max(0.0, age))
        for kind in ("other", *metrics._kinds):
            metrics.dead.labels(kind).set(0)
        for (_, task, status), (number, _) in sums.items():
            if status == "failed":
                metrics.dead.labels(task).inc(number)
