# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signs of life, and jobs whose worker is gone.

This is not a periodic job, because such a job can be the one that is stuck. It is one statement for all workers: a job
is taken back only as long as it is still the same run (worker and number of attempts) that was seen to be dead.

A job that was running when its worker died may be what killed it. It goes back under a lock that all such jobs share,
so they run one at a time: the one that kills the process does so alone, and the others are not counted out with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from mcpstack.worker.kinds import Pool

log = logging.getLogger(__name__)

SUSPECT = "suspect"

_BEAT = "UPDATE jobs.procrastinate_workers SET last_heartbeat = now() WHERE id = %s RETURNING now()"

_TAKE_BACK = """
WITH dead AS MATERIALIZED (
    SELECT job.id, job.worker_id, job.attempts
      FROM jobs.procrastinate_jobs job
      LEFT JOIN jobs.procrastinate_workers worker ON worker.id = job.worker_id
     WHERE job.status = 'doing'
       AND (worker.id IS NULL OR worker.last_heartbeat < now() - %(stalled)s::interval OR job.id = ANY(%(lost)s))
), changed AS (
    UPDATE jobs.procrastinate_jobs job
       SET status = (CASE WHEN job.abort_requested THEN 'aborted'
                          WHEN job.attempts >= %(cap)s - 1 THEN 'failed'
                          ELSE 'todo' END)::jobs.procrastinate_job_status,
           attempts = least(job.attempts, 1000000) + 1, -- whatever somebody wrote there by hand
           abort_requested = false,
           worker_id = NULL,
           lock = %(suspect)s,
           scheduled_at = now() + interval '1 second'
                        * least(%(limit)s, %(base)s * 2 ^ greatest(0, least(job.attempts, 30)))
      FROM dead
     WHERE job.id = dead.id AND job.status = 'doing' AND job.attempts = dead.attempts
       AND job.worker_id IS NOT DISTINCT FROM dead.worker_id
    RETURNING job.id, job.task_name, job.status::text, job.attempts
), noted AS (
    INSERT INTO jobs.outcome (job_id, attempt, reason, message)
    SELECT id, attempts, 'worker_died', 'The worker ended while it ran this task.' FROM changed
    ON CONFLICT (job_id) DO UPDATE
       SET attempt = excluded.attempt, at = now(), reason = excluded.reason, message = excluded.message, result = NULL
), pruned AS (
    DELETE FROM jobs.procrastinate_workers WHERE last_heartbeat < now() - 10 * %(stalled)s::interval
)
SELECT * FROM changed"""

_GIVE_BACK = """
UPDATE jobs.procrastinate_jobs
   SET status = (CASE WHEN abort_requested THEN 'aborted' ELSE 'todo' END)::jobs.procrastinate_job_status,
       attempts = least(attempts, 1000000) + 1, abort_requested = false, worker_id = NULL
 WHERE worker_id = %s AND status = 'doing' RETURNING id"""


class Recovered(NamedTuple):
    job_id: int
    task: str
    status: str
    attempts: int


async def beat(pool: Pool, worker_id: int) -> datetime | None:
    """Say that this worker lives; returns the time of the database, or None when it was given up as dead."""
    async with pool.connection() as conn:
        cursor = await conn.execute(_BEAT, (worker_id,))
        row = await cursor.fetchone()
    return row[0] if row else None


async def doing(pool: Pool, worker_id: int) -> list[tuple[int, int]]:
    """The jobs that this worker should be running, with their attempts."""
    async with pool.connection() as conn:
        cursor = await conn.execute(
            "SELECT id, attempts FROM jobs.procrastinate_jobs WHERE worker_id = %s AND status = 'doing'", (worker_id,)
        )
        return [(row[0], row[1]) for row in await cursor.fetchall()]


async def take_back(
    pool: Pool, *, stalled_after: float, cap: int, base: float, limit: float, lost: Sequence[int] = ()
) -> list[Recovered]:
    """Take back the jobs of dead workers, and those in `lost`, which their living worker knows nothing of."""
    values = {
        "stalled": f"{stalled_after} seconds",
        "cap": cap,
        "base": base,
        "limit": limit,
        "lost": list(lost),
        "suspect": SUSPECT,
    }
    async with pool.connection() as conn:
        cursor = await conn.execute(_TAKE_BACK, values)
        found = [Recovered(*row) for row in await cursor.fetchall()]
    for job in found:
        level = logging.ERROR if job.status == "failed" else logging.WARNING
        log.log(
            level,
            "a job was taken back" if job.status != "failed" else "a job became a dead letter",
            extra={"job_id": job.job_id, "task": job.task, "attempt": job.attempts, "reason": "worker_died"},
        )
    return found


async def give_back(pool: Pool, worker_id: int) -> int:
    """Put back what this worker did not end in time; it must not go on running afterwards."""
    async with pool.connection() as conn:
        cursor = await conn.execute(_GIVE_BACK, (worker_id,))
        return len(await cursor.fetchall())
