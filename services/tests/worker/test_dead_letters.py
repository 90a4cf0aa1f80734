# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mcpstack-admin dead-letters, on a queue with jobs that failed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

import support
from mcpstack.admin import dead_letters, settings
from mcpstack.admin.context import Context, InputError
from support import Stack


class Desk:
    """The command without the start of a process."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.name = stack.postgres.new_database()
        self.env = support.service_environment("worker", folder, stack.tls, self.name, stack.postgres.port)
        self.context = Context(*settings.load(self.env))
        self.db = stack.postgres.login(self.name)

    def run(self, *arguments: str) -> dict[str, Any]:
        parser = argparse.ArgumentParser()
        dead_letters.register(parser.add_subparsers(dest="command"))
        found = parser.parse_args(["dead-letters", *arguments])
        answer: dict[str, Any] = found.run(found, self.context)
        return answer

    def job(self, kind: str = "vector_index", days: int = 0, dedupe: str | None = None, **args: Any) -> int:
        """One that failed so many days ago."""
        row = self.db.execute("SELECT jobs.defer(%s, %s, %s)", (kind, Jsonb(args), dedupe)).fetchone()
        assert row is not None
        self.db.execute(
            "UPDATE jobs.procrastinate_jobs SET status = 'failed', attempts = 5, lock = 'suspect' WHERE id = %s", row
        )
        self.db.execute(
            "UPDATE jobs.procrastinate_events SET at = at - make_interval(days => %s) WHERE job_id = %s", (days, row[0])
        )
        return int(row[0])

    def row(self, job: int) -> Any:
        query = "SELECT status::text, attempts, lock FROM jobs.procrastinate_jobs WHERE id = %s"
        return self.db.execute(query, (job,)).fetchone()


@pytest.fixture
def desk(stack: Stack, tmp_path: Path) -> Any:
    found = Desk(stack, tmp_path)
    yield found
    found.db.close()


def test_list_and_show(desk: Desk) -> None:
    assert desk.run("list") == {"total": 0, "by_task": {}, "dead_letters": []}
    first, second = desk.job(text="private words"), desk.job("model_cache")
    desk.db.execute(
        "INSERT INTO jobs.outcome (job_id, attempt, reason, message) VALUES (%s, 5, 'why', 'So.')", (first,)
    )
    answer = desk.run("list")
    assert (answer["total"], answer["by_task"]) == (2, {"vector_index": 1, "model_cache": 1})
    assert [letter["id"] for letter in answer["dead_letters"]] == [second, first]
    assert [letter["reason"] for letter in answer["dead_letters"]] == ["unknown", "why"]
    assert "private" not in str(answer)
    assert [letter["id"] for letter in desk.run("list", "--task", "model_cache")["dead_letters"]] == [second]
    assert len(desk.run("list", "--limit", "1")["dead_letters"]) == 1
    shown = desk.run("show", str(first))["dead_letter"]
    assert (shown["args"], shown["message"], shown["attempts"]) == ({"text": "private words"}, "So.", 5)
    assert [event["what"] for event in shown["history"]] == ["deferred", "cancelled"]  # todo -> failed, by hand


def test_retry(desk: Desk) -> None:
    first, second = desk.job(), desk.job("registry_sync")
    assert desk.run("retry", str(first), "--check") == {"changed": True, "jobs": [first], "left": []}
    assert desk.row(first) == ("failed", 5, "suspect")
    assert desk.run("retry", str(first)) == {"changed": True, "jobs": [first], "left": []}
    assert desk.row(first) == ("todo", 0, "vector_index")
    assert desk.run("retry", "--all") == {"changed": True, "jobs": [second], "left": []}
    assert desk.row(second) == ("todo", 0, None)
    assert desk.run("retry", "--all") == {"changed": False, "jobs": [], "left": []}
    lines = desk.db.execute("SELECT action, target, result FROM gateway.audit_log ORDER BY written_at").fetchall()
    assert lines == [
        ("dead-letters retry", str(first), "ok"),
        ("dead-letters retry", str(second), "ok"),
        ("dead-letters retry", "-", "unchanged"),
    ]


def test_retry_leaves_what_cannot_be_run(desk: Desk) -> None:
    twin, good = desk.job(dedupe="vector_index"), desk.job("model_cache")
    desk.db.execute("SELECT jobs.defer('vector_index', '{}', 'vector_index')")
    desk.db.execute("INSERT INTO jobs.kind VALUES ('gone', 0, NULL, false)")
    gone = desk.job("gone")
    desk.db.execute("DELETE FROM jobs.kind WHERE name = 'gone'")
    answer = desk.run("retry", "--all")
    assert answer["jobs"] == [good]
    assert answer["left"] == [
        {"id": twin, "why": "a job of the same kind is already waiting"},
        {"id": gone, "why": "this release does not know its task"},
    ]
    assert desk.run("list")["dead_letters"][0]["reason"] == "unknown_task"


def test_purge(desk: Desk) -> None:
    old, new, other = desk.job(days=10), desk.job(), desk.job("model_cache", days=10)
    chosen = ("purge", "--all", "--older-than-days", "5", "--task", "vector_index")
    assert desk.run(*chosen, "--check") == {"changed": True, "jobs": [old]}
    assert desk.row(old) is not None
    assert desk.run(*chosen) == {"changed": True, "jobs": [old]}
    assert desk.row(old) is None
    assert desk.run("purge", str(other)) == {"changed": True, "jobs": [other]}
    assert desk.run("purge", "--all") == {"changed": True, "jobs": [new]}
    assert desk.run("purge", "--all") == {"changed": False, "jobs": []}


WRONG = [
    (("retry",), "Name the jobs, or say --all."),
    (("purge",), "Name the jobs, or say --all."),
    (("purge", "1", "--all"), "Name the jobs, or say --all."),
    (("retry", "1", "--task", "x"), "--task and --older-than-days go with --all."),
    (("purge", "--all", "--older-than-days", "-1"), "--older-than-days must be from 0 to 36500."),
    (("retry", "0"), "A job is named by its id, a whole number from 1."),
    (("show", str(2**63)), "A job is named by its id, a whole number from 1."),
    (("list", "--limit", "0"), "--limit must be from 1 to 10000."),
    (("show", "99"), "There is no dead letter 99. mcpstack-admin dead-letters list shows them."),
    (("retry", "99"), "No dead letter: 99. mcpstack-admin dead-letters list shows them."),
]


def test_wrong_arguments(desk: Desk) -> None:
    waiting = desk.db.execute("SELECT jobs.defer('vector_index')").fetchone()
    assert waiting is not None
    for arguments, sentence in (
        *WRONG,
        (("purge", str(waiting[0])), f"No dead letter: {waiting[0]}. {WRONG[-1][1][20:]}"),
    ):
        with pytest.raises(InputError) as caught:
            desk.run(*arguments)
        assert str(caught.value) == sentence
    assert desk.row(waiting[0])[0] == "todo"


def test_the_command(desk: Desk) -> None:
    job = desk.job()
    done = support.run_admin(desk.env, "dead-letters", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert f'"id": {job}' in done.stdout
    done = support.run_admin(desk.env, "dead-letters", "purge", "4711")
    assert done.returncode == 2
    assert "No dead letter: 4711." in done.stderr


def test_services_may_not(stack: Stack, desk: Desk) -> None:
    for role in ("gateway_a", "registry_a"):
        with stack.postgres.login(desk.name, role) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("DELETE FROM jobs.procrastinate_jobs")
