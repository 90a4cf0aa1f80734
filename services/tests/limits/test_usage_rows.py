# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Usage in Postgres: every request once, whatever happens to the connection while it is written."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits_support import kid

import support
from mcpstack.common.errors import ApiError
from mcpstack.common.limits import Period, Totals
from mcpstack.common.secretfile import SecretFile, login
from mcpstack.gateway.usage import Row, Sums, Usage, day_of, number_of
from support import Stack

TODAY = number_of(date(2026, 11, 21))


@dataclass(frozen=True)
class Settings:
    db_port: int
    db_name: str
    tls_ca_file: Path
    db_host: str = "localhost"


@pytest.fixture(scope="module")
def database(stack: Stack) -> str:
    return stack.postgres.new_database()


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "login"
    file.write_text(f"gateway_a:{support.DB_PASSWORD}")
    return file


@pytest.fixture
def here(stack: Stack, database: str) -> Settings:
    return Settings(stack.postgres.port, database, stack.tls.ca)


@pytest.fixture
def owner(stack: Stack, database: str) -> Iterator[psycopg.Connection[Any]]:
    with stack.postgres.admin(database) as conn:
        yield conn


@contextlib.asynccontextmanager
async def usage(settings: Settings, file: Path) -> AsyncIterator[Usage]:
    made = Usage(settings, SecretFile("TEST", file, login))
    await made._pool.open(wait=True, timeout=10)
    try:
        yield made
    finally:
        await made.close()


def rows(owner: psycopg.Connection[Any], *kids: str) -> dict[Row, tuple[int, int, int]]:
    found = owner.execute(
        b"SELECT kid, model, day, requests, tokens_in, tokens_out FROM gateway.usage_day WHERE kid = ANY(%s)",
        (list(kids),),
    )
    return {Row(who, model, number_of(day)): (count, sent, made) for who, model, day, count, sent, made in found}


def test_days_and_numbers() -> None:
    assert [number_of(day_of(number)) for number in (0, 1, 20_000, 60_000)] == [0, 1, 20_000, 60_000]
    assert day_of(0) == date(1970, 1, 1)


def test_two_replicas_write_the_same_rows_at_the_same_time(
    here: Settings, secret: Path, owner: psycopg.Connection[Any]
) -> None:
    kids = [kid() for _ in range(400)]

    async def scenario() -> None:
        async with usage(here, secret) as one, usage(here, secret) as two:
            for number in range(8):
                for made, order in ((one, kids), (two, list(reversed(kids)))):
                    for who in order:
                        made.add(who, f"model{number % 2}", TODAY, 3, 2, budgets=True)
                assert await asyncio.gather(one.flush(), two.flush()) == [True, True]

    asyncio.run(scenario())
    found = rows(owner, *kids)
    assert found == {Row(who, model, TODAY): (8, 24, 16) for who in kids for model in ("model0", "model1")}


def test_numbers_and_names_that_the_table_would_refuse(
    here: Settings, secret: Path, owner: psycopg.Connection[Any]
) -> None:
    who = kid()

    async def scenario() -> None:
        async with usage(here, secret) as made:
            made.add(who, "m" * 1000, TODAY, -5, 10**30, budgets=False)
            made.add(who, "a\0b", TODAY, 1, 1, budgets=False)
            made.add(who, "", TODAY, 1, 1, budgets=False)
            assert await made.flush()

    asyncio.run(scenario())
    assert rows(owner, who) == {
        Row(who, "m" * 300, TODAY): (1, 0, 2**40),
        Row(who, "ab", TODAY): (1, 1, 1),
        Row(who, "-", TODAY): (1, 1, 1),
    }


@dataclass
class Limits:
    told: list[tuple[str, Period, Totals]]
    up: bool = False

    def floor(self, who: str, period: Period, totals: Totals) -> bool:
        self.told.append((who, period, totals))
        return True


def test_what_is_written_is_told_to_the_limits(here: Settings, secret: Path, owner: psycopg.Connection[Any]) -> None:
    with_budget, without = kid(), kid()
    told: list[tuple[str, Period, Totals]] = []

    async def scenario() -> None:
        async with usage(here, secret) as made:
            made.limits = limits = Limits(told)
            for day, tokens in ((TODAY - 30, 1000), (TODAY - 20, 100), (TODAY - 1, 10), (TODAY, 1)):
                made.add(with_budget, "a", day, tokens, tokens, budgets=True)
                made.add(without, "a", day, tokens, tokens, budgets=False)
            assert await made.flush()
            assert told == []  # Valkey is away
            limits.up = True
            assert await made.flush()
            assert await made.flush()  # once is enough
            assert told == [(with_budget, Period(TODAY, 2026 * 12 + 11), Totals(2, 222))]
            assert await made.totals(with_budget, Period(TODAY, 0)) == Totals(2, 222)
            assert await made.totals(with_budget, Period(TODAY - 30, 0)) == Totals(2000, 2000)
            assert await made.totals(with_budget, Period(TODAY + 10, 0)) == Totals(0, 0)
            assert await made.totals(kid(), Period(TODAY, 0)) == Totals(0, 0)
            made.add(with_budget, "b", TODAY, 0, 5, budgets=True)
            report = await made.report(with_budget, day_of(TODAY - 1))
            assert report == {
                Row(with_budget, "a", TODAY - 1): Sums(1, 10, 10),
                Row(with_budget, "a", TODAY): Sums(1, 1, 1),
                Row(with_budget, "b", TODAY): Sums(1, 0, 5),  # not written yet
            }

    asyncio.run(scenario())


# A commit that was not heard of


@pytest.fixture
def hanging_commits(stack: Stack, database: str) -> Iterator[Any]:
    """Commits of the tests' database are done and then wait for a standby that does not exist."""
    with stack.postgres.admin() as conn:

        def wait(on: bool) -> None:
            conn.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{'nobody' if on else ''}'".encode())
            conn.execute(b"SELECT pg_reload_conf()")

        conn.execute(b"ALTER SYSTEM SET synchronous_commit = local")
        conn.execute(b"SELECT pg_reload_conf()")
        conn.execute(f"ALTER DATABASE {database} SET synchronous_commit = on".encode())
        yield wait
        wait(False)
        conn.execute(b"ALTER SYSTEM RESET synchronous_standby_names")
        conn.execute(b"ALTER SYSTEM RESET synchronous_commit")
        conn.execute(f"ALTER DATABASE {database} RESET synchronous_commit".encode())
        conn.execute(b"SELECT pg_reload_conf()")


def _waits_for(owner: psycopg.Connection[Any], event: str) -> bool:
    found = owner.execute(
        b"SELECT 1 FROM pg_stat_activity WHERE wait_event = %s AND application_name = 'mcpstack-usage'", (event,)
    )
    return found.fetchone() is not None


def test_a_commit_that_was_done_but_not_heard_of_is_not_repeated(
    stack: Stack, database: str, secret: Path, owner: psycopg.Connection[Any], cable: Any, hanging_commits: Any
) -> None:
    line = cable(stack.postgres.port)
    who = kid()
    sent: list[int] = []

    async def scenario() -> None:
        async with usage(Settings(line.port, database, stack.tls.ca), secret) as made:
            hanging_commits(True)
            for _ in range(200):  # until Postgres has noticed
                made.add(who, "a", TODAY, 10, 1, budgets=False)
                sent.append(10)
                flushing = asyncio.create_task(made.flush())
                await asyncio.wait((flushing,), timeout=0.1)
                if not flushing.done() and _waits_for(owner, "SyncRep"):
                    break
            assert not flushing.done()
            before = rows(owner, who)
            sent.append(100)
            made.add(who, "a", TODAY, 100, 1, budgets=False)  # comes while it is written
            await asyncio.to_thread(line.pull)
            assert await flushing is False
            await asyncio.to_thread(line.plug)
            # Done or not? Nobody can say yet, so nothing is written, and nothing is lost.
            assert await made.flush() is False
            assert rows(owner, who) == before
            hanging_commits(False)
            until = time.monotonic() + 15
            while not await made.flush():
                assert time.monotonic() < until
                await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert rows(owner, who) == {Row(who, "a", TODAY): (len(sent), sum(sent), len(sent))}


def test_a_transaction_that_was_ended_is_repeated(
    stack: Stack, here: Settings, secret: Path, owner: psycopg.Connection[Any]
) -> None:
    who = kid()

    async def scenario() -> None:
        async with usage(here, secret) as made:
            made.add(who, "a", TODAY, 1, 1, budgets=False)
            assert await made.flush()
            with stack.postgres.admin(here.db_name) as other, other.transaction():
                other.execute(b"SELECT 1 FROM gateway.usage_day WHERE kid = %s FOR UPDATE", (who,))
                made.add(who, "a", TODAY, 10, 10, budgets=False)
                flushing = asyncio.create_task(made.flush())
                await asyncio.to_thread(support.wait_for, "the lock", lambda: _waits_for(owner, "transactionid"))
                owner.execute(
                    b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    b"WHERE application_name = 'mcpstack-usage' AND wait_event = 'transactionid'"
                )
                assert await flushing is False
                assert made._doubt is not None
            until = time.monotonic() + 15
            while not await made.flush():
                assert time.monotonic() < until
                await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert rows(owner, who) == {Row(who, "a", TODAY): (2, 11, 11)}


def test_a_statement_that_is_refused_is_repeated(here: Settings, secret: Path, owner: psycopg.Connection[Any]) -> None:
    who = kid()

    async def scenario() -> None:
        async with usage(here, secret) as made:
            owner.execute(b"REVOKE INSERT ON gateway.usage_day FROM gateway")
            try:
                made.add(who, "a", TODAY, 1, 2, budgets=False)
                assert await made.flush() is False
                assert made._doubt is None
                assert await made.flush() is False
            finally:
                owner.execute(b"GRANT INSERT ON gateway.usage_day TO gateway")
            assert await made.flush()

    asyncio.run(scenario())
    assert rows(owner, who) == {Row(who, "a", TODAY): (1, 1, 2)}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "add", "flush", "kill", "report"]), st.integers(0, 3), st.integers(0, 9999)
        ),
        min_size=5,
        max_size=30,
    )
)
def test_the_rows_add_up_to_what_was_settled(
    here: Settings, secret: Path, owner: psycopg.Connection[Any], steps: list[Any]
) -> None:
    who = kid()
    expected: dict[Row, list[int]] = {}

    async def scenario() -> None:
        async with usage(here, secret) as made:
            flushing: list[asyncio.Task[bool]] = []
            for what, number, tokens in steps:
                if what == "add":
                    row = Row(who, f"m{number % 2}", TODAY - number)
                    made.add(who, row.model, row.day, tokens, number, budgets=number > 1)
                    sums = expected.setdefault(row, [0, 0, 0])
                    for place, value in enumerate((1, tokens, number)):
                        sums[place] += value
                elif what == "flush":
                    flushing.append(asyncio.create_task(made.flush()))
                    for _ in range(tokens % 7):
                        await asyncio.sleep(0.001)
                elif what == "kill":
                    owner.execute(
                        b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
                        ("mcpstack-usage",),
                    )
                else:
                    with contextlib.suppress(ApiError):
                        report = await made.report(who, day_of(0))
                        found = {row: [sums.requests, sums.prompt, sums.completion] for row, sums in report.items()}
                        assert found == expected
            await asyncio.gather(*flushing)
            until = time.monotonic() + 15
            while not await made.flush():
                assert time.monotonic() < until
                await asyncio.sleep(0.05)

    asyncio.run(scenario())
    assert rows(owner, who) == {row: tuple(sums) for row, sums in expected.items()}


def test_a_postgres_that_does_not_answer_costs_one_short_wait(
    stack: Stack, database: str, secret: Path, cable: Any
) -> None:
    line = cable(stack.postgres.port)
    who = kid()

    async def scenario() -> None:
        made = Usage(Settings(line.port, database, stack.tls.ca), SecretFile("TEST", secret, login))
        await made._pool.open(wait=True, timeout=10)
        await asyncio.to_thread(line.freeze)
        began = time.monotonic()
        assert [await made.totals(who, Period(TODAY, 0)) for _ in range(50)] == [None] * 50
        with pytest.raises(ApiError) as refused:
            await made.report(who, day_of(TODAY))
        assert refused.value.code == "usage_unavailable"
        assert time.monotonic() - began < 5
        made.add(who, "a", TODAY, 1, 1, budgets=False)
        await asyncio.to_thread(line.pull)
        await made.close()
        assert time.monotonic() - began < 12  # what cannot be written does not keep the process

    asyncio.run(scenario())
