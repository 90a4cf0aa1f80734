# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scheduled jobs: one for each tick, however many workers there are and whatever their clocks say.

The tick is computed from the clock of the database, and taking it and deferring the job is one statement.
procrastinate's own scheduler goes by each worker's clock: two workers whose clocks differ by more than one interval
both defer every tick.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from mcpstack.worker.kinds import Kind, Pool

log = logging.getLogger(__name__)

_TAKE = """
WITH taken AS (
    INSERT INTO jobs.schedule AS schedule (kind, tick)
    VALUES (%(kind)s, date_bin(%(every)s::interval, now(), timestamptz '2000-01-01 00:00Z' + %(offset)s::interval))
    ON CONFLICT (kind) DO UPDATE SET tick = excluded.tick WHERE schedule.tick < excluded.tick
    RETURNING tick
)
SELECT jobs.defer(%(kind)s, %(args)s::jsonb, %(dedupe)s), tick FROM taken"""


# Of scheduled runs that failed for good only the last one stays: more would say the same, once for each tick.
_FORGET = """
DELETE FROM jobs.procrastinate_jobs job WHERE job.status = 'failed' AND job.queueing_lock = %(dedupe)s
   AND job.id < (SELECT max(id) FROM jobs.procrastinate_jobs
                  WHERE status = 'failed' AND queueing_lock = %(dedupe)s)"""


async def tick(pool: Pool, kinds: Iterable[Kind]) -> list[str]:
    """Defer what is due; returns the names of the kinds whose tick this worker took."""
    taken = []
    for kind in kinds:
        if kind.every is None:
            continue
        values = {
            "kind": kind.name,
            "every": f"{kind.every} seconds",
            "offset": f"{kind.offset} seconds",
            "args": json.dumps(kind.args),
            # A run that is still waiting does for this tick as well.
            "dedupe": kind.name,
        }
        async with pool.connection() as conn:
            cursor = await conn.execute(_TAKE, values)
            row = await cursor.fetchone()
            if row is not None:
                await conn.execute(_FORGET, values)
        if row is not None:
            taken.append(kind.name)
            log.debug("scheduled", extra={"task": kind.name, "job_id": row[0], "tick": row[1].isoformat()})
    return taken
