# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a key may ask: requests and tokens a minute, requests at once, tokens a day and a month.

Valkey decides for all replicas together (see limits_script). A request that works for a while has a lease there with
the tokens reserved for it; it ends with what was really used, once, and by itself when this process is gone.

While Valkey does not answer, this process decides with its share, limit / replicas: slower to refuse across replicas,
never unlimited. Valkey is used again as soon as the monitor's check succeeds.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

from mcpstack.common import tracing
from mcpstack.common.errors import ApiError
from mcpstack.common.limits_script import LIMITS
from mcpstack.common.valkey import FAILURES, AnswerError, Link, Script, ValkeySettings

log = logging.getLogger(__name__)

_REMEMBERED = 10_000
_PROBE = "-"  # no kid looks like this


class LimiterSettings(ValkeySettings, Protocol):
    @property
    def replicas(self) -> int: ...


class Limits(NamedTuple):
    """Of one key. Zero is no limit, but for requests, which always have one."""

    rpm: int
    concurrency: int
    tpm: int = 0
    tokens_day: int = 0
    tokens_month: int = 0


class Period(NamedTuple):
    """Where a moment falls: days since 1970 and year * 12 + month, both in UTC."""

    day: int
    month: int

    @classmethod
    def at(cls, seconds: float) -> Period:
        moment = datetime.fromtimestamp(seconds, UTC)
        return cls(int(seconds // 86400), moment.year * 12 + moment.month)


class Totals(NamedTuple):
    """Tokens that the database knows of."""

    day: int
    month: int


REQUESTS, CONCURRENCY, TOKENS, DAY, MONTH, UNSEEDED = range(1, 7)


class Verdict(NamedTuple):
    code: int  # 0: allowed
    reserved: int
    requests_left: int
    requests_wait: int  # ms until one more request is allowed
    requests_reset: int  # ms until the bucket is full
    tokens_left: int
    tokens_wait: int
    tokens_reset: int
    seconds: int  # the clock that decided
    day_used: int  # with what running requests have reserved
    month_used: int
    running: int
    limits: Limits
    degraded: bool = False

    @property
    def allowed(self) -> bool:
        return not self.code

    def headers(self) -> list[tuple[bytes, bytes]]:
        limits = self.limits
        found = [
            (b"x-ratelimit-limit-requests", b"%d" % limits.rpm),
            (b"x-ratelimit-remaining-requests", b"%d" % self.requests_left),
            (b"x-ratelimit-reset-requests", b"%dms" % self.requests_reset),
        ]
        if limits.tpm:
            found += [
                (b"x-ratelimit-limit-tokens", b"%d" % limits.tpm),
                (b"x-ratelimit-remaining-tokens", b"%d" % self.tokens_left),
                (b"x-ratelimit-reset-tokens", b"%dms" % self.tokens_reset),
            ]
        if self.degraded:
            found.append((b"x-ratelimit-degraded", b"local"))
        return found


class Lease:
    """A running request and what is held for it until `end`, which counts once however often it is called."""

    __slots__ = (
        "__weakref__",
        "_limiter",
        "kid",
        "limits",
        "member",
        "name",
        "period",
        "renew_at",
        "reserved",
        "shared",
        "urgent",
    )

    def __init__(self, limiter: Limiter, kid: str, limits: Limits, name: str, verdict: Verdict) -> None:
        self._limiter: Limiter | None = limiter
        self.kid = kid
        self.limits = limits
        self.reserved = verdict.reserved
        self.name = name
        self.member = f"{name}:{verdict.reserved}"
        self.period = Period.at(verdict.seconds)
        self.shared = not verdict.degraded
        self.urgent = verdict.running * 2 >= limits.concurrency  # somebody may be waiting for the place
        self.renew_at = 0.0

    def end(self, tokens: int = 0) -> bool:
        """Give back everything but `tokens`. Does not wait, so that a task that is being cancelled can call it."""
        limiter, self._limiter = self._limiter, None
        if limiter is None:
            return False
        limiter.ended(self, max(0, tokens))
        return True


class Limiter:
    """`totals` says what the database knows of a kid's tokens in a period, or None when it cannot be asked."""

    def __init__(
        self,
        settings: LimiterSettings,
        link: Link,
        totals: Callable[[str, Period], Awaitable[Totals | None]] | None = None,
        lease_seconds: float = 30.0,
    ) -> None:
        self._link = link
        self._script = Script(link, LIMITS)
        self._totals = totals
        self._lease_ms = int(lease_seconds * 1000)
        self._name = "r" + secrets.token_hex(5)
        self._numbers = itertools.count(1)
        self._live: weakref.WeakSet[Lease] = weakref.WeakSet()  # one that was lost ends by itself
        self._asking: dict[str, asyncio.Task[Totals | None]] = {}
        self._local = Local(settings.replicas)
        self._lost: dict[str, tuple[str, int]] = {}  # ids whose leases Valkey may still have, with kid and tpm

    @property
    def up(self) -> bool:
        return self._link.up

    @property
    def reason(self) -> str | None:
        return self._link.reason

    def running(self, kid: str) -> int:
        """Leases of this process."""
        return self._local.running[kid]

    async def check(self) -> None:
        """Try everything the script does, for a key that nobody has: a command that is not allowed is found here."""
        keys = self._keys(_PROBE)
        await self._script.check(
            [
                (keys, "t 1000000 1000 1000 1000 1000000 0 1 1 probe 1"),  # its lease is over at once,
                (keys, "t 1000000 1000000 0 0 1000000 9000 1 1 probe2 0"),  # so that this one has something to end
                (keys, "k probe2:1 1 9000"),
                (keys, "f 0 0 0 0"),
                (keys, "s probe2:1 1 0 0 0 1000000"),
            ]
        )
        lost, self._lost = self._lost, {}
        for name, (kid, tpm) in lost.items():
            self._script.tell(self._keys(kid), f"c {name} {tpm}", self._losing(name, kid, tpm), urgent=False)

    async def keep(self) -> None:
        """For ever: leases of requests that take long are kept, also those that Valkey has lost or never saw."""
        while True:
            await asyncio.sleep(self._lease_ms / 6000)
            self.renew()

    def renew(self) -> None:
        now = time.monotonic()
        for lease in [lease for lease in self._live if lease.renew_at <= now]:
            line = f"k {lease.member} {lease.reserved} {self._lease_ms}"
            if self._script.tell(self._keys(lease.kid), line, _nothing, urgent=False):
                lease.renew_at = now + self._lease_ms / 3000

    async def close(self) -> None:
        await self._script.flush()
        await self._link.close()

    # Requests

    async def take(self, kid: str, limits: Limits, need: int = 0, want: int = 0) -> tuple[Verdict, Lease | None]:
        """One request. A limit on concurrency gives it a lease, and `want` reserves tokens, at least `need`."""
        if want and not limits.concurrency:
            raise ValueError("tokens are reserved by a lease, and a lease needs a limit on concurrency")
        name = f"{self._name}.{next(self._numbers)}"
        with tracing.span("EVALSHA limits", "client", db__system__name="valkey"):
            verdict = await self._together(kid, limits, need, want, name)
        if verdict is None:
            verdict = await self._alone(kid, limits, need, want)
        if verdict.code or not limits.concurrency:
            return verdict, None
        lease = Lease(self, kid, limits, name, verdict)
        lease.renew_at = time.monotonic() + self._lease_ms / 3000
        self._live.add(lease)
        self._local.running[kid] += 1
        return verdict, lease

    async def _together(self, kid: str, limits: Limits, need: int, want: int, name: str) -> Verdict | None:
        if not self._link.up:
            return None
        keys = self._keys(kid)
        line = (
            f"t {limits.rpm} {limits.tpm} {limits.tokens_day} {limits.tokens_month} {limits.concurrency} "
            f"{self._lease_ms} {need} {want} {name} "
        )

        lost = self._losing(name, kid, limits.tpm)

        def forsaken(answer: str) -> None:
            """The request went away while it was being admitted: what it got must not stay taken."""
            verdict = _verdict(answer, limits)
            if not verdict.code and limits.concurrency:
                Lease(self, kid, limits, name, verdict).end()

        try:
            answer = await self._script.ask(keys, line + "0", lost, forsaken)
            if answer.startswith(f"{UNSEEDED} "):
                period = Period.at(_verdict(answer, limits).seconds)
                totals = await self._ask_database(kid, period)
                if totals is not None:
                    self.floor(kid, period, totals)
                answer = await self._script.ask(keys, line + "1", lost, forsaken)
        except AnswerError as error:  # about this key alone: what is stored under its name cannot be used
            log.warning("valkey cannot decide for a key", extra={"kid": kid, "reason": str(error)[:200]})
            return None
        except FAILURES:
            return None
        verdict = _verdict(answer, limits)
        if limits.tokens_day or limits.tokens_month:
            self._local.learn(kid, Period.at(verdict.seconds), verdict.day_used, verdict.month_used)
        return verdict

    async def _alone(self, kid: str, limits: Limits, need: int, want: int) -> Verdict:
        seconds = time.time()
        period = Period.at(seconds)
        if (limits.tokens_day or limits.tokens_month) and not self._local.knows(kid, period):
            totals = await self._ask_database(kid, period) or Totals(0, 0)
            if not self._local.knows(kid, period):
                self._local.learn(kid, period, *totals)
        return self._local.take(kid, limits, need, want, time.monotonic(), seconds)

    async def _ask_database(self, kid: str, period: Period) -> Totals | None:
        """Requests of one key that need it share one question."""
        if self._totals is None:
            return None
        task = self._asking.get(kid)
        if task is None:
            task = self._asking[kid] = asyncio.ensure_future(self._totals(kid, period))
            task.add_done_callback(lambda _: self._asking.pop(kid, None))
        return await asyncio.shield(task)

    def ended(self, lease: Lease, tokens: int) -> None:
        if lease in self._live:
            self._live.discard(lease)
            self._local.leave(lease.kid)
        day, month = lease.period
        line = f"s {lease.member} {lease.reserved} {tokens} {day} {month} {lease.limits.tpm}"
        lost = self._losing(lease.name, lease.kid, lease.limits.tpm)
        told = self._script.tell(self._keys(lease.kid), line, lost, urgent=lease.urgent)
        if not told:
            lost()
        self._local.settle(lease.kid, lease.period, tokens - lease.reserved, told and lease.shared)

    def floor(self, kid: str, period: Period, totals: Totals) -> bool:
        """The database knows of this much: Valkey counts no less. It may have been away, or have lost what it knew."""
        line = f"f {period.day} {totals.day} {period.month} {totals.month}"
        return self._script.tell(self._keys(kid), line, _nothing, urgent=False)

    def _losing(self, name: str, kid: str, tpm: int) -> Callable[[], None]:
        """For when it cannot be known whether Valkey has this lease: it will be told to end it, once it answers."""

        def lost() -> None:
            if len(self._lost) < _REMEMBERED:
                self._lost[name] = kid, tpm

        return lost

    def _keys(self, kid: str) -> tuple[str, str]:
        return f"{self._link.prefix}k:{{{kid}}}", f"{self._link.prefix}l:{{{kid}}}"


def _nothing() -> None:
    """It does not matter whether it was done: it comes again."""


def _verdict(answer: str, limits: Limits) -> Verdict:
    numbers = [int(word) for word in answer.split()]
    return Verdict(*numbers, limits)  # type: ignore[call-arg, arg-type] # mypy does not count them


@dataclass(slots=True)
class _Book:
    """What this process knows of one key."""

    requests: float
    tokens: float
    at: float
    period: Period | None = None
    day: int = 0  # used, as last heard
    month: int = 0
    here: int = 0  # used here since


class Local:
    """The same limits in memory, for one replica's share."""

    def __init__(self, replicas: int, capacity: int = _REMEMBERED) -> None:
        self._replicas = replicas
        self._capacity = capacity
        self._books: OrderedDict[str, _Book] = OrderedDict()
        self.running: Counter[str] = Counter()

    def leave(self, kid: str) -> None:
        self.running[kid] -= 1
        if self.running[kid] <= 0:
            del self.running[kid]

    def knows(self, kid: str, period: Period) -> bool:
        book = self._books.get(kid)
        return book is not None and book.period == period

    def learn(self, kid: str, period: Period, day: int, month: int) -> None:
        book = self._book(kid)
        book.period, book.day, book.month, book.here = period, day, month, 0

    def settle(self, kid: str, period: Period, more: int, shared: bool) -> None:
        """What a request used beyond what had been taken for it; less than nothing is given back."""
        book = self._books.get(kid)
        if book is None:
            return
        if not shared:
            book.tokens -= more
        if book.period == period:
            if shared:
                book.day, book.month = book.day + more, book.month + more
            else:
                book.here += more

    def take(self, kid: str, limits: Limits, need: int, want: int, now: float, seconds: float) -> Verdict:
        share = Limits(*(max(1, limit // self._replicas) if limit else 0 for limit in limits))
        book = self._book(kid)
        minutes = max(0.0, now - book.at) / 60
        book.requests = min(share.rpm, book.requests + minutes * share.rpm)
        book.tokens = min(share.tpm, book.tokens + minutes * share.tpm)
        book.at = now
        give, code = want, 0
        day_left = (limits.tokens_day - book.day) // self._replicas - book.here
        month_left = (limits.tokens_month - book.month) // self._replicas - book.here
        if book.requests < 1:
            code = REQUESTS
        elif share.concurrency and self.running[kid] >= share.concurrency:
            code = CONCURRENCY
        elif want:
            for limit, left, reason in (
                (share.tpm, math.floor(book.tokens), TOKENS),
                (limits.tokens_day, day_left, DAY),
                (limits.tokens_month, month_left, MONTH),
            ):
                if limit and left < max(1, need):
                    code = reason
                    break
                give = min(give, left) if limit else give
        give = 0 if code else give
        if code != REQUESTS:
            book.requests -= 1
            book.tokens -= give
            book.here += give
        return Verdict(
            code,
            give,
            int(book.requests),
            _ms(1 - book.requests, share.rpm),
            _ms(share.rpm - book.requests, share.rpm),
            max(0, int(book.tokens)),
            _ms(max(1, need) - book.tokens, share.tpm),
            _ms(share.tpm - book.tokens, share.tpm),
            int(seconds),
            book.day + book.here,
            book.month + book.here,
            self.running[kid] + (not code),
            share,
            degraded=True,
        )

    def _book(self, kid: str) -> _Book:
        book = self._books.get(kid)
        if book is None:
            book = self._books[kid] = _Book(math.inf, math.inf, time.monotonic())
            if len(self._books) > self._capacity:
                self._books.popitem(last=False)
        else:
            self._books.move_to_end(kid)
        return book


def _ms(missing: float, per_minute: int) -> int:
    return math.ceil(max(0.0, missing) * 60000 / per_minute) if per_minute else 0


def refusal(verdict: Verdict) -> ApiError:
    """The answer for the client."""
    limits = verdict.limits
    if verdict.code == CONCURRENCY:
        return ApiError(
            "concurrency_limit_exceeded", f"This key may have {limits.concurrency} requests running at once, not more."
        )
    if verdict.code in (DAY, MONTH):
        day = verdict.code == DAY
        seconds = until_end(verdict.seconds)[0 if day else 1]
        limit, used = (limits.tokens_day, verdict.day_used) if day else (limits.tokens_month, verdict.month_used)
        return ApiError(
            "budget_exceeded",
            f"This key may use {limit} tokens a {'day' if day else 'month'}; {used} are used or reserved, which leaves "
            f"too few for this request. The next {'day' if day else 'month'} (UTC) begins in {seconds} s.",
            retry_after=seconds,
        )
    tokens = verdict.code == TOKENS
    seconds = max(1, math.ceil((verdict.tokens_wait if tokens else verdict.requests_wait) / 1000))
    what = f"use {limits.tpm} tokens" if tokens else f"make {limits.rpm} requests"
    return ApiError(
        "rate_limit_exceeded",
        f"This key may {what} a minute; the next request is possible in {seconds} s.",
        retry_after=seconds,
    )


def until_end(seconds: int) -> tuple[int, int]:
    """Seconds until the day and until the month end, in UTC."""
    now = datetime.fromtimestamp(seconds, UTC)
    tomorrow = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
    month = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    return int((tomorrow - now).total_seconds()), int((month - now).total_seconds())
