# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 at random moments: no job is lost, and what is done twice is there once.

The long version: pytest -m long tests/worker/test_worker_crash.py
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_support import Bench, bench

import support
from support import Postgres, Service, Stack

__all__ = ["bench"]


class Crash:
    """Two workers, of which one dies whenever so many more jobs are done; a new one takes its place."""

    def __init__(self, bench: Bench, seed: int, concurrency: int = 4) -> None:
        self.bench, self.random = bench, random.Random(seed)
        settings = {"concurrency": str(concurrency), "max_attempts": "5", "stalled_after": "4", "block_limit": "3"}
        self.env = [bench.environment(**settings) for _ in range(2)]
        self.workers = [bench.start(env=env, until=()) for env in self.env]
        self.kills = self.deaths = 0

    def done(self) -> int:
        return self.bench.count("succeeded", "failed")

    def wait(self, number: int, limit: float) -> None:
        def enough() -> bool:
            self.revive()
            return self.done() >= number

        support.wait_for(f"{number} jobs to be done", enough, limit)

    def revive(self) -> None:
        """What the engine's restart policy does."""
        for place, worker in enumerate(self.workers):
            if worker.process.poll() is not None:
                # 1: it lost the database and a task would not end in time, which is a death like any other.
                assert worker.process.returncode in (-signal.SIGKILL, 1), worker.log.read_text()[-2000:]
                self.deaths += 1
                self.workers[place] = self.bench.start(env=self.env[place], until=())

    def kill(self) -> None:
        victim: Service = self.random.choice(self.workers)
        victim.process.kill()
        victim.process.wait(10)
        self.kills += 1

    def run(self, tasks: int, kills: int, limit: float) -> None:
        moments = sorted(self.random.sample(range(1, tasks * 9 // 10), kills))
        for moment in moments:
            self.wait(moment, limit)
            self.kill()


def proof(bench: Bench, tasks: int, poison: int | None = None) -> dict[str, Any]:
    db = bench.db
    assert bench.count("todo", "doing", "cancelled", "aborted") == 0
    assert bench.count("succeeded") == tasks
    rows = db.execute("SELECT count(*), count(DISTINCT number), sum(runs), max(runs) FROM testing.effect").fetchone()
    assert rows is not None
    assert rows[:2] == (tasks, tasks)
    assert rows[2] >= tasks
    failed = db.execute("SELECT id, attempts FROM jobs.procrastinate_jobs WHERE status = 'failed'").fetchall()
    assert failed == ([] if poison is None else [(poison, 5)])
    return {"tasks": tasks, "run again": rows[2] - tasks, "most runs of one": rows[3]}


def test_a_hundred_jobs_and_five_kills(bench: Bench) -> None:
    bench.defer_many("effect", 100, seconds=0.05)
    crash = Crash(bench, seed=4)
    crash.run(100, 5, 30)
    crash.wait(100, 30)
    figures = proof(bench, 100)
    assert crash.kills == 5
    print(figures)


@pytest.fixture
def own_postgres(stack: Stack) -> Iterator[Postgres]:
    """A server of this test's own, because it is restarted."""
    with tempfile.TemporaryDirectory(prefix="mcpstack-crash-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "pg").mkdir()
        owner = "postgres" if os.geteuid() == 0 else None
        with support.postgres(folder / "pg", stack.tls, owner) as server:
            yield server
            server.process.send_signal(signal.SIGQUIT)
            server.process.wait(20)


def restart(server: Postgres) -> None:
    server.process.send_signal(signal.SIGINT)  # "fast": open connections are cut
    server.process.wait(30)
    with (server.folder / "log").open("ab") as log:
        as_owner: dict[str, Any] = {"user": "postgres", "cwd": "/"} if os.geteuid() == 0 else {}
        server.process = subprocess.Popen(server.process.args, stdout=log, stderr=log, **as_owner)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_thousand_jobs_a_poisoned_one_and_a_restart_of_postgres(
    stack: Stack, own_postgres: Postgres, tmp_path: Path, seed: int
) -> None:
    stack = Stack(stack.loop, stack.tls, own_postgres, stack.valkey, stack.runner)
    bench = Bench(stack, tmp_path)
    try:
        bench.defer_many("effect", 1000, seconds=0.05)
        poison = bench.defer("poison")
        crash = Crash(bench, seed=seed, concurrency=8)
        crash.run(500, 12, 120)
        bench.db.close()
        restart(own_postgres)
        support.wait_for("postgres to be back", lambda: own_postgres.admin().close() or True)
        bench.db = own_postgres.login(bench.name)
        for _ in range(12):
            crash.wait(min(1000, crash.done() + crash.random.randint(5, 35)), 120)
            crash.kill()
        crash.wait(1001, 240)
        figures = proof(bench, 1000, poison)
        assert crash.kills == 24
        print(figures | {"kills": crash.kills, "deaths": crash.deaths, "seed": seed})
    finally:
        bench.close()
