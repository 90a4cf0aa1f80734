# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers as processes, and their queue as the owner of the database sees it."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import support
from support import Service, Stack

HERE = Path(__file__).resolve().parent
KINDS = (
    "effect",
    "poison",
    "fail",
    "never",
    "stumble",
    "stubborn",
    "deaf",
    "block",
    "limited",
    "leave",
    "angry",
    "often",
)

# Quick enough for a test: dead after two seconds, tried again after a few hundredths.
QUICK = {
    "heartbeat": "0.2",
    "stalled_after": "2",
    "block_limit": "1.5",
    "poll_interval": "0.2",
    "retry_base": "0.1",
    "retry_limit": "0.4",
    "shutdown_grace": "5",
}


class Bench:
    """A database with the tests' kinds of tasks, and the workers on it."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.name = stack.postgres.new_database()
        self.workers: list[Service] = []
        self.db = stack.postgres.login(self.name)
        self.db.execute("CREATE SCHEMA testing")
        self.db.execute("CREATE TABLE testing.effect (number int PRIMARY KEY, runs int NOT NULL, pid int NOT NULL)")
        self.db.execute("GRANT USAGE ON SCHEMA testing TO worker")
        self.db.execute("GRANT SELECT, INSERT, UPDATE ON testing.effect TO worker")
        for kind in KINDS:
            self.db.execute("INSERT INTO jobs.kind VALUES (%s, 0, NULL, true)", (kind,))

    def environment(self, pg_port: int | None = None, **settings: str) -> dict[str, str]:
        number = len(list(self.folder.glob("secrets*")))
        folder = self.folder / f"secrets{number}"
        key = support.write_secrets(folder, {"model-api-key": support.MODEL_KEY})["model-api-key"]
        env = support.service_environment(
            "worker",
            folder,
            self.stack.tls,
            self.name,
            pg_port or self.stack.postgres.port,
            **(
                QUICK
                | {
                    "model_url": f"http://localhost:{self.stack.runner.port}",
                    "model_api_key_file": key,
                    "gateway_url": "",
                    "registry_url": "",
                    "valkey_host": "",
                }
                | {name: value for name, value in settings.items() if not name.isupper()}
            ),
        )
        env |= {name: value for name, value in settings.items() if name.isupper()}
        env["PYTHONPATH"] += f":{HERE}"
        return env

    def start(
        self,
        *,
        module: str = "worker_process",
        until: tuple[str, ...] = ("ready",),
        env: dict[str, str] | None = None,
        **settings: Any,
    ) -> Service:
        number = len(self.workers)
        env = env or self.environment(**settings)
        worker = support.start_service(
            module, env, self.folder / f"worker{number}.log", port="WORKER_PORT", until=until
        )
        self.workers.append(worker)
        return worker

    def defer(self, kind: str, **args: Any) -> int:
        row = self.db.execute("SELECT jobs.defer(%s, %s::jsonb)", (kind, json.dumps(args))).fetchone()
        assert row is not None
        return int(row[0])

    def defer_many(self, kind: str, number: int, **args: Any) -> None:
        self.db.execute(
            "SELECT jobs.defer(%s, %s::jsonb || jsonb_build_object('number', n)) FROM generate_series(1, %s) n",
            (kind, json.dumps(args), number),
        )

    def job(self, job: int) -> tuple[str, int]:
        row = self.db.execute(
            "SELECT status::text, attempts FROM jobs.procrastinate_jobs WHERE id = %s", (job,)
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    def outcome(self, job: int) -> tuple[Any, ...] | None:
        query = "SELECT reason, message, result FROM jobs.outcome WHERE job_id = %s"
        return self.db.execute(query, (job,)).fetchone()

    def count(self, *statuses: str) -> int:
        row = self.db.execute(
            "SELECT count(*) FROM jobs.procrastinate_jobs WHERE status::text = ANY(%s)", (list(statuses),)
        ).fetchone()
        assert row is not None
        return int(row[0])

    def until(self, job: int, *states: str, limit: float = 20) -> tuple[str, int]:
        support.wait_for(f"job {job} to be {states}", lambda: self.job(job)[0] in states, limit)
        return self.job(job)

    def effect(self) -> None:
        """Wait until there is one: the job that makes it is at work then, not only fetched."""
        query = "SELECT count(*) FROM testing.effect"
        support.wait_for("an effect", lambda: self.db.execute(query).fetchone() != (0,))

    def idle(self, limit: float = 20) -> None:
        support.wait_for("the queue to be empty", lambda: self.count("todo", "doing") == 0, limit)

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.process.send_signal(signal.SIGCONT)
                worker.process.kill()
                worker.process.wait(10)
        self.db.close()


@pytest.fixture
def bench(stack: Stack, tmp_path: Path) -> Iterator[Bench]:
    found = Bench(stack, tmp_path)
    yield found
    found.close()


MakeBench = Callable[[], Bench]


def lines(worker: Service, event: str) -> list[dict[str, Any]]:
    """What a worker has logged under this name so far; a line that is being written is left out."""
    found = []
    for line in worker.log.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if entry["event"] == event:
                found.append(entry)
    return found


def processes(name: str, database: psycopg.Connection[Any]) -> int:
    row = database.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (name,)).fetchone()
    assert row is not None
    return int(row[0])
