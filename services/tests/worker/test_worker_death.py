# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers that stop, die, hang, sleep, or have a clock of their own; databases that go away."""

from __future__ import annotations

import signal
import time

from worker_support import Bench, bench, lines

import support

__all__ = ["bench"]


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
    job = bench.defer("effect", number=1, seconds=60)
    bench.effect()
    second = bench.start()
    first.process.kill()
    first.process.wait()
    bench.db.execute("UPDATE jobs.procrastinate_jobs SET args = args || '{\"seconds\": 0}'")
    assert bench.until(job, "succeeded")[1] == 2
    assert bench.db.execute("SELECT number, runs FROM testing.effect").fetchall() == [(1, 2)]
    assert second.metric('worker_jobs_recovered_total{outcome="retried",task="effect"}') == 1
    assert lines(second, "a job was taken back")[0]["reason"] == "worker_died"


def test_poison_is_given_up_and_takes_nobody_along(bench: Bench) -> None:
    """Jobs that run beside the one that kills the process are not counted out with it."""
    poison = bench.defer("poison")
    bench.defer_many("effect", 6, seconds=0.3)
    env = bench.environment(max_attempts="3")
    deaths = 0
    worker = bench.start(env=env, until=())
    until = time.monotonic() + 60
    while bench.count("todo", "doing") and time.monotonic() < until:
        if worker.process.poll() is not None:
            assert worker.process.returncode == -signal.SIGKILL
            deaths += 1
            worker = bench.start(env=env, until=())
        time.sleep(0.02)
    assert bench.job(poison) == ("failed", 3)
    assert bench.outcome(poison) == ("worker_died", "The worker ended while it ran this task.", None)
    assert deaths == 3
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
    worker = bench.start(stalled_after="5", block_limit="3")
    job = bench.defer("block", seconds=0.6)
    assert bench.until(job, "succeeded")[1] == 1
    assert worker.process.poll() is None


def test_a_suspended_worker_that_comes_back_leaves_alone_what_others_took(bench: Bench) -> None:
    sleeper = bench.start()
    job = bench.defer("effect", number=1, seconds=2)
    bench.effect()
    sleeper.process.send_signal(signal.SIGSTOP)
    other = bench.start()
    support.wait_for("the other to have it", lambda: bench.job(job) == ("doing", 1))
    sleeper.process.send_signal(signal.SIGCONT)
    assert bench.until(job, "succeeded") == ("succeeded", 2)
    assert bench.db.execute("SELECT number, runs FROM testing.effect").fetchall() == [(1, 2)]
    support.wait_for("the sleeper to work again", lambda: sleeper.ready() == "ready")
    assert other.ready() == "ready"
    again = bench.defer("effect", number=2)
    assert bench.until(again, "succeeded")[1] == 1


def test_clocks_that_differ(bench: Bench) -> None:
    """One worker is an hour ahead. Each tick is still one job, and a retry waits as long as it should."""
    ahead = bench.start(OFTEN="1", SKEW="3600")
    bench.start(OFTEN="1")
    fails = bench.defer("fail")
    assert bench.until(fails, "failed") == ("failed", 5)
    support.wait_for("ticks", lambda: bench.count("succeeded") >= 4)
    rows = bench.db.execute(
        "SELECT date_bin('1 second', event.at, 'epoch'), count(*) FROM jobs.procrastinate_events event "
        "JOIN jobs.procrastinate_jobs job ON job.id = event.job_id AND job.task_name = 'often' "
        "WHERE event.type = 'deferred' GROUP BY 1"
    ).fetchall()
    assert len(rows) >= 4
    assert {number for _, number in rows} == {1}
    assert -3601 < ahead.metric("worker_clock_offset_seconds") < -3599
    assert lines(ahead, "this clock and that of the database differ")


def test_the_library_s_own_schedule_does_go_by_each_clock(bench: Bench) -> None:
    """Why there is a schedule of our own: in procrastinate a worker whose clock is behind defers old ticks again."""
    query = "SELECT jobs.procrastinate_defer_periodic_job_v2('q', NULL, NULL, 'often', 0, '', %s, '{}')"
    ticks = [bench.db.execute(query, (moment,)).fetchone() for moment in (180, 60, 120)]
    assert None not in [row[0] for row in ticks if row]
