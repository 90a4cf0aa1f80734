# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema `jobs`: the queue is the installed library's, and each role may do exactly what it needs."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from importlib import resources
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from mcpstack.worker.payloads import BY_USERS
from mcpstack.worker.tasks import KINDS
from support import Stack

# What the catalogue says of every object, the functions' search path aside.
_CATALOGUE = """
WITH space AS (SELECT %(schema)s::regnamespace AS oid)
SELECT 'column' AS what, c.relname || '.' || a.attname AS name,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                 pg_get_expr(d.adbin, d.adrelid)) AS text
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum, space
 WHERE c.relnamespace = space.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'c', 'S', 'v', 'p')
UNION ALL
SELECT 'enum', t.typname, string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder)
  FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid, space WHERE t.typnamespace = space.oid GROUP BY 2
UNION ALL
SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(c.oid)
  FROM pg_constraint c, space WHERE c.connamespace = space.oid AND conrelid <> 0
UNION ALL
SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid, space WHERE c.relnamespace = space.oid
UNION ALL
SELECT 'function', proname || '(' || pg_get_function_arguments(p.oid) || ')',
       concat_ws(' ', pg_get_function_result(p.oid), provolatile, prosecdef, proisstrict, prosrc)
  FROM pg_proc p, space WHERE p.pronamespace = space.oid
UNION ALL
SELECT 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(t.oid)
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid, space
 WHERE c.relnamespace = space.oid AND NOT t.tgisinternal"""


def catalogue(conn: psycopg.Connection[Any], schema: str) -> dict[tuple[str, str], str]:
    conn.execute(f"SET search_path = {schema}".encode())
    rows = conn.execute(_CATALOGUE, {"schema": schema}).fetchall()
    prefix = re.compile(rf"\b{schema}\.")
    # Functions call a table "jobs" themselves, and nothing of theirs is written with its schema.
    return {
        (what, prefix.sub("", name)): text if what == "function" else prefix.sub("", text) for what, name, text in rows
    }


def test_the_queue_is_what_the_installed_procrastinate_makes(stack: Stack) -> None:
    """A new release of the library needs a migration: this test fails until there is one."""
    plain = stack.postgres.new_database(migrated=False)
    with stack.postgres.admin(plain) as conn:
        conn.execute(resources.files("procrastinate").joinpath("sql/schema.sql").read_bytes())
        theirs = catalogue(conn, "public")
    theirs = {key: text for key, text in theirs.items() if "procrastinate" in key[1]}
    with stack.postgres.login(stack.postgres.new_database()) as conn:
        ours = catalogue(conn, "jobs")
    assert len(theirs) > 80
    assert {key: ours.get(key) for key in theirs} == theirs
    extra = {key for key in ours if "procrastinate" in key[1]} - set(theirs)
    assert extra == {
        ("constraint", "procrastinate_jobs.mcpstack_args_object"),
    }


def test_the_kinds_of_the_database_are_those_of_the_worker(database: psycopg.Connection[Any]) -> None:
    rows = database.execute("SELECT name, by_users FROM jobs.kind").fetchall()
    assert {name for name, _ in rows} == {kind.name for kind in KINDS}
    assert {name for name, by_users in rows if by_users} == set(BY_USERS)
    payloads = {kind.name: kind.payload for kind in KINDS}
    assert {name: payloads[name] for name in BY_USERS} == BY_USERS


@pytest.fixture
def name(stack: Stack) -> str:
    return stack.postgres.new_database()


@pytest.fixture
def database(stack: Stack, name: str) -> Iterator[psycopg.Connection[Any]]:
    with stack.postgres.login(name) as conn:
        yield conn


ALLOWED = [
    ("worker", "SELECT jobs.defer('vector_index')"),
    ("worker", "SELECT * FROM jobs.procrastinate_register_worker_v1()"),
    ("worker", "DELETE FROM jobs.procrastinate_jobs"),
    ("worker", "INSERT INTO jobs.service_health VALUES ('x', true, NULL, 1, now(), now())"),
    ("registry", "SELECT jobs.defer('vector_index', '{}', 'vector_index')"),
    ("registry", "SELECT service, up FROM jobs.service_health"),
    ("gateway", "SELECT * FROM jobs.submit('kid', 'vector_index', '{}', NULL, NULL, 5)"),
    ("gateway", "SELECT jobs.cancel('kid', 'task_0')"),
    ("gateway", "SELECT * FROM jobs.task_status WHERE kid = 'kid'"),
    ("gateway", "SELECT * FROM jobs.usage_month"),
]
REFUSED = [
    ("gateway", "SELECT jobs.defer('data_cleanup')"),
    ("gateway", "SELECT * FROM jobs.procrastinate_jobs"),
    ("gateway", "SELECT * FROM jobs.task"),
    ("gateway", "SELECT jobs.procrastinate_defer_jobs_v1('{}')"),
    ("gateway", "SELECT jobs.procrastinate_finish_job_v1(1, 'failed', true)"),
    ("gateway", "INSERT INTO jobs.kind VALUES ('evil', 0, NULL, true)"),
    ("registry", "SELECT * FROM jobs.procrastinate_jobs"),
    ("registry", "SELECT * FROM jobs.task_status"),
    ("registry", "SELECT jobs.submit('kid', 'vector_index', '{}', NULL, NULL, 5)"),
    ("registry", "SELECT jobs.procrastinate_cancel_job_v1(1, true, true)"),
    ("worker", "INSERT INTO jobs.kind VALUES ('evil', 0, NULL, true)"),
    ("worker", "CREATE TABLE jobs.mine (id int)"),
    ("worker", "SELECT jobs.submit('kid', 'vector_index', '{}', NULL, NULL, 5)"),
    ("worker", "ALTER TABLE jobs.procrastinate_jobs ADD COLUMN x int"),
]


@pytest.mark.parametrize(("role", "statement"), ALLOWED)
def test_allowed(stack: Stack, name: str, role: str, statement: str) -> None:
    with stack.postgres.login(name, f"{role}_a") as conn:
        conn.execute(statement.encode())


def test_refused(stack: Stack, name: str) -> None:
    for role, statement in REFUSED:
        with stack.postgres.login(name, f"{role}_a") as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(statement.encode())


def test_a_table_of_the_caller_is_not_in_the_way(stack: Stack, name: str) -> None:
    """The functions that run as the owner find their own tables, whatever the caller's search path."""
    with stack.postgres.admin(name) as conn:
        conn.execute("GRANT TEMPORARY ON DATABASE " + name + " TO registry")
    with stack.postgres.login(name, "registry_a") as conn:
        conn.execute("CREATE TEMP TABLE procrastinate_jobs (id int)")
        conn.execute("SET search_path = pg_temp, public")
        job = conn.execute("SELECT jobs.defer('vector_index')").fetchone()
    with stack.postgres.login(name) as conn:
        assert job is not None
        assert conn.execute("SELECT task_name FROM jobs.procrastinate_jobs WHERE id = %s", job).fetchone() == (
            "vector_index",
        )


def test_defer_knows_its_kinds_and_limits(database: psycopg.Connection[Any]) -> None:
    for kind, args, words in (
        ("no_such", Jsonb({}), "There is no task of the kind no_such."),
        ("vector_index", Jsonb([]), "The arguments of a task are an object of at most 64 KiB."),
        ("vector_index", None, "The arguments of a task are an object of at most 64 KiB."),
        ("vector_index", Jsonb({"x": "y" * 1_000_000}), "The arguments of a task are an object of at most 64 KiB."),
    ):
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            database.execute("SELECT jobs.defer(%s, %s)", (kind, args))
        assert caught.value.diag.message_primary == words
    job = database.execute("SELECT jobs.defer('health_check', '{}', 'word', 'one at a time', '1 hour')").fetchone()
    assert job is not None
    row = database.execute(
        "SELECT priority, lock, queueing_lock, queue_name, scheduled_at > now() + interval '59 min' "
        "FROM jobs.procrastinate_jobs WHERE id = %s",
        job,
    ).fetchone()
    assert row == (20, "one at a time", "word", "default", True)


def test_deferring_twice_waits_for_what_was_just_written(stack: Stack, name: str) -> None:
    """A job that is waiting already does, and no worker starts it before the second caller has committed."""
    fetch = "SELECT id FROM jobs.procrastinate_fetch_job_v2(NULL, %s)"
    with (
        stack.postgres.login(name, "registry_a") as caller,
        stack.postgres.login(name, "worker_a") as worker,
    ):
        worker_id = worker.execute("SELECT * FROM jobs.procrastinate_register_worker_v1()").fetchone()
        first = caller.execute("SELECT jobs.defer('vector_index', '{}', 'vectors')").fetchone()
        with caller.transaction():
            assert caller.execute("SELECT jobs.defer('vector_index', '{}', 'vectors')").fetchone() == first
            assert worker.execute(fetch, worker_id).fetchone() == (None,)
        assert worker.execute(fetch, worker_id).fetchone() == first
        # It runs now and may have looked already: the next word is a new job.
        assert caller.execute("SELECT jobs.defer('vector_index', '{}', 'vectors')").fetchone() != first


def test_two_who_defer_the_same_at_once(stack: Stack, name: str) -> None:
    found: list[Any] = []
    begin = threading.Barrier(4)

    def defer() -> None:
        with stack.postgres.login(name, "registry_a") as conn:
            begin.wait(10)
            found.append(conn.execute("SELECT jobs.defer('vector_index', '{}', 'once')").fetchone())

    threads = [threading.Thread(target=defer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 4
    assert len(set(found)) == 1


def submit(conn: psycopg.Connection[Any], *values: Any) -> tuple[str, str | None]:
    row = conn.execute("SELECT * FROM jobs.submit(%s, %s, %s, %s, %s, %s)", values).fetchone()
    assert row is not None
    return row[0], row[1]


def test_submit(database: psycopg.Connection[Any]) -> None:
    empty, other = Jsonb({}), Jsonb({"server": "a"})
    outcome, first = submit(database, "kid1", "registry_sync", empty, "k", None, 3)
    assert outcome == "created"
    assert submit(database, "kid1", "registry_sync", empty, "k", None, 3) == ("repeated", first)
    assert submit(database, "kid1", "registry_sync", other, "k", None, 3) == ("conflict", first)
    assert submit(database, "kid1", "vector_index", empty, "k", None, 3) == ("conflict", first)
    assert submit(database, "kid2", "registry_sync", empty, "k", None, 3)[0] == "created"  # keys do not meet
    assert submit(database, "kid1", "data_cleanup", empty, None, None, 3) == ("unknown", None)
    assert submit(database, "kid1", "registry_sync", other, None, "registry_sync a", 3)[0] == "created"
    assert submit(database, "kid1", "registry_sync", other, None, "registry_sync a", 3)[0] == "created"
    assert submit(database, "kid1", "registry_sync", other, None, None, 3) == ("full", None)
    assert submit(database, "kid1", "registry_sync", empty, "k", None, 3) == ("repeated", first)  # full or not
    jobs = database.execute("SELECT count(*) FROM jobs.procrastinate_jobs").fetchone()
    assert jobs == (4,)
    assert database.execute("SELECT jobs.cancel('kid2', %s)", (first,)).fetchone() == ("not_found",)
    assert database.execute("SELECT jobs.cancel('kid1', %s)", (first,)).fetchone() == ("cancelled",)
    assert database.execute("SELECT jobs.cancel('kid1', %s)", (first,)).fetchone() == ("finished",)


def test_a_row_edited_by_hand_stays_one_that_can_be_run(database: psycopg.Connection[Any]) -> None:
    database.execute("SELECT jobs.defer('vector_index')")
    for args in ("[]", "1", "null", '"text"'):
        with pytest.raises(psycopg.errors.CheckViolation):
            database.execute("UPDATE jobs.procrastinate_jobs SET args = %s::jsonb", (args,))
