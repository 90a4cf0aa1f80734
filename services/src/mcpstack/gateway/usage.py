# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each key used: added up in memory, written to Postgres every second, told by GET /v1/usage.

A batch whose commit was not heard of is not guessed at: Postgres is asked what became of that transaction, so nothing
is counted twice and nothing is lost. What a process that is killed had not written yet, a second at most, is not
in Postgres; the limits in Valkey have seen it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import psycopg
from fastapi import APIRouter, Request
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from mcpstack.common import database
from mcpstack.common.errors import CATALOGUE, ApiError
from mcpstack.common.limits import Limits, Period, Totals, Verdict, until_end
from mcpstack.common.secretfile import Login, SecretError, SecretFile
from mcpstack.gateway import schemas
from mcpstack.gateway.admission import admit

if TYPE_CHECKING:
    from mcpstack.gateway.service import Gateway

log = logging.getLogger(__name__)

T = TypeVar("T")

_EVERY = 1.0
_PATIENCE = 1.0  # longest wait of a request for Postgres
_PAUSE = 1.0  # after a question without an answer, requests do not ask for this long
_ROWS = 2000  # in one transaction
_MOST = 2**40  # tokens of one request; whatever a model server says, the sums stay numbers
_NAME = 300
_EPOCH = date(1970, 1, 1)

_WRITE = """
INSERT INTO gateway.usage_day AS u (kid, model, day, requests, tokens_in, tokens_out)
SELECT * FROM unnest(%s::text[], %s::text[], %s::date[], %s::bigint[], %s::bigint[], %s::bigint[])
ON CONFLICT (kid, model, day) DO UPDATE SET requests = u.requests + EXCLUDED.requests,
    tokens_in = u.tokens_in + EXCLUDED.tokens_in, tokens_out = u.tokens_out + EXCLUDED.tokens_out"""
_TOTALS = """
SELECT kid, sum(CASE WHEN day = %s THEN tokens_in + tokens_out ELSE 0 END)::bigint, sum(tokens_in + tokens_out)::bigint
FROM gateway.usage_day WHERE kid = ANY(%s) AND day >= %s AND day < %s GROUP BY kid"""
_REPORT = """
SELECT model, day, requests, tokens_in, tokens_out FROM gateway.usage_day
WHERE kid = %s AND day >= %s ORDER BY day, model"""

FAILURES = (psycopg.Error, PoolTimeout, TimeoutError, SecretError, OSError)


class UsageSettings(Protocol):
    @property
    def db_host(self) -> str: ...
    @property
    def db_port(self) -> int: ...
    @property
    def db_name(self) -> str: ...
    @property
    def tls_ca_file(self) -> Path: ...


class Floor(Protocol):
    """The limits, as far as they want to know what is written."""

    @property
    def up(self) -> bool: ...

    def floor(self, kid: str, period: Period, totals: Totals) -> bool: ...


class Row(NamedTuple):
    kid: str
    model: str
    day: int  # since 1970


@dataclass(slots=True)
class Sums:
    requests: int = 0
    prompt: int = 0
    completion: int = 0

    def add(self, other: Sums) -> None:
        self.requests += other.requests
        self.prompt += other.prompt
        self.completion += other.completion


def day_of(number: int) -> date:
    return _EPOCH + timedelta(days=number)


def number_of(day: date) -> int:
    return (day - _EPOCH).days


class Usage:
    def __init__(self, settings: UsageSettings, login: SecretFile[Login]) -> None:
        self._pending: dict[Row, Sums] = {}
        self._doubt: tuple[str, dict[Row, Sums]] | None = None  # a transaction whose end was not heard, what it wrote
        self._owed: dict[str, int] = {}  # kids with a budget, and the day, whose sums Valkey is still to hear
        self.limits: Floor | None = None
        self._lock = asyncio.Lock()
        self._pause_until = 0.0
        self._failing = False
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
            kwargs=lambda: database.parameters(
                settings.db_host, settings.db_port, settings.db_name, settings.tls_ca_file, login, "mcpstack-usage"
            ),
            min_size=1,
            max_size=2,
            timeout=1.0,
            max_lifetime=600,
            reconnect_timeout=10,
            open=False,
        )

    def add(self, kid: str, model: str, day: int, prompt: int, completion: int, *, budgets: bool) -> None:
        """One request that was answered. In memory only: it cannot fail and does not wait."""
        name = model.replace("\0", "")[:_NAME] or "-"  # nothing that the table would refuse
        sums = self._pending.setdefault(Row(kid, name, day), Sums())
        sums.add(Sums(1, min(max(0, prompt), _MOST), min(max(0, completion), _MOST)))
        if budgets:
            self._owed[kid] = max(day, self._owed.get(kid, 0))

    # Writing

    async def run(self) -> None:
        """For ever: write what has come together."""
        await self._pool.open(wait=False)
        while True:
            await asyncio.sleep(_EVERY)
            await self.flush()

    async def flush(self) -> bool:
        """Write everything; False when Postgres cannot be used, and what was not written is kept."""
        try:
            async with self._lock:
                await self._resolve()
                while self._pending:
                    await self._write()
                if self._owed and self.limits is not None and self.limits.up:
                    await self._tell(self.limits)
        except FAILURES as error:
            if not self._failing:
                log.warning("usage cannot be written; it is kept", extra={"reason": database.reason(error)})
            self._failing = True
            return False
        if self._failing:
            log.info("usage is written again")
        self._failing = False
        return True

    async def _write(self) -> None:
        rows = dict(sorted(self._pending.items())[:_ROWS])  # sorted, so that two replicas cannot wait for each other
        async with self._pool.connection() as conn:
            try:
                async with conn.transaction():
                    cursor = await conn.execute(b"SELECT pg_current_xact_id()::text")
                    (xid,) = await cursor.fetchone() or ("",)
                    self._doubt = (xid, rows)
                    for row in rows:
                        del self._pending[row]
                    await conn.execute(_WRITE.encode(), _columns(rows))
            except psycopg.Error:
                if not (conn.broken or conn.closed):
                    self._again()  # it answered, and what it said is that nothing was written
                raise
        self._doubt = None

    async def _tell(self, limits: Floor) -> None:
        """What is written is the least that was used: Valkey may have been away, or have lost what it knew."""
        owed, self._owed = self._owed, {}
        try:
            async with self._pool.connection() as conn:
                for day in set(owed.values()):
                    for kid, period, totals in await _totals(conn, [kid for kid in owed if owed[kid] == day], day):
                        if limits.floor(kid, period, totals):
                            del owed[kid]
        finally:
            self._owed = owed | self._owed

    async def _resolve(self) -> None:
        """What became of the transaction whose end was not heard."""
        if self._doubt is None:
            return
        async with self._pool.connection() as conn:
            try:
                cursor = await conn.execute(b"SELECT pg_xact_status(%s::text::xid8)", (self._doubt[0],))
                (status,) = await cursor.fetchone() or (None,)
            except psycopg.errors.InvalidParameterValue:
                status = "aborted"  # not even begun, as this database knows: it was restored from before
        if status == "in progress":
            raise TimeoutError("the last transaction has not ended yet")
        if status == "committed":
            self._doubt = None
        else:
            self._again()

    def _again(self) -> None:
        if self._doubt is not None:
            for row, sums in self._doubt[1].items():
                self._pending.setdefault(row, Sums()).add(sums)
            self._doubt = None

    async def close(self) -> None:
        """The last write; what cannot be written within the time is lost with the process."""
        if not self._pool.closed and (self._pending or self._doubt):
            flushing = asyncio.ensure_future(self.flush())
            done, _ = await asyncio.wait((flushing,), timeout=2.0)
            if not done or not flushing.result():
                lost = sum(sums.requests for sums in self._pending.values())
                log.error("usage was not written", extra={"requests": lost})
                flushing.cancel()
        await self._pool.close(timeout=1.0)

    # Reading

    async def totals(self, kid: str, period: Period) -> Totals | None:
        """For the limits; None when Postgres does not say at once."""
        if time.monotonic() < self._pause_until:
            return None
        try:
            return await asyncio.wait_for(asyncio.shield(_quietly(self._ask_totals(kid, period.day))), _PATIENCE)
        except FAILURES:
            self._pause_until = time.monotonic() + _PAUSE
            return None

    async def _ask_totals(self, kid: str, day: int) -> Totals:
        async with self._pool.connection() as conn:
            found = await _totals(conn, [kid], day)
        return found[0][2] if found else Totals(0, 0)

    async def report(self, kid: str, since: date) -> dict[Row, Sums]:
        """What this key used since that day, with what is still to be written here."""
        try:
            return await asyncio.wait_for(asyncio.shield(_quietly(self._ask_report(kid, since))), _PATIENCE)
        except FAILURES:
            raise ApiError("usage_unavailable", "Usage cannot be read at the moment.") from None

    async def _ask_report(self, kid: str, since: date) -> dict[Row, Sums]:
        async with self._lock:  # nothing is on its way from here to there meanwhile
            await self._resolve()
            async with self._pool.connection() as conn:
                cursor = await conn.execute(_REPORT.encode(), (kid, since))
                rows = await cursor.fetchall()
            found = {Row(kid, model, number_of(day)): Sums(*sums) for model, day, *sums in rows}
            for row, sums in self._pending.items():
                if row.kid == kid and row.day >= number_of(since):
                    found.setdefault(row, Sums()).add(sums)
            return dict(sorted(found.items(), key=lambda item: (item[0].day, item[0].model)))


def _quietly(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Not cancelled when nobody waits any more: psycopg would then wait for a server that does not answer."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def _columns(rows: dict[Row, Sums]) -> tuple[list[Any], ...]:
    return (
        [row.kid for row in rows],
        [row.model for row in rows],
        [day_of(row.day) for row in rows],
        [sums.requests for sums in rows.values()],
        [sums.prompt for sums in rows.values()],
        [sums.completion for sums in rows.values()],
    )


async def _totals(
    conn: psycopg.AsyncConnection[Any], kids: Sequence[str], day: int
) -> list[tuple[str, Period, Totals]]:
    today = day_of(day)
    first = today.replace(day=1)
    after = (first + timedelta(days=31)).replace(day=1)
    cursor = await conn.execute(_TOTALS.encode(), (today, list(kids), first, after))
    period = Period(day, today.year * 12 + today.month)
    return [(kid, period, Totals(of_day, of_month)) for kid, of_day, of_month in await cursor.fetchall()]


# GET /v1/usage


class UsageSums(BaseModel):
    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class UsageEntry(UsageSums):
    day: date
    model: str


class UsageLimits(BaseModel):
    requests_per_minute: int
    concurrency: int
    tokens_per_minute: int | None
    tokens_per_day: int | None
    tokens_per_month: int | None


class UsageRemaining(BaseModel):
    tokens_this_day: int | None
    tokens_this_month: int | None
    day_ends_in_seconds: int
    month_ends_in_seconds: int


class UsageReport(BaseModel):
    object: Literal["usage"]
    kid: str
    since: date
    data: list[UsageEntry]
    today: UsageSums
    this_month: UsageSums
    limits: UsageLimits
    remaining: UsageRemaining


def router(gateway: Gateway) -> APIRouter:
    routes = APIRouter()
    codes = {status: sorted(code for code, kind in CATALOGUE.items() if kind.status == status) for status in _STATUSES}
    answers: dict[int | str, dict[str, Any]] = {
        status: {"model": schemas.ErrorBody, "description": ", ".join(names)} for status, names in codes.items()
    }

    @routes.get(
        "/v1/usage",
        responses={200: {"model": UsageReport}, **answers},
        response_model=None,
        openapi_extra={"security": [{"apiKey": []}], "parameters": [_DAYS]},
        tags=["openai"],
    )
    async def usage(request: Request) -> Response:
        """What the key of this request used, by day and model, and what its limits leave. Days and months are UTC."""
        admission = await admit(gateway, request, None)
        days = request.query_params.get("days", "31")
        if not re.fullmatch(r"[1-9][0-9]?", days, re.ASCII) or int(days) > _MOST_DAYS:
            raise ApiError("invalid_request", f"days: a whole number from 1 to {_MOST_DAYS} is needed.", param="days")
        verdict = admission.verdict
        today = day_of(verdict.seconds // 86400)
        since = today - timedelta(days=int(days) - 1)
        rows = await gateway.usage.report(admission.key.kid, min(since, today.replace(day=1)))
        return JSONResponse(_report(admission.key.kid, since, today, rows, admission.limits, verdict))

    return routes


_STATUSES = (400, 401, 429, 503)
_MOST_DAYS = 92
_DAYS = {
    "name": "days",
    "in": "query",
    "description": "How many days to tell of, with today",
    "schema": {"type": "integer", "minimum": 1, "maximum": _MOST_DAYS, "default": 31},
}


def _report(
    kid: str, since: date, today: date, rows: dict[Row, Sums], limits: Limits, verdict: Verdict
) -> dict[str, Any]:
    day, month = Sums(), Sums()
    for row, sums in rows.items():
        if day_of(row.day) == today:
            day.add(sums)
        if day_of(row.day) >= today.replace(day=1):
            month.add(sums)
    day_ends, month_ends = until_end(verdict.seconds)

    def left(limit: int, used: int, held: int) -> int | None:
        """What running requests hold counts; Postgres may know of more than Valkey, and the other way round."""
        return max(0, limit - max(used, held)) if limit else None

    return {
        "object": "usage",
        "kid": kid,
        "since": since.isoformat(),
        "data": [
            {"day": day_of(row.day).isoformat(), "model": row.model, **_sums(sums)}
            for row, sums in rows.items()
            if day_of(row.day) >= since
        ],
        "today": _sums(day),
        "this_month": _sums(month),
        "limits": {
            "requests_per_minute": limits.rpm,
            "concurrency": limits.concurrency,
            "tokens_per_minute": limits.tpm or None,
            "tokens_per_day": limits.tokens_day or None,
            "tokens_per_month": limits.tokens_month or None,
        },
        "remaining": {
            "tokens_this_day": left(limits.tokens_day, day.prompt + day.completion, verdict.day_used),
            "tokens_this_month": left(limits.tokens_month, month.prompt + month.completion, verdict.month_used),
            "day_ends_in_seconds": day_ends,
            "month_ends_in_seconds": month_ends,
        },
    }


def _sums(sums: Sums) -> dict[str, int]:
    return {
        "requests": sums.requests,
        "prompt_tokens": sums.prompt,
        "completion_tokens": sums.completion,
        "total_tokens": sums.prompt + sums.completion,
    }
