# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs: done, tried again, given up, taken back; by real workers on a real queue."""

from __future__ import annotations

from worker_support import Bench, bench

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


def submit(bench: Bench, kind: str, payload: str) -> tuple[str, int]:
    row = bench.db.execute(
        "SELECT id FROM jobs.submit('kid', %s, %s::jsonb, NULL, NULL, 9)", (kind, payload)
    ).fetchone()
    assert row is not None
    job = bench.db.execute("SELECT job_id FROM jobs.task WHERE id = %s", row).fetchone()
    assert job is not None
    return row[0], job[0]


def test_cancel_what_waits(bench: Bench) -> None:
    task, job = submit(bench, "effect", '{"number": 1}')
    assert bench.db.execute("SELECT jobs.cancel('kid', %s)", (task,)).fetchone() == ("cancelled",)
    after = bench.defer("effect", number=2)
    bench.start()
    bench.until(after, "succeeded")
    assert bench.job(job) == ("cancelled", 0)


def test_cancel_what_runs(bench: Bench) -> None:
    worker = bench.start()
    waiting = '{"seconds": 30}'
    for kind, payload in (("effect", '{"number": 1, "seconds": 30}'), ("angry", waiting), ("deaf", waiting)):
        task, job = submit(bench, kind, payload)
        bench.until(job, "doing")
        assert bench.db.execute("SELECT jobs.cancel('kid', %s)", (task,)).fetchone() == ("stopping",)
        assert bench.until(job, "aborted", "failed", "todo") == ("aborted", 1)
        assert bench.outcome(job) == ("cancelled", "Stopped because its owner asked for it.", None)
        assert worker.metric(f'worker_jobs_total{{outcome="cancelled",task="{kind}"}}') == 1
    # Whoever does not listen goes on to the end.
    task, job = submit(bench, "stubborn", '{"seconds": 0.5}')
    bench.until(job, "doing")
    bench.db.execute("SELECT jobs.cancel('kid', %s)", (task,))
    assert bench.until(job, "succeeded", "aborted", "failed") == ("succeeded", 1)


EDITS = [
    ("attempts = 2147483647", ("failed", 1000001)),
    ("attempts = -5", ("succeeded", -4)),
    ("queue_name = 'elsewhere'", ("succeeded", 1)),
    ("priority = -2147483648", ("succeeded", 1)),
    ("scheduled_at = '-infinity'", ("succeeded", 2)),
    ("task_name = E'\\n\\t'' \\\\ \"'", ("failed", 1)),
    ("args = args || jsonb_build_object('x', repeat('y', 1000000))", ("failed", 1)),
    ("status = 'doing', worker_id = NULL", ("succeeded", 2)),
    ("lock = repeat('l', 1000)", ("succeeded", 1)),
]


def test_rows_edited_by_hand_do_not_stop_the_others(bench: Bench) -> None:
    jobs = []
    for number, (change, _) in enumerate(EDITS):
        jobs.append(bench.defer("effect", number=number))
        bench.db.execute(f"UPDATE jobs.procrastinate_jobs SET {change} WHERE id = {jobs[-1]}".encode())
    good = bench.defer("effect", number=99)
    worker = bench.start()
    bench.until(good, "succeeded")
    for job, (change, (status, attempts)) in zip(jobs, EDITS, strict=True):
        assert bench.until(job, "succeeded", "failed") == (status, attempts), change
    assert "yyyy" not in worker.log.read_text()
    support.wait_for("it to be ready", lambda: worker.ready() == "ready")
