# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema: who may make it, who may do what in it, and what happens when release and database do not fit."""

from __future__ import annotations

import asyncio
import threading
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

import support
from mcpstack.common import migrate
from support import Launch, Stack

ONE, TWO = migrate.Migration(1, "one", "SELECT 1"), migrate.Migration(2, "two", "SELECT 2")


@pytest.fixture(scope="module")
def database(stack: Stack) -> str:
    return stack.postgres.new_database()


# Files


@pytest.mark.parametrize("component", migrate.COMPONENTS)
def test_every_component_brings_its_files_in_order(component: str) -> None:
    found = migrate.migrations(component)
    assert found
    assert [entry.version for entry in found] == list(range(1, len(found) + 1))


def test_the_package_takes_every_file_along() -> None:
    config = tomllib.loads((support.ROOT / "pyproject.toml").read_text())
    package = support.ROOT / "src/mcpstack"
    patterns = config["tool"]["setuptools"]["package-data"]["mcpstack"]
    taken = {path for pattern in patterns for path in package.glob(pattern)}
    assert set(package.rglob("*.sql")) - taken == set()


def test_an_unknown_component_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="tools is not one of gateway, jobs, registry"):
        migrate.migrations("tools")


@pytest.mark.parametrize(
    "names", [("0002_a.sql",), ("0001_a.sql", "0003_b.sql"), ("0001_a.sql", "0001_b.sql"), ("0000_a.sql",)]
)
def test_gaps_and_doubles_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in (*names, "README", "0001_A.sql", "1_a.sql"):
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(migrate.MigrationError, match="not numbered"):
        migrate.read(tmp_path)


# Comparing


def test_pending_migrations() -> None:
    assert migrate.pending([], [ONE, TWO], "gateway") == [ONE, TWO]
    assert migrate.pending([(1, "one", ONE.sha256)], [ONE, TWO], "gateway") == [TWO]
    assert migrate.pending([(1, "one", ONE.sha256), (2, "two", TWO.sha256)], [ONE, TWO], "gateway") == []


@pytest.mark.parametrize(
    ("applied", "words"),
    [
        ([(1, "one", ONE.sha256), (3, "x", "y")], "is at version 3, this release knows 2"),
        ([(1, "one", "edited")], r"Migration 1 \(one\) of the gateway schema was applied with other content"),
        ([(2, "two", TWO.sha256)], "has a gap in its versions"),
    ],
)
def test_migrations_that_do_not_fit(applied: list[tuple[int, str, str]], words: str) -> None:
    with pytest.raises(migrate.MigrationError, match=words):
        migrate.pending(applied, [ONE, TWO], "gateway")


def test_a_service_may_ask_and_is_told_what_to_do(stack: Stack) -> None:
    database = stack.postgres.new_database(migrated=False)

    def ask(*components: str) -> migrate.Verdict:
        async def later() -> migrate.Verdict:
            async with await psycopg.AsyncConnection.connect(
                host=str(stack.postgres.folder), port=stack.postgres.port, dbname=database, user="gateway_a",
                password=support.DB_PASSWORD, autocommit=True,
            ) as conn:  # fmt: skip
                return await migrate.check_async(conn, *components)

        with stack.postgres.login(database, "gateway_a") as conn:
            verdict = migrate.check(conn, *components)
        assert asyncio.run(later()) == verdict
        return verdict

    assert ask("gateway") == ("behind", "its schema waits for mcpstack-admin migrate (gateway)")
    with stack.postgres.login(database) as conn:
        migrate.apply(conn, ("gateway",))
        assert ask("gateway") == ("ok", None)
        assert ask("gateway", "jobs") == ("behind", "its schema waits for mcpstack-admin migrate (jobs)")
        conn.execute("INSERT INTO public.schema_version VALUES ('gateway', 2, 'future', 'x')")
    state, reason = ask("gateway", "jobs")
    assert (state, str(reason)[:51]) == ("newer", "The gateway schema is at version 2, this release kn")


# Applying


def test_backwards_is_refused_before_anything_is_touched(stack: Stack) -> None:
    database = stack.postgres.new_database(migrated=False)
    with stack.postgres.login(database) as conn:
        migrate.apply(conn, ("gateway",))
        conn.execute("INSERT INTO public.schema_version VALUES ('registry', 99, 'future', 'x')")
        with pytest.raises(migrate.MigrationError, match="The registry schema is at version 99"):
            migrate.apply(conn)
        assert conn.execute("SELECT to_regnamespace('jobs') IS NULL").fetchone() == (True,)
        assert conn.execute("SELECT pg_try_advisory_lock(%s)", (migrate._LOCK,)).fetchone() == (True,)


def test_a_file_that_was_edited_is_refused(stack: Stack, database: str) -> None:
    edited = [entry._replace(sql=entry.sql + "\n-- more\n") for entry in migrate.migrations("gateway")]
    with (
        stack.postgres.login(database) as conn,
        pytest.raises(migrate.MigrationError, match="was applied with other content"),
    ):
        migrate.apply(conn, ("gateway",), {"gateway": edited})


def test_a_migration_that_fails_leaves_nothing_behind(stack: Stack) -> None:
    database = stack.postgres.new_database(migrated=False)
    good = migrate.Migration(1, "good", "CREATE TABLE public.good (n int)")
    bad = migrate.Migration(2, "bad", "CREATE TABLE public.bad (n int); SELECT 1/0")
    with stack.postgres.login(database) as conn:
        with pytest.raises(psycopg.errors.DivisionByZero):
            migrate.apply(conn, ("gateway",), {"gateway": [good, bad]})
        row = conn.execute("SELECT to_regclass('public.good') IS NULL, to_regclass('public.bad') IS NULL").fetchone()
        assert row == (False, True)
        mended = bad._replace(sql="CREATE TABLE public.bad (n int)")
        done = migrate.apply(conn, ("gateway",), {"gateway": [good, mended]})
    assert [str(entry) for entry in done] == ["gateway/0002_bad"]


def test_two_migrators_at_once(stack: Stack) -> None:
    database = stack.postgres.new_database(migrated=False)
    results: list[list[str] | Exception] = []
    together = threading.Barrier(3)

    def go() -> None:
        try:
            with stack.postgres.login(database) as conn:
                together.wait(10)
                results.append([str(entry) for entry in migrate.apply(conn)])
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    everything = [f"{name}/{m.version:04d}_{m.name}" for name in migrate.COMPONENTS for m in migrate.migrations(name)]
    assert sorted(results, key=str) == sorted([everything, [], []], key=str)


def test_a_gateway_waits_for_the_schema_and_never_makes_it(stack: Stack, launch: Launch) -> None:
    database = stack.postgres.new_database(migrated=False)
    gateway = launch(until=("unavailable",), database=database)
    reason = "its schema waits for mcpstack-admin migrate (gateway)"
    support.wait_for("the reason", lambda: gateway.get("/ready").json["checks"]["postgres"]["reason"] == reason, 5)
    assert gateway.get("/v1/models", support.make_key()).code == "auth_unavailable"
    with stack.postgres.login(database) as conn:
        assert conn.execute("SELECT to_regclass('public.schema_version') IS NULL").fetchone() == (True,)
        migrate.apply(conn)
    support.wait_for("ready", lambda: gateway.ready() == "ready", 10)


# Rights

DENIED = [
    ("gateway_a", "CREATE TABLE public.mine (n int)"),
    ("gateway_a", "CREATE TABLE gateway.mine (n int)"),
    ("gateway_a", "CREATE SCHEMA mine"),
    ("gateway_a", "ALTER TABLE gateway.api_key ADD COLUMN x int"),
    ("gateway_a", "DROP TABLE gateway.usage_day"),
    ("gateway_a", "TRUNCATE gateway.usage_day"),
    ("gateway_a", "INSERT INTO gateway.api_key (kid, name, scopes) VALUES ('abcdefghij23', 'x', '{chat}')"),
    ("gateway_a", "UPDATE gateway.api_key SET scopes = '{tools:admin}'"),
    ("gateway_a", "UPDATE gateway.api_key_secret SET hmac = hmac"),
    ("gateway_a", "UPDATE gateway.api_key_secret SET last_used_at = now(), revoked_at = NULL"),
    ("gateway_a", "DELETE FROM gateway.api_key_secret"),
    ("gateway_a", "DELETE FROM gateway.usage_day"),
    ("gateway_a", "SELECT * FROM gateway.audit_log"),
    ("gateway_a", "SELECT count(*) FROM gateway.audit_log_default"),
    ("gateway_a", "UPDATE gateway.audit_log SET result = 'ok'"),
    ("gateway_a", "DELETE FROM gateway.audit_log"),
    ("gateway_a", "TRUNCATE gateway.audit_log"),
    ("gateway_a", "INSERT INTO gateway.audit_log (event, at, service, who, action, result, written_by) "
                  "VALUES (gen_random_uuid(), now(), 'x', 'x', 'x', 'x', 'admin_a')"),
    ("gateway_a", "INSERT INTO gateway.audit_log (event, at, service, who, action, result) "
                  "VALUES (gen_random_uuid(), now(), 'x', 'x', 'x', 'x') RETURNING event"),
    ("gateway_a", "SELECT gateway.audit_log_drop_months(3)"),
    ("gateway_a", "INSERT INTO public.schema_version VALUES ('gateway', 9, 'x', 'x')"),
    ("gateway_a", "SET ROLE mcpstack_owner"),
    ("gateway_a", "SET ROLE registry"),
    ("gateway_a", "COPY (SELECT 1) TO PROGRAM 'true'"),
    ("registry_a", "CREATE TABLE public.mine (n int)"),
    ("registry_a", "UPDATE gateway.api_key_secret SET hmac = hmac"),
    ("registry_a", "UPDATE gateway.api_key SET rpm = NULL"),
    ("registry_a", "SELECT * FROM gateway.audit_log"),
    ("registry_a", "SELECT * FROM gateway.usage_day"),
    ("registry_a", "SELECT gateway.audit_log_make_months(1)"),
    ("worker_a", "CREATE TABLE public.mine (n int)"),
    ("worker_a", "SELECT hmac FROM gateway.api_key_secret"),
    ("worker_a", "SELECT * FROM gateway.api_key"),
    ("worker_a", "SELECT * FROM gateway.audit_log"),
    ("worker_a", "DELETE FROM gateway.audit_log"),
    ("worker_a", "INSERT INTO gateway.usage_day VALUES ('k', 'm', now(), 1, 1, 1)"),
    ("worker_a", "SELECT gateway.make_months('gateway.audit_log', 'at', 1)"),
    ("worker_a", "SELECT gateway.drop_months('gateway.usage_day', 'day', 1)"),
    ("worker_a", "DROP TABLE gateway.audit_log_default"),
    ("admin_a", "COPY (SELECT 1) TO PROGRAM 'true'"),
    ("admin_a", "CREATE ROLE mine"),
    ("admin_a", "CREATE DATABASE mine"),
]  # fmt: skip


@pytest.mark.parametrize(("login", "statement"), DENIED)
def test_postgres_refuses(stack: Stack, database: str, login: str, statement: str) -> None:
    with stack.postgres.login(database, login) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(statement.encode())


ALLOWED = [
    ("gateway_a", "SELECT * FROM gateway.api_key JOIN gateway.api_key_secret USING (kid)"),
    ("gateway_a", "UPDATE gateway.api_key_secret SET last_used_at = now() WHERE id = 1"),
    ("gateway_a", "INSERT INTO gateway.usage_day AS u VALUES ('k', 'm', '2026-01-01', 1, 2, 3) ON CONFLICT "
                  "(kid, model, day) DO UPDATE SET requests = u.requests + excluded.requests"),
    ("gateway_a", "SELECT sum(tokens_in) FROM gateway.usage_day WHERE kid = 'k'"),
    ("gateway_a", "LISTEN mcpstack_keys"),
    ("registry_a", "SELECT * FROM gateway.api_key JOIN gateway.api_key_secret USING (kid)"),
    ("registry_a", "UPDATE gateway.api_key_secret SET last_used_at = now() WHERE id = 1"),
    ("worker_a", "DELETE FROM gateway.usage_day WHERE day < '2020-01-01'"),
    ("worker_a", "SELECT gateway.audit_log_make_months(3)"),
    ("worker_a", "SELECT gateway.audit_log_drop_months(12)"),
    ("admin_a", "SELECT * FROM gateway.audit_log"),
    *((login, "INSERT INTO gateway.audit_log (event, at, service, who, action, result) "
              "VALUES (gen_random_uuid(), now(), 'x', 'x', 'x', 'x') ON CONFLICT DO NOTHING")
      for login in ("gateway_a", "registry_a", "worker_a")),
    *((login, "SELECT * FROM public.schema_version") for login in ("gateway_a", "registry_a", "worker_a")),
]  # fmt: skip


@pytest.mark.parametrize(("login", "statement"), ALLOWED)
def test_postgres_allows(stack: Stack, database: str, login: str, statement: str) -> None:
    with stack.postgres.login(database, login) as conn:
        conn.execute(statement.encode())


def test_everything_belongs_to_the_owner(stack: Stack, database: str) -> None:
    with stack.postgres.admin(database) as conn:
        owners = conn.execute(
            "SELECT DISTINCT pg_get_userbyid(owner) FROM ("
            "SELECT relowner, relnamespace, oid FROM pg_class UNION "
            "SELECT proowner, pronamespace, oid FROM pg_proc UNION "
            "SELECT typowner, typnamespace, oid FROM pg_type UNION SELECT nspowner, oid, oid FROM pg_namespace"
            ") AS things (owner, space, thing) WHERE space = ANY (ARRAY["
            "to_regnamespace('gateway')::oid, to_regnamespace('jobs')::oid, to_regnamespace('registry')::oid])"
        ).fetchall()
    assert owners == [("mcpstack_owner",)]


def test_nothing_is_granted_to_everybody(stack: Stack, database: str) -> None:
    """A function may be called by anybody unless that is taken away; one that acts as the owner must not be."""
    with stack.postgres.admin(database) as conn:
        open_functions = conn.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE prosecdef AND "
            "pronamespace::regnamespace::text IN ('gateway', 'jobs', 'registry', 'public') AND "
            "(proacl IS NULL OR EXISTS (SELECT FROM aclexplode(proacl) WHERE grantee = 0))"
        ).fetchall()
        unpinned = conn.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE prosecdef AND "
            "pronamespace::regnamespace::text IN ('gateway', 'jobs', 'registry', 'public') AND "
            "NOT coalesce(proconfig::text LIKE '%search_path=%pg_temp%', false)"
        ).fetchall()
        open_tables = conn.execute(
            "SELECT table_schema, table_name FROM information_schema.table_privileges "
            "WHERE grantee = 'PUBLIC' AND table_schema IN ('gateway', 'jobs', 'registry')"
        ).fetchall()
    assert (open_functions, unpinned, open_tables) == ([], [], [])


# Months


def _months(conn: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    rows = conn.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'gateway.audit_log'::regclass ORDER BY 1"
    ).fetchall()
    return [str(row[0]).removeprefix("audit_log_") for row in rows]


def _month(away: int) -> datetime:
    now = datetime.now(UTC)
    year, month = divmod(now.year * 12 + now.month - 1 + away, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


def _log(conn: psycopg.Connection[tuple[object, ...]], at: datetime) -> None:
    conn.execute(
        "INSERT INTO gateway.audit_log (event, at, service, who, action, result) "
        "VALUES (gen_random_uuid(), %s, 'x', 'x', 'x', 'ok')",
        (at,),
    )


def test_months_are_made_ahead_and_take_over_what_was_there(stack: Stack) -> None:
    database = stack.postgres.new_database()
    with (
        stack.postgres.login(database) as owner,
        stack.postgres.login(database, "worker_a") as worker,
        stack.postgres.login(database, "gateway_a") as gateway,
    ):
        assert _months(owner) == [f"{_month(n):%Y%m}" for n in range(3)] + ["default"]
        edges = [_month(3), _month(4) - timedelta(microseconds=1), _month(4), _month(-20)]
        for moment in edges:
            _log(gateway, moment)
        worker.execute("SET TimeZone = 'Pacific/Kiritimati'")  # the session's time zone moves no border
        assert worker.execute("SELECT gateway.audit_log_make_months(3)").fetchone() == (
            [f"audit_log_{_month(3):%Y%m}"],
        )
        assert worker.execute("SELECT gateway.audit_log_make_months(3)").fetchone() == ([],)
        where = owner.execute("SELECT at, tableoid::regclass::text FROM gateway.audit_log ORDER BY at", ()).fetchall()
        month = f"gateway.audit_log_{_month(3):%Y%m}"
        rest = "gateway.audit_log_default"
        assert [row[1] for row in where] == [rest, month, month, rest]
        _log(gateway, edges[0])
        for ahead in (-1, 25):
            with pytest.raises(psycopg.errors.InvalidParameterValue):
                worker.execute("SELECT gateway.audit_log_make_months(%s)", (ahead,))


def test_months_are_made_under_load(stack: Stack) -> None:
    """Writers wait a moment; none of them fails, and no line is lost."""
    database = stack.postgres.new_database()
    ended = threading.Event()
    written: list[int] = []
    failed: list[Exception] = []

    def write() -> None:
        done = 0
        try:
            with stack.postgres.login(database, "gateway_a") as conn:
                while not ended.is_set():
                    _log(conn, _month(3 + done % 8))
                    done += 1
        except Exception as error:
            failed.append(error)
        written.append(done)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    with stack.postgres.login(database, "worker_a") as worker, stack.postgres.login(database) as owner:
        for ahead in range(3, 11):
            worker.execute("SELECT gateway.audit_log_make_months(%s)", (ahead,))
        ended.set()
        for thread in threads:
            thread.join(20)
        rows = owner.execute("SELECT count(*) FROM gateway.audit_log").fetchone()
        rest = owner.execute("SELECT count(*) FROM gateway.audit_log_default").fetchone()
    assert (failed, rows, rest) == ([], (sum(written),), (0,))


def test_old_months_go_recent_ones_stay(stack: Stack) -> None:
    database = stack.postgres.new_database()
    with stack.postgres.login(database) as owner, stack.postgres.login(database, "worker_a") as worker:
        for away in (-5, -4, -3, -1):
            low, high = _month(away), _month(away + 1)
            name = f"gateway.audit_log_{low:%Y%m}"
            owner.execute(
                f"CREATE TABLE {name} PARTITION OF gateway.audit_log "
                f"FOR VALUES FROM ('{low.isoformat()}') TO ('{high.isoformat()}')".encode()
            )
        for away in (-8, -5, -4, -3, -2, -1, 0):
            _log(owner, _month(away))
        dropped = worker.execute("SELECT gateway.audit_log_drop_months(0)").fetchone()  # three stay, whatever is said
        assert dropped == ([f"audit_log_{_month(-5):%Y%m}", f"audit_log_{_month(-4):%Y%m}"],)
        left = owner.execute("SELECT at FROM gateway.audit_log ORDER BY at").fetchall()
        assert [row[0] for row in left] == [_month(away) for away in (-3, -2, -1, 0)]
