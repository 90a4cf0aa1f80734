# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the partitions of the next months, drop old ones, delete what has been kept long enough.

Repeatable: each step asks for a state (these partitions, nothing older than that) and finds it already there. Rows go
in batches of their own transactions, so a run that is cut short has done its part and nothing waits long for a lock.
"""

from __future__ import annotations

from typing import Any

from mcpstack.worker.kinds import Work
from mcpstack.worker.payloads import Nothing
from mcpstack.worker.tasks import usage_rollup

_AHEAD = 2
_BATCH = 1000
_FINISHED = """
DELETE FROM jobs.procrastinate_jobs WHERE id IN (
    SELECT job.id FROM jobs.procrastinate_jobs job
     WHERE job.status = ANY(%(statuses)s::jobs.procrastinate_job_status[])
       AND coalesce((SELECT max(event.at) FROM jobs.procrastinate_events event WHERE event.job_id = job.id),
                    '-infinity') < now() - make_interval(days => %(days)s)
     ORDER BY job.id LIMIT %(batch)s FOR UPDATE SKIP LOCKED)"""
# Whole months only, and only what the totals of the month hold.
_USAGE = f"""
DELETE FROM gateway.usage_day WHERE (kid, model, day) IN (
    SELECT day.kid, day.model, day.day FROM gateway.usage_day day
      JOIN jobs.usage_month month
        ON month.kid = day.kid AND month.model = day.model AND month.month = date_trunc('month', day.day)::date
     WHERE day.day < {usage_rollup.WHOLE} LIMIT %(batch)s)"""  # noqa: S608 - no input in it


async def run(work: Work, _: Nothing) -> dict[str, Any]:
    settings = work.settings
    made = [
        *await _names(work, "SELECT unnest(gateway.audit_log_make_months(%s))", _AHEAD),
        *await _names(work, "SELECT registry.tool_call_make_partitions(%s)", _AHEAD),
    ]
    dropped = [
        *await _names(work, "SELECT unnest(gateway.audit_log_drop_months(%s))", settings.keep_audit_months),
        *await _names(work, "SELECT registry.tool_call_drop_partitions(%s)", settings.keep_call_months),
    ]
    await usage_rollup.roll_up(work)
    finished = {"statuses": ["succeeded", "cancelled", "aborted"], "days": settings.keep_jobs_days}
    dead = {"statuses": ["failed"], "days": settings.keep_dead_letters_days}
    return {
        "partitions_made": made,
        "partitions_dropped": dropped,
        "jobs": await _batches(work, "jobs", _FINISHED, finished),
        "dead_letters": await _batches(work, "dead_letters", _FINISHED, dead),
        "usage_days": await _batches(work, "usage_days", _USAGE, {"keep": settings.keep_usage_days}),
    }


async def _names(work: Work, query: str, value: int) -> list[str]:
    async with work.pool.connection() as conn, conn.transaction():
        await conn.execute("SET LOCAL statement_timeout = '60s'")
        await conn.execute("SET LOCAL lock_timeout = '5s'")
        return [row[0] for row in await (await conn.execute(query.encode(), (value,))).fetchall()]


async def _batches(work: Work, what: str, query: str, values: dict[str, Any]) -> int:
    total = 0
    while True:
        async with work.pool.connection() as conn, conn.transaction():
            await conn.execute("SET LOCAL statement_timeout = '60s'")
            number = (await conn.execute(query.encode(), {**values, "batch": _BATCH})).rowcount
        total += number
        work.metrics.cleaned.labels(what).inc(number)
        if number < _BATCH:
            return total
