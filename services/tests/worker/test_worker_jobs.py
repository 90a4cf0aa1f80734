# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs: done, tried again, given up, taken back; by real workers on a real queue."""

from __future__ import annotations

import signal
import time

import pytest
from worker_support import Bench, bench, lines

import support

__all__ = ["bench"]


def test_jobs_are_done_once_and_said_what_came_of_them(bench: Bench) -> None:
    worker = bench.start()
    bench.defer_many("effect", 20)
    bench.idle()
    assert bench.db.execute("SELECT count(*), sum(runs) FROM testing.effect").fetchone() == (20, 20)
    job = bench.defer("effect", number=5)
    assert bench.until(job, "succeeded") == ("succeeded", 1)
    assert bench.outcome(job) == (None, None, {"number": 5})
    assert worker.metric('worker_jobs_total{outcome="succeeded",task="effect"}') == 21
    assert worker.stop() == 0
    log = worker.log.read_text()
    assert "number" not in log  # arguments and results are nobody's business
    assert bench.db.execute("SELECT count(*) FROM jobs.procrastinate_workers").fetchone() == (0,)


UNFIT = "The arguments of this task do not fit"
FATES = [
    ("fail", {}, 3, "not_today", "It does not work, and the key [redacted] never shown."),
    ("never", {}, 1, "never", "It cannot work."),
    ("stumble", {}, 1, "internal", "Something unexpected happened (KeyError)."),
    ("limited", {"seconds": 5}, 1, "time_limit", "The task took longer than 0.3 s."),
    ("leave", {}, 1, "internal", "The task tried to end the worker."),
    (
        "effect",
        {"number": "5", "other": 1},
        1,
        "invalid_payload",
        "The arguments of this task do not fit: number, other.",
    ),
    ("effect", {"number": 1, "context": 1}, 1, "invalid_payload", "The arguments of this task do not fit: context."),
]


def test_jobs_that_fail_become_dead_letters(bench: Bench) -> None:
    worker = bench.start(max_attempts="3")
    jobs = [(bench.defer(kind, **args), *rest) for kind, args, *rest in FATES]
    for job, attempts, reason, message in jobs:
        assert bench.until(job, "failed") == ("failed", attempts)
        assert bench.outcome(job) == (reason, message, None)
    assert worker.metric('worker_jobs_total{outcome="retried",task="fail"}') == 2
    assert worker.metric('worker_jobs_total{outcome="dead",task="fail"}') == 1
    support.wait_for("fresh figures", lambda: worker.metric("worker_dead_letters") == len(FATES))
    assert "something private" not in str(bench.outcome(jobs[2][0]))


def test_a_task_nobody_knows_is_a_dead_letter(bench: Bench) -> None:
    worker = bench.start()
    bench.db.execute("INSERT INTO jobs.kind VALUES ('later', 0, NULL, false)")
    job = bench.defer("later", secret="hidden")
    assert bench.until(job, "failed") == ("failed", 1)
    assert bench.outcome(job) == ("unknown_task", "This release of the worker does not know the task.", None)
    support.wait_for("fresh figures", lambda: worker.metric('worker_dead_letters{task="other"}') == 1)
    assert "later" not in worker.get("/metrics").body.decode()
    assert "hidden" not in worker.log.read_text()


def test_pauses_grow_and_differ() -> None:
    from datetime import UTC, datetime

    from mcpstack.worker.queue import Backoff

    backoff = Backoff(10, 5, 900, lambda: datetime.now(UTC))
    for attempts, low, high in ((0, 2.5, 5), (1, 5, 10), (4, 40, 80), (9, 450, 900), (500, 450, 900)):
        pauses = [backoff.pause(attempts) for _ in range(200)]
        assert low <= min(pauses) < max(pauses) <= high
        assert len(set(pauses)) > 100


def test_the_more_urgent_comes_first(bench: Bench) -> None:
    bench.db.execute("UPDATE jobs.kind SET priority = 10 WHERE name = 'never'")
    bench.defer_many("effect", 5)
    urgent = bench.defer("never")
    bench.start(concurrency="1")
    bench.idle()
    order = bench.db.execute(
        "SELECT job_id FROM jobs.procrastinate_events WHERE type = 'started' ORDER BY id"
    ).fetchall()
    assert order[0] == (urgent,)


def test_sigterm_waits_for_jobs_and_puts_the_rest_back(bench: Bench) -> None:
    worker = bench.start(shutdown_grace="1.5", concurrency="3")
    short = bench.defer("effect", number=1, seconds=0.7)
    long = bench.defer("effect", number=2, seconds=30)
    support.wait_for("both to run", lambda: bench.count("doing") == 2)
    worker.process.send_signal(signal.SIGTERM)
    support.wait_for("it to say so", lambda: worker.ready() == "shutting_down")
    late = bench.defer("effect", number=3)
    assert worker.process.wait(10) == 0
    assert bench.job(short) == ("succeeded", 1)
    assert bench.job(long) == ("todo", 0)  # an interruption is not a failure
    assert bench.job(late) == ("todo", 0)
    assert bench.db.execute("SELECT count(*) FROM jobs.procrastinate_workers").fetchone() == (0,)


def test_a_task_that_ignores_being_cancelled_cannot_hold_the_worker(bench: Bench) -> None:
    worker = bench.start(shutdown_grace="0.5")
    job = bench.defer("stubborn", seconds=60)
    bench.until(job, "doing")
    began = time.monotonic()
    assert worker.stop(limit=20) == 0
    assert time.monotonic() - began < 12
    assert bench.job(job) == ("todo", 1)
    assert lines(worker, "put back")[0]["jobs"] == 1


def test_a_worker_that_died_is_noticed_by_another(bench: Bench) -> None:
    first = bench.start()
    job = bench.defer("effect", number=1, seconds=2)
    bench.until(job, "doing")
    second = bench.start()
    first.process.kill()
    first.process.wait()
    assert bench.until(job, "succeeded")[1] == 2
    assert bench.db.execute("SELECT number, runs FROM testing.effect").fetchall() == [(1, 2)]
    assert second.metric('worker_jobs_recovered_total{outcome="retried",task="effect"}') == 1
    assert lines(second, "a job was taken back")[0]["reason"] == "worker_died"


def test_poison_is_given_up_and_takes_nobody_along(bench: Bench) -> None:
    """Jobs that run beside the one that kills the process are not counted out with it."""
    poison = bench.defer("poison")
    bench.defer_many("effect", 6, seconds=0.3)
    env = bench.environment(max_attempts="4")
    deaths = 0
    worker = bench.start(env=env, until=())
    until = time.monotonic() + 60
    while bench.count("todo", "doing") and time.monotonic() < until:
        if worker.process.poll() is not None:
            assert worker.process.returncode == -signal.SIGKILL
            deaths += 1
            worker = bench.start(env=env, until=())
        time.sleep(0.02)
    assert bench.job(poison) == ("failed", 4)
    assert bench.outcome(poison) == ("worker_died", "The worker ended while it ran this task.", None)
    assert deaths == 4
    assert bench.count("succeeded") == 6
    most = bench.db.execute("SELECT max(attempts) FROM jobs.procrastinate_jobs WHERE status = 'succeeded'").fetchone()
    assert most is not None
    assert most[0] <= 2  # one death beside it, then success


def test_a_handler_that_blocks_ends_the_process_before_others_take_its_jobs(bench: Bench) -> None:
    worker = bench.start()
    job = bench.defer("block", seconds=30)
    bench.until(job, "doing")
    assert worker.process.wait(15) == 70
    line = lines(worker, "a handler blocks the process; ending it")[0]
    assert line["running"] == ["block"]
    assert "in block" in line["stack"]
    assert bench.job(job) == ("doing", 0)
    bench.db.execute("UPDATE jobs.procrastinate_jobs SET args = '{}'")
    bench.start()
    assert bench.until(job, "succeeded")[1] == 2


def test_a_short_block_is_survived(bench: Bench) -> None:
    worker = bench.start(block_limit="1.1")
    job = bench.defer("block", seconds=0.6)
    assert bench.until(job, "succeeded")[1] == 1
    assert worker.process.poll() is None


def test_a_suspended_worker_that_comes_back_leaves_alone_what_others_took(bench: Bench) -> None:
    sleeper = bench.start()
    job = bench.defer("effect", number=1, seconds=1)
    bench.until(job, "doing")
    sleeper.process.send_signal(signal.SIGSTOP)
    other = bench.start()
    support.wait_for("the other to have it", lambda: bench.job(job) == ("doing", 1))
    bench.db.execute("UPDATE jobs.procrastinate_jobs SET args = args || '{\"seconds\": 30}' WHERE id = %s", (job,))
    support.wait_for("the other to be done", lambda: bench.job(job)[0] in ("doing", "succeeded"))
    sleeper.process.send_signal(signal.SIGCONT)
    assert bench.until(job, "succeeded") == ("succeeded", 2)
    assert bench.db.execute("SELECT number, runs FROM testing.effect").fetchall() == [(1, 2)]
    support.wait_for("the sleeper to work again", lambda: sleeper.ready() == "ready")
    assert other.ready() == "ready"
    again = bench.defer("effect", number=2)
    assert bench.until(again, "succeeded")[1] == 1


def test_one_tick_one_job_whatever_the_clocks_say(bench: Bench) -> None:
    """Three workers, one of them an hour ahead by its own clock (libfaketime is not needed: the database decides)."""
    for _ in range(3):
        bench.start(OFTEN="1")
    support.wait_for("ticks", lambda: bench.count("succeeded") >= 4)
    rows = bench.db.execute(
        "SELECT date_bin('1 second', at, 'epoch'), count(*) FROM jobs.procrastinate_events WHERE type = 'deferred' "
        "GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert [number for _, number in rows] == [1] * len(rows)
    assert len(rows) >= 4


@pytest.mark.parametrize("running", [False, True])
def test_cancel(bench: Bench, running: bool) -> None:
    def submit(payload: str) -> tuple[str, int]:
        query = "SELECT id FROM jobs.submit('kid', 'effect', %s::jsonb, NULL, NULL, 9)"
        row = bench.db.execute(query, (payload,)).fetchone()
        assert row is not None
        job = bench.db.execute("SELECT job_id FROM jobs.task WHERE id = %s", row).fetchone()
        assert job is not None
        return row[0], job[0]

    worker = bench.start() if running else None
    task, job = submit('{"number": 1, "seconds": 30}')
    if running:
        bench.until(job, "doing")
    said = bench.db.execute("SELECT jobs.cancel('kid', %s)", (task,)).fetchone()
    assert said == (("stopping",) if running else ("cancelled",))
    assert bench.until(job, "aborted", "cancelled")[0] == ("aborted" if running else "cancelled")
    if worker is not None:
        assert bench.outcome(job) == ("cancelled", "Stopped because its owner asked for it.", None)
        assert worker.metric('worker_jobs_total{outcome="cancelled",task="effect"}') == 1
