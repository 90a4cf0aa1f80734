# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Postgres is not there yet, goes away, freezes, cannot be written, wants another login or another release."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from worker_support import Bench, bench, lines

import support
from mcpstack.worker.tasks import KINDS
from support import Stack

__all__ = ["bench"]

CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = 'worker_a'"


def test_it_starts_without_postgres_and_works_when_it_comes(bench: Bench) -> None:
    cable = support.Cable(bench.stack.loop, bench.stack.postgres.port)
    cable.pull()
    worker = bench.start(pg_port=cable.port, until=("unavailable",))
    assert worker.get("/live").status == worker.get("/health").status == 200
    assert worker.get("/ready").status == 503
    down = {"status": "down", "reason": "no connection"}
    support.wait_for("it to say why", lambda: worker.get("/ready").json["checks"]["postgres"] == down)
    assert worker.metric("worker_queue_read") == 0
    job = bench.defer("effect", number=1)
    cable.plug()
    try:
        assert bench.until(job, "succeeded")[1] == 1
        assert worker.ready() == "ready"
    finally:
        cable.pull()


def test_without_postgres_it_stops_when_asked(bench: Bench) -> None:
    cable = support.Cable(bench.stack.loop, bench.stack.postgres.port)
    cable.pull()
    waiting = bench.start(pg_port=cable.port, until=("unavailable",))
    assert waiting.stop(limit=10) == 0
    cable.plug()
    frozen = bench.start(pg_port=cable.port, shutdown_grace="0.5")
    cable.freeze()
    try:
        assert frozen.stop(limit=15) == 0
    finally:
        cable.pull()


def test_postgres_goes_away_while_jobs_run(bench: Bench) -> None:
    """What ends while it is away is written when it is back; the worker says that it does not work."""
    cable = support.Cable(bench.stack.loop, bench.stack.postgres.port)
    worker = bench.start(pg_port=cable.port, stalled_after="6")
    job = bench.defer("effect", number=1, seconds=0.5)
    bench.until(job, "doing")
    cable.pull()
    support.wait_for("it to notice", lambda: worker.ready() == "unavailable")
    later = bench.defer("effect", number=2)
    cable.plug()
    try:
        attempts = bench.until(job, "succeeded")[1]
        assert attempts in (1, 2)  # again, if it was away for longer than a worker may be
        assert bench.until(later, "succeeded")[1] == 1
        support.wait_for("it to work", lambda: worker.ready() == "ready")
        (first, second) = bench.db.execute("SELECT number, runs FROM testing.effect ORDER BY 1").fetchall()
        assert first[0] == 1
        assert 1 <= first[1] <= attempts
        assert second == (2, 1)
    finally:
        cable.pull()


def test_cut_off_for_long_it_gives_its_jobs_up_before_others_take_them(bench: Bench) -> None:
    cable = support.Cable(bench.stack.loop, bench.stack.postgres.port)
    lonely = bench.start(pg_port=cable.port, stalled_after="3")
    job = bench.defer("effect", number=1, seconds=30)
    bench.until(job, "doing")
    cable.freeze()
    try:
        support.wait_for("it to give up", lambda: lines(lonely, "job"), 15)
        assert lines(lonely, "job")[0]["outcome"] == "interrupted"
        assert bench.job(job) == ("doing", 0)  # nobody has taken it yet
        assert lonely.ready() == "unavailable"
        bench.db.execute("UPDATE jobs.procrastinate_jobs SET args = args || '{\"seconds\": 0}'")
        bench.start(stalled_after="3")
        assert bench.until(job, "succeeded")[1] == 2
        cable.plug()
        support.wait_for("it to work again", lambda: lonely.ready() == "ready")
        assert bench.job(job) == ("succeeded", 2)
    finally:
        cable.pull()


def test_a_job_whose_end_was_never_written_is_found(bench: Bench) -> None:
    """A living worker that does not run what is written down as running."""
    worker = bench.start()
    row = bench.db.execute("SELECT id FROM jobs.procrastinate_workers").fetchone()
    assert row is not None
    job = bench.defer("effect", number=1)
    bench.until(job, "succeeded")
    bench.db.execute(
        "UPDATE jobs.procrastinate_jobs SET status = 'doing', worker_id = %s, attempts = 0 WHERE id = %s", (row[0], job)
    )
    assert bench.until(job, "succeeded")[1] == 2
    assert worker.ready() == "ready"


def test_a_database_that_cannot_be_written(bench: Bench) -> None:
    worker = bench.start()
    with bench.stack.postgres.admin() as conn:
        conn.execute(f"ALTER DATABASE {bench.name} SET default_transaction_read_only = on".encode())
        conn.execute(CUT, (bench.name,))
    support.wait_for("it to notice", lambda: worker.ready() == "unavailable")
    assert worker.get("/live").status == 200
    with bench.stack.postgres.admin() as conn:
        conn.execute(f"ALTER DATABASE {bench.name} RESET default_transaction_read_only".encode())
        conn.execute(CUT, (bench.name,))
    support.wait_for("it to work", lambda: worker.ready() == "ready")
    assert bench.until(bench.defer("effect", number=1), "succeeded")[1] == 1


def test_a_rotated_login_needs_no_restart(bench: Bench) -> None:
    worker = bench.start()
    bench.stack.postgres.new_login("worker_z", "worker", "z" * 32)
    try:
        support.swap_secret(worker.env["WORKER_DB_LOGIN_FILE"], "worker_z:" + "z" * 32)
        with bench.stack.postgres.admin() as conn:
            conn.execute(CUT, (bench.name,))
        assert bench.until(bench.defer("effect", number=1), "succeeded")[1] == 1
        support.wait_for("it to work", lambda: worker.ready() == "ready")
        with bench.stack.postgres.admin() as conn:
            query = "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = %s AND application_name ~ 'worker'"
            users = conn.execute(query, (bench.name,)).fetchall()
        assert users == [("worker_z",)]
    finally:
        worker.stop()
        bench.stack.postgres.drop_login("worker_z")


def test_it_waits_for_the_schema_and_leaves_a_newer_one_alone(stack: Stack, tmp_path: Path) -> None:
    bench = Bench(stack, tmp_path)
    try:
        stolen = bench.db.execute(
            "DELETE FROM public.schema_version WHERE component = 'jobs' AND version = 2 RETURNING version, name, sha256"
        ).fetchone()
        assert stolen is not None
        worker = bench.start(until=("unavailable",))
        waits = "its schema waits for mcpstack-admin migrate (jobs)"
        support.wait_for("it to say why", lambda: worker.get("/ready").json["checks"]["postgres"]["reason"] == waits)
        job = bench.defer("effect", number=1)
        query = "INSERT INTO public.schema_version (component, version, name, sha256) VALUES ('jobs', %s, %s, %s)"
        bench.db.execute(query, stolen)
        assert bench.until(job, "succeeded")[1] == 1
        worker.stop()
        bench.db.execute(query, (99, "later", "0" * 64))
        with pytest.raises(AssertionError, match="ended with 3"):
            bench.start()
        refused = bench.folder / "worker1.log"
        assert "The jobs schema is at version 99, this release knows 2." in refused.read_text()
    finally:
        bench.close()


def test_the_real_worker(bench: Bench) -> None:
    """Soon ready, small, every kind scheduled and run, and no label that a job's row could make."""
    began = time.monotonic()
    port = str(bench.stack.valkey.port)
    worker = bench.start(module="mcpstack.worker", valkey_host="localhost", WORKER_VALKEY_PORT=port)
    took = time.monotonic() - began
    done = "SELECT DISTINCT task_name FROM jobs.procrastinate_jobs WHERE status = 'succeeded'"
    names = sorted((kind.name,) for kind in KINDS)
    support.wait_for("every kind to have run", lambda: sorted(bench.db.execute(done).fetchall()) == names)
    bench.db.execute(
        "INSERT INTO jobs.procrastinate_jobs (queue_name, task_name, status) "
        "SELECT 'queue' || n, 'task' || n, 'failed' FROM generate_series(1, 300) n"
    )
    support.wait_for("fresh figures", lambda: worker.metric('worker_dead_letters{task="other"}') == 300, 15)
    text = worker.get("/metrics").body.decode()
    assert set(re.findall(r'task="([^"]*)"', text)) == {kind.name for kind in KINDS} | {"other"}
    assert set(re.findall(r'queue="([^"]*)"', text)) == {"default", "other"}
    assert len(text.splitlines()) < 400
    assert worker.metric("worker_service_up") == 3
    assert worker.metric("worker_workers_alive") == 1
    resident = worker.metric("process_resident_memory_bytes") / 1_000_000
    print(f"ready after {took:.2f} s, {resident:.0f} MB resident")
    assert resident < 120
    for path, status in (("/metrics/", 404), ("/docs", 404), ("/v1/tasks", 404), ("/ready", 200)):
        assert worker.get(path).status == status
    assert worker.call("POST", "/live", b"x").status == 405
    assert worker.stop() == 0
