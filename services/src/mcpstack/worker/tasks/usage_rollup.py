# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Usage of a day into usage of a month, so that the days can be deleted and the totals stay.

Repeatable: a month is computed anew from all its days and replaces what was there. A month whose days are old enough
to be deleted is left alone, so a sum never shrinks because days are gone.
"""

from __future__ import annotations

from typing import Any

from mcpstack.worker.kinds import Work
from mcpstack.worker.payloads import Nothing

# The first day whose month still has all its days.
WHOLE = "date_trunc('month', (now() AT TIME ZONE 'UTC')::date - %(keep)s::int)::date + interval '1 month'"
_ROLL_UP = f"""
INSERT INTO jobs.usage_month AS known (kid, model, month, requests, tokens_in, tokens_out)
SELECT kid, model, date_trunc('month', day)::date, sum(requests), sum(tokens_in), sum(tokens_out)
  FROM gateway.usage_day WHERE day >= {WHOLE} GROUP BY 1, 2, 3
ON CONFLICT (kid, model, month) DO UPDATE
   SET requests = excluded.requests, tokens_in = excluded.tokens_in, tokens_out = excluded.tokens_out,
       updated_at = now()
 WHERE (known.requests, known.tokens_in, known.tokens_out)
       IS DISTINCT FROM (excluded.requests, excluded.tokens_in, excluded.tokens_out)"""  # noqa: S608 - no input in it


async def run(work: Work, _: Nothing) -> dict[str, Any]:
    return {"changed": await roll_up(work)}


async def roll_up(work: Work) -> int:
    async with work.pool.connection() as conn, conn.transaction():
        await conn.execute("SET LOCAL statement_timeout = '60s'")
        return (await conn.execute(_ROLL_UP, {"keep": work.settings.keep_usage_days})).rowcount
