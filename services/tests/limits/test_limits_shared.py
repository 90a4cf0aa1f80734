# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What replicas share: exact counts, leases, periods, what is left when Valkey or a process goes away."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import limits_support
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits_support import Settings, kid, limiter, places, record, replicas, storm, take
from valkey import Valkey as Client

import support
from mcpstack.common import limits_script
from mcpstack.common.limits import (
    CONCURRENCY,
    DAY,
    MONTH,
    REQUESTS,
    TOKENS,
    Limiter,
    Limits,
    Period,
    Totals,
    refusal,
    until_end,
)
from mcpstack.common.secretfile import SecretFile, password
from mcpstack.common.valkey import FAILURES, AnswerError, Link, reason
from support import Stack

MANY = 10**6


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Path:
    file = tmp_path_factory.mktemp("secret") / "password"
    file.write_text(stack.valkey.password)
    return file


@pytest.fixture(scope="module")
def shared(stack: Stack) -> Settings:
    return Settings(stack.valkey.port, stack.tls.ca)


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with Client(
        host="localhost",
        port=stack.valkey.port,
        username="operator",
        password=stack.valkey.operator,
        ssl=True,
        ssl_ca_certs=str(stack.tls.ca),
    ) as found:
        yield found


# Exact counts

EXACT = [
    # want, limits, how many of two hundred, why not the others
    (0, Limits(10, 0), 10, REQUESTS),
    (0, Limits(MANY, 7), 7, CONCURRENCY),
    (100, Limits(MANY, 1000, tpm=1000), 10, TOKENS),
    (100, Limits(MANY, 1000, tokens_day=1250), 12, DAY),
    (100, Limits(MANY, 1000, tokens_month=333), 3, MONTH),
    (10, Limits(MANY, 9, tpm=1000, tokens_day=1000, tokens_month=70), 7, MONTH),
]


@pytest.mark.parametrize(("want", "limits", "allowed", "why"), EXACT)
def test_exact_counts_in_one_process(
    shared: Settings, secret: Path, want: int, limits: Limits, allowed: int, why: int
) -> None:
    async def scenario() -> None:
        name = kid()
        async with limiter(shared, secret) as one, limiter(shared, secret) as two:
            (first, _), (second, _) = await asyncio.gather(
                storm(one, name, limits, want, 100), storm(two, name, limits, want, 100)
            )
        assert first + second == Counter({0: allowed, why: 200 - allowed})

    asyncio.run(scenario())


@pytest.mark.parametrize(("want", "limits", "allowed", "why"), [EXACT[0], EXACT[1], EXACT[2], EXACT[5]])
def test_exact_counts_over_processes(
    stack: Stack, secret: Path, want: int, limits: Limits, allowed: int, why: int
) -> None:
    words = (want, *limits)
    with replicas(2, stack.valkey.port, stack.tls.ca, secret, kid(), 100, *words) as both:
        found = Counter[int]()
        for one in both:  # both have the line before either has answered
            assert one.process.stdin is not None
            one.process.stdin.write("\n")
            one.process.stdin.flush()
        for one in both:
            assert one.process.stdout is not None
            answer = limits_support.json.loads(one.process.stdout.readline())
            found += Counter({int(code): count for code, count in answer.items()})
    assert found == Counter({0: allowed, why: 200 - allowed})


def test_a_killed_process_gives_its_places_and_tokens_back(
    stack: Stack, shared: Settings, secret: Path, client: Client
) -> None:
    name, limits = kid(), Limits(MANY, 5, tokens_day=500)

    async def ask() -> int:
        async with limiter(shared, secret) as made:
            return (await take(made, name, limits, 100))[0]

    with replicas(1, stack.valkey.port, stack.tls.ca, secret, name, 9, 100, *limits, lease=1.5) as (one,):
        assert one.go() == {0: 5, CONCURRENCY: 4}
        # While it lives its leases are kept, for as long as it takes: they last longer than one would.
        began = time.monotonic()
        ends = max(score for _, score in client.zrange(f"gw:l:{{{name}}}", 0, -1, withscores=True))
        support.wait_for("a lease to be kept", lambda: client.zcount(f"gw:l:{{{name}}}", ends + 1000, "+inf") == 5, 10)
        assert asyncio.run(ask()) == CONCURRENCY
        one.process.kill()
    support.wait_for("the end of the leases", lambda: asyncio.run(ask()) == 0, 15)
    assert time.monotonic() - began > 1
    assert record(client, name)["r"] == 100  # of the one that was just admitted, and nothing else
    assert record(client, name)["dn"] == 0


# Ending


def test_a_lease_ends_once(shared: Settings, secret: Path, client: Client) -> None:
    name, limits = kid(), Limits(MANY, 5, tpm=1000, tokens_day=10_000, tokens_month=20_000)

    async def scenario() -> None:
        async with limiter(shared, secret) as made:
            leases = [(await take(made, name, limits, 100))[1] for _ in range(3)]
            assert [lease.reserved for lease in leases if lease] == [100] * 3
            assert made.running(name) == 3
            for lease, used in zip(leases, (40, 0, 170), strict=True):
                assert lease is not None
                assert [lease.end(used), lease.end(used), lease.end(5)] == [True, False, False]
            assert made.running(name) == 0

    asyncio.run(scenario())
    found = record(client, name)
    assert (found["r"], found["dn"], found["mn"], places(client, name)) == (0, 210, 210, 0)
    assert 1000 - 210 <= found["x"] <= 1000 - 210 + 2  # what a moment refills


@pytest.mark.parametrize("after", range(8))
def test_a_request_that_is_cancelled_while_it_is_admitted_holds_nothing(
    shared: Settings, secret: Path, client: Client, after: int
) -> None:
    name, limits = kid(), Limits(MANY, 50, tokens_day=10_000)

    async def scenario() -> None:
        async with limiter(shared, secret) as made:
            _, first = await take(made, name, limits, 100)  # from here on one question is enough
            assert first is not None
            first.end(0)
            await made._script.flush()
            tasks = [asyncio.create_task(take(made, name, limits, 100)) for _ in range(20)]
            for _ in range(after):
                await asyncio.sleep(0)
            if after == 7:  # answers and cancellations in the same turn of the loop
                while made._script._batch or made._script._waiting:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            for task in tasks:
                try:
                    _, lease = await task
                except asyncio.CancelledError:
                    continue
                assert lease is not None
                lease.end(0)
            await made._script.flush()
            assert made.running(name) == 0

    asyncio.run(scenario())
    found = record(client, name)
    assert (found.get("r", 0), found.get("dn", 0), places(client, name)) == (0, 0, 0)


def test_a_lease_that_ends_by_itself_frees_its_tokens_although_the_next_request_is_refused(
    shared: Settings, secret: Path, client: Client
) -> None:
    name, limits = kid(), Limits(2, 5, tokens_day=1000)

    async def scenario() -> None:
        async with limiter(shared, secret) as made, limiter(shared, secret, lease=0.01) as hasty:
            assert (await take(made, name, limits, 100))[0] == 0
            _, lapsed = await take(hasty, name, limits, 50)
            assert lapsed is not None
            assert record(client, name)["r"] == 150
            ends = min(score for _, score in client.zrange(f"gw:l:{{{name}}}", 0, -1, withscores=True))
            support.wait_for("its end", lambda: client.time()[0] * 1000 + client.time()[1] // 1000 > ends + 1000, 5)
            assert (await take(made, name, limits, 100))[0] == REQUESTS
            assert (places(client, name), record(client, name)["r"]) == (1, 100)
            lapsed.end(20)  # it went on for too long; what it used counts, and nothing is given back twice
            await hasty._script.flush()
            assert (record(client, name)["r"], record(client, name)["dn"]) == (100, 20)

    asyncio.run(scenario())


def test_what_was_used_beyond_the_reservation_is_a_debt(shared: Settings, secret: Path, client: Client) -> None:
    name, limits = kid(), Limits(MANY, 5, tpm=600)

    async def scenario() -> None:
        async with limiter(shared, secret) as made:
            _, lease = await take(made, name, limits, 600)
            assert lease is not None
            lease.end(60_000)
            verdict, _ = await made.take(name, limits, 1, 1)
            assert verdict.code == TOKENS
            assert 5_900_000 < verdict.tokens_wait <= 5_940_100  # 59,400 tokens are missing, ten come back a second
            assert refusal(verdict).headers["Retry-After"] == str(-(-verdict.tokens_wait // 1000))

    asyncio.run(scenario())
    assert client.pttl(f"gw:k:{{{name}}}") > 5_900_000  # and it is not forgotten before it is paid


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_sum_of_what_was_settled_is_what_was_used(
    shared: Settings, secret: Path, client: Client, data: st.DataObject
) -> None:
    name = kid()
    limits = Limits(MANY, 6, tpm=10**8, tokens_day=5000, tokens_month=8000)
    steps = data.draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("take"), st.integers(1, 900), st.integers(0, 900)),
                st.tuples(st.just("end"), st.integers(0, 9), st.integers(0, 1200)),
                st.tuples(st.just("again"), st.integers(0, 9), st.integers(0, 1200)),
                st.tuples(st.just("renew"), st.just(0), st.just(0)),
            ),
            max_size=40,
        )
    )

    async def scenario() -> None:
        settled, held, over = 0, {}, []
        async with limiter(shared, secret) as one, limiter(shared, secret) as two:
            for number, (what, first, second) in enumerate(steps):
                made = (one, two)[number % 2]
                if what == "take":
                    need, want = first, first + second
                    verdict, lease = await made.take(name, limits, need, want)
                    reserved = sum(entry.reserved for entry in held.values())
                    left = min(5000 - settled - reserved, 8000 - settled - reserved)
                    assert verdict.allowed == (len(held) < 6 and left >= need)
                    if lease is not None:
                        assert lease.reserved == min(want, left)
                        held[number] = lease
                elif what == "end" and held:
                    lease = held.pop(sorted(held)[first % len(held)])
                    assert lease.end(second)
                    settled += second
                    over.append(lease)
                    await asyncio.gather(one._script.flush(), two._script.flush())
                elif what == "again" and over:
                    assert not over[first % len(over)].end(second)
                elif what == "renew":
                    for lease in list(made._live):
                        lease.renew_at = 0.0
                    made.renew()
                    await made._script.flush()
            for lease in held.values():
                lease.end(1)
                settled += 1
        found = record(client, name)
        if found:
            assert (found["r"], found["dn"], found["mn"]) == (0, settled, settled)
        assert places(client, name) == 0

    asyncio.run(scenario())


# Days and months


def test_the_calendar_inside_valkey_is_the_calendar(client: Client) -> None:
    days = sorted({*range(0, 60_000, 13), *((date(year, month, 1) - date(1970, 1, 1)).days + edge
                  for year in range(1970, 2130) for month in range(1, 13) for edge in (-1, 0, 1))} - {-1})  # fmt: skip
    script = limits_script.CALENDAR + (
        "local out = {} for i, day in ipairs(ARGV) do out[i] = month_of(tonumber(day)) end return out"
    )
    found = client.eval(script, 0, *days)
    wanted = [date(1970, 1, 1) + timedelta(days=day) for day in days]
    assert found == [day.year * 12 + day.month for day in wanted]
    assert [Period.at(day * 86400 + 86399.9) for day in days[:500]] == [
        Period(day, month) for day, month in zip(days[:500], found[:500], strict=True)
    ]


@pytest.mark.parametrize(
    ("moment", "day", "month"),
    [
        (datetime(2026, 11, 21, 23, 59, 59, tzinfo=UTC), 1, 9 * 86400 + 1),
        (datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), 1, 1),
        (datetime(2026, 12, 31, tzinfo=UTC), 86400, 86400),
        (datetime(2027, 1, 1, tzinfo=UTC), 86400, 31 * 86400),
        (datetime(2028, 2, 28, 12, tzinfo=UTC), 43200, 43200 + 86400),
    ],
)
def test_when_a_budget_begins_anew(moment: datetime, day: int, month: int) -> None:
    assert until_end(int(moment.timestamp())) == (day, month)


def test_a_new_day_and_a_new_month_begin_with_nothing_used(shared: Settings, secret: Path, client: Client) -> None:
    limits = Limits(MANY, 50, tokens_day=100, tokens_month=250)

    async def scenario() -> None:
        now = Period.at(time.time())
        async with limiter(shared, secret) as made:
            for change, codes in (
                ({"d": now.day, "dn": 100, "m": now.month, "mn": 100}, [DAY]),
                ({"d": now.day - 1, "dn": 100, "m": now.month, "mn": 100}, [0, DAY]),
                ({"d": now.day - 1, "dn": 100, "m": now.month, "mn": 250}, [MONTH]),
                ({"d": now.day - 31, "dn": 100, "m": now.month - 1, "mn": 250}, [0, DAY]),
                ({"d": now.day - 400, "dn": 100, "m": now.month - 12, "mn": 250}, [0, DAY]),
            ):
                name = kid()
                client.hset(f"gw:k:{{{name}}}", mapping={**change, "s": 1})
                found = []
                for _ in codes:
                    code, lease = await take(made, name, limits, 60)
                    found.append(code)
                    if lease is not None:
                        lease.end(60)
                assert found == codes, change

    asyncio.run(scenario())


def test_a_request_is_counted_for_the_day_on_which_it_was_admitted(
    shared: Settings, secret: Path, client: Client
) -> None:
    name, limits = kid(), Limits(MANY, 5, tokens_day=1000, tokens_month=1000)

    async def scenario() -> None:
        async with limiter(shared, secret) as made:
            leases = [(await take(made, name, limits, 100))[1] for _ in range(3)]
            yesterday, last_month, today = leases
            assert yesterday
            assert last_month
            assert today
            day, month = today.period
            yesterday.period = Period(day - 1, month)
            last_month.period = Period(day - 1, month - 1)
            for lease in (yesterday, last_month, today):
                lease.end(10)

    asyncio.run(scenario())
    found = record(client, name)
    assert (found["dn"], found["mn"], found["r"]) == (10, 20, 0)


# What the database knows


def test_the_database_is_asked_once_and_decides(shared: Settings, secret: Path, client: Client) -> None:
    name, limits, asked = kid(), Limits(MANY, 500, tokens_day=1000, tokens_month=9000), []

    async def totals(who: str, period: Period) -> Totals:
        asked.append((who, period))
        await asyncio.sleep(0)
        return Totals(950, 8000)

    async def scenario() -> None:
        async with limiter(shared, secret, totals) as made:
            found, _ = await storm(made, name, limits, 10, 40)
            assert found == Counter({0: 5, DAY: 35})
            assert asked == [(name, Period.at(time.time()))]
            client.delete(f"gw:k:{{{name}}}", f"gw:l:{{{name}}}")  # a Valkey that has lost everything
            found, _ = await storm(made, name, limits, 10, 40)
            assert found == Counter({0: 5, DAY: 35})
            assert len(asked) == 2
            # More than Valkey has counted: so much was used. Less: Valkey has seen what is not written yet.
            period = Period.at(time.time())
            for known, used in ((Totals(990, 8040), (990, 8040)), (Totals(3, 4), (990, 8040))):
                made.floor(name, period, known)
                await made._script.flush()
                entry = record(client, name)
                assert (entry["dn"], entry["mn"]) == used
            made.floor(name, Period(period.day - 1, period.month - 1), Totals(5000, 90_000))  # of another day: nothing
            await made._script.flush()
            assert record(client, name)["dn"] == 990

    asyncio.run(scenario())


def test_without_the_database_a_budget_counts_from_nothing_until_it_answers(
    shared: Settings, secret: Path, client: Client
) -> None:
    name, limits = kid(), Limits(MANY, 500, tokens_day=1000)
    known: list[Totals | None] = [None]

    async def totals(_: str, __: Period) -> Totals | None:
        return known[0]

    async def scenario() -> None:
        async with limiter(shared, secret, totals) as made:
            code, lease = await take(made, name, limits, 300)
            assert (code, lease is not None) == (0, True)
            assert lease is not None
            lease.end(300)
            known[0] = Totals(900, 900)
            assert (await take(made, name, limits, 300))[0] == DAY
            assert record(client, name)["dn"] == 900

    asyncio.run(scenario())


# Valkey in trouble


def test_a_lost_lease_is_made_again(shared: Settings, secret: Path, client: Client) -> None:
    name, limits = kid(), Limits(MANY, 2, tokens_day=1000)

    async def scenario() -> None:
        async with limiter(shared, secret, lease=0.9) as made:
            leases = [(await take(made, name, limits, 100))[1] for _ in range(2)]
            keeping = asyncio.create_task(made.keep())
            client.delete(f"gw:k:{{{name}}}", f"gw:l:{{{name}}}")
            for _ in range(200):
                if places(client, name) == 2:
                    break
                await asyncio.sleep(0.02)
            assert (await take(made, name, limits, 100))[0] == CONCURRENCY
            assert record(client, name)["r"] == 200
            for lease in leases:
                assert lease is not None
                lease.end(10)
            keeping.cancel()

    asyncio.run(scenario())
    assert (places(client, name), record(client, name)["r"]) == (0, 0)


def test_a_server_without_the_script_gets_it_and_nothing_is_counted_twice(
    shared: Settings, secret: Path, client: Client
) -> None:
    name, limits = kid(), Limits(10, 0)

    async def scenario() -> None:
        async with limiter(shared, secret) as made:
            found = Counter[int]()
            for _ in range(4):
                client.script_flush()
                found += (await storm(made, name, limits, 0, 5))[0]
            assert found == Counter({0: 10, REQUESTS: 10})

    asyncio.run(scenario())


def test_one_key_with_a_broken_record_is_its_own_problem(shared: Settings, secret: Path, client: Client) -> None:
    broken, sound, limits = kid(), kid(), Limits(10, 3)
    client.set(f"gw:k:{{{broken}}}", "not a hash", ex=60)

    async def scenario() -> None:
        async with limiter(shared, secret) as made:
            answers = await asyncio.gather(
                *(made.take(name, limits) for name in (sound, broken, sound, broken, broken, broken))
            )
            assert [(verdict.code, verdict.degraded) for verdict, _ in answers] == [
                (0, False), (0, True), (0, False), (0, True), (0, True), (CONCURRENCY, True),
            ]  # fmt: skip
            assert made.up

    asyncio.run(scenario())


COMMANDS = (
    set(re.findall(r"[A-Z]+", limits_script.__doc__.rsplit("Commands:", 1)[1])) if limits_script.__doc__ else set()
)


def _allow(client: Client, user: str, commands: set[str], password: str) -> None:
    words = [f"+{command.lower()}" for command in sorted(commands)]
    client.execute_command("ACL", "SETUSER", user, "reset", "on", f">{password}", "~gw:*", "-@all", *words)


def test_the_commands_that_are_documented_are_enough_and_none_too_many(
    stack: Stack, shared: Settings, secret: Path, client: Client
) -> None:
    everything = COMMANDS | {"EVAL", "EVALSHA"}
    assert len(COMMANDS) == 10
    line = next(
        line
        for line in (support.ROOT.parent / "roles/valkey/files/users.acl").read_text().splitlines()
        if line.startswith("user gateway ")
    )
    granted = {word[1:].upper() for word in line.split() if word.startswith("+")}
    assert granted - {"PING", "SCRIPT|LOAD"} == everything | {"GET", "SET"}  # the last two are the response cache's

    async def attempt(user: str) -> str | None:
        try:
            async with limiter(Settings(shared.valkey_port, shared.tls_ca_file, valkey_user=user), secret) as made:
                code, lease = await take(made, kid(), Limits(10, 5, 100, 100, 100), 10)
                assert code == 0
                assert lease is not None
                lease.renew_at = 0
                made.renew()
                lease.end(5)
                await made._script.flush()
                return made.reason
        except AnswerError as error:
            return reason(error)

    user = "minimal" + kid()
    _allow(client, user, everything, stack.valkey.password)
    assert asyncio.run(attempt(user)) is None
    for command in sorted(everything - {"EVAL"}):
        _allow(client, user, everything - {command}, stack.valkey.password)
        assert asyncio.run(attempt(user)) == "a permission is missing", command
    client.script_flush()
    _allow(client, user, everything - {"EVAL"}, stack.valkey.password)
    assert asyncio.run(attempt(user)) == "a permission is missing"
    client.execute_command("ACL", "DELUSER", user)


def test_a_wrong_password_and_a_foreign_authority_have_their_reasons(
    shared: Settings, secret: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("w" * 32)
    other = support.make_tls(tmp_path, None)

    async def attempt(settings: Settings, file: Path) -> str | None:
        link = Link(settings, SecretFile("TEST", file, password))
        made = Limiter(settings, link)
        with pytest.raises(FAILURES):
            await made.check()
        assert not made.up
        verdict, _ = await made.take("k", Limits(1, 0))
        assert verdict.degraded
        found = link.reason
        await made.close()
        return found

    gone = Settings(support.free_port(), shared.tls_ca_file)
    assert asyncio.run(attempt(shared, wrong)) == "the login is refused"
    assert asyncio.run(attempt(Settings(shared.valkey_port, other.ca), secret)) == "its certificate is not trusted"
    assert asyncio.run(attempt(gone, secret)) == "no connection"
    assert asyncio.run(attempt(shared, tmp_path / "none")) == "its password cannot be read"


def test_frozen_cut_off_and_back(stack: Stack, secret: Path, cable: Any, client: Client) -> None:
    line = cable(stack.valkey.port)
    name, limits = kid(), Limits(MANY, 8, tokens_day=1000)
    settings = Settings(line.port, stack.tls.ca, valkey_timeout=0.2, replicas=2)

    async def scenario() -> None:
        async with limiter(settings, secret) as made:
            calls: list[None] = []
            made._link.on_failure = lambda: calls.append(None)
            _, kept = await take(made, name, limits, 100)
            assert kept is not None
            for trouble in (line.freeze, line.pull):
                await asyncio.to_thread(trouble)
                began = time.monotonic()
                answers = await asyncio.gather(*(made.take(name, limits, 100, 100) for _ in range(20)))
                took = time.monotonic() - began
                assert took < 2, "they waited together, and once"
                assert all(verdict.degraded for verdict, _ in answers)
                # Four places here, one of them taken before. Half of what was left of the day: (1000 - 100) / 2.
                assert Counter(verdict.code for verdict, _ in answers) == Counter({0: 3, CONCURRENCY: 17})
                assert calls
                for _, lease in answers:
                    if lease is not None:
                        lease.end(0)
                await asyncio.to_thread(line.plug)
                for _ in range(100):
                    with contextlib.suppress(*FAILURES):
                        await made.check()
                        break
                    await asyncio.sleep(0.02)
                # What the frozen connection still carried was done after all. Nobody has those places.
                for _ in range(100):
                    await made._script.flush()
                    if places(client, name) <= 1:
                        break
                    await asyncio.sleep(0.02)
                verdict, lease = await made.take(name, limits, 100, 100)
                assert (verdict.code, verdict.degraded) == (0, False)
                assert lease is not None
                lease.end(0)
            kept.end(30)

    asyncio.run(scenario())
    assert record(client, name)["dn"] == 30
