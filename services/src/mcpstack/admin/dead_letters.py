# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mcpstack-admin dead-letters: jobs that failed for good, what to do again and what to forget.

Arguments of a job may hold what a user wrote, so only `show` prints them.
"""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from mcpstack.admin.context import Commands, Context, InputError, check_option

_FAILED_AT = "(SELECT max(at) FROM jobs.procrastinate_events WHERE job_id = job.id)"
_FIELDS = f"""job.id, job.task_name AS task, job.attempts, {_FAILED_AT} AS failed_at,
    coalesce(outcome.reason, CASE WHEN kind.name IS NULL THEN 'unknown_task' ELSE 'unknown' END) AS reason,
    outcome.message, task.id AS started_as, task.kid"""
_FROM = """ FROM jobs.procrastinate_jobs job
    LEFT JOIN jobs.kind kind ON kind.name = job.task_name
    LEFT JOIN jobs.outcome outcome ON outcome.job_id = job.id
    LEFT JOIN jobs.task task ON task.job_id = job.id
   WHERE job.status = 'failed' """
# It begins again: with no attempt used up and under the lock of its kind.
_RETRY = """
UPDATE jobs.procrastinate_jobs job
   SET status = 'todo', attempts = 0, scheduled_at = now(), abort_requested = false, worker_id = NULL,
       lock = CASE WHEN job.lock = 'suspect' THEN kind.lock ELSE job.lock END
  FROM jobs.kind kind WHERE kind.name = job.task_name AND job.id = %s AND job.status = 'failed'"""
_LARGEST = 2**63 - 1


def register(commands: Commands) -> None:
    letters = commands.add_parser("dead-letters", help="jobs that failed for good")
    actions = letters.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="the newest ones, without their arguments")
    show = actions.add_parser("show", help="one of them, with its arguments and history")
    retry = actions.add_parser("retry", help="run them again, with all their attempts")
    purge = actions.add_parser("purge", help="delete them")
    listing.add_argument("--limit", type=int, default=100, help="how many at most (default: 100)")
    show.add_argument("job", type=int)
    for parser in (retry, purge):
        parser.add_argument("job", type=int, nargs="*", help="which ones")
        parser.add_argument("--all", action="store_true", help="every one (of the task and age given)")
        parser.add_argument("--older-than-days", type=int, help="with --all: only what failed longer ago")
        check_option(parser)
    for parser in (listing, retry, purge):
        parser.add_argument("--task", help="only of this task")
    for parser, run in ((listing, _list), (show, _show), (retry, _retry), (purge, _purge)):
        parser.set_defaults(run=run)


def _list(arguments: argparse.Namespace, context: Context) -> dict[str, Any]:
    if not 1 <= arguments.limit <= 10_000:
        raise InputError("--limit must be from 1 to 10000.")
    values = {"task": arguments.task, "limit": arguments.limit}
    chosen = "AND (%(task)s::text IS NULL OR job.task_name = %(task)s)"
    with context.connect() as conn, conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"SELECT {_FIELDS}{_FROM}{chosen} ORDER BY job.id DESC LIMIT %(limit)s", values
        ).fetchall()
        counts = cursor.execute(
            "SELECT task_name, count(*) AS number FROM jobs.procrastinate_jobs WHERE status = 'failed' GROUP BY 1"
        ).fetchall()
    return {
        "total": sum(row["number"] for row in counts),
        "by_task": {row["task_name"]: row["number"] for row in counts},
        "dead_letters": [_plain(row) for row in rows],
    }


def _show(arguments: argparse.Namespace, context: Context) -> dict[str, Any]:
    _check_ids([arguments.job])
    with context.connect() as conn, conn.cursor(row_factory=dict_row) as cursor:
        fields = f"{_FIELDS}, job.args, job.priority, job.lock, job.queueing_lock"
        row = cursor.execute(f"SELECT {fields}{_FROM}AND job.id = %s", (arguments.job,)).fetchone()
        if row is None:
            raise InputError(f"There is no dead letter {arguments.job}. mcpstack-admin dead-letters list shows them.")
        events = cursor.execute(
            "SELECT type::text AS what, at FROM jobs.procrastinate_events WHERE job_id = %s ORDER BY id DESC LIMIT 50",
            (arguments.job,),
        ).fetchall()
    return {"dead_letter": _plain(row) | {"history": [_plain(event) for event in reversed(events)]}}


def _retry(arguments: argparse.Namespace, context: Context) -> dict[str, Any]:
    left: list[dict[str, Any]] = []
    with context.connect() as conn, conn.transaction():
        ids = _chosen(conn, arguments)
        done = []
        for job in [] if arguments.check else ids:
            try:
                with conn.transaction():
                    changed = conn.execute(_RETRY, (job,)).rowcount
            except psycopg.errors.UniqueViolation:
                left.append({"id": job, "why": "a job of the same kind is already waiting"})
                continue
            if changed:
                done.append(job)
            else:
                left.append({"id": job, "why": "this release does not know its task"})
        if not arguments.check:
            # An update tells the workers nothing; without this they would look a few seconds later.
            conn.execute('SELECT pg_notify(\'procrastinate_any_queue_v1\', \'{"type": "job_inserted", "job_id": 0}\')')
            context.audit(conn, "dead-letters retry", _target(done), "ok" if done else "unchanged", {"jobs": done})
    return {"changed": bool(ids if arguments.check else done), "jobs": ids if arguments.check else done, "left": left}


def _purge(arguments: argparse.Namespace, context: Context) -> dict[str, Any]:
    with context.connect() as conn, conn.transaction():
        ids = _chosen(conn, arguments)
        if not arguments.check:
            conn.execute("DELETE FROM jobs.procrastinate_jobs WHERE status = 'failed' AND id = ANY(%s)", (ids,))
            context.audit(conn, "dead-letters purge", _target(ids), "ok" if ids else "unchanged", {"jobs": ids})
    return {"changed": bool(ids), "jobs": ids}


def _chosen(conn: psycopg.Connection[Any], arguments: argparse.Namespace) -> list[int]:
    days = arguments.older_than_days
    if bool(arguments.job) == bool(arguments.all):
        raise InputError("Name the jobs, or say --all.")
    if arguments.job and (arguments.task is not None or days is not None):
        raise InputError("--task and --older-than-days go with --all.")
    if days is not None and not 0 <= days <= 36500:
        raise InputError("--older-than-days must be from 0 to 36500.")
    _check_ids(arguments.job)
    if arguments.job:
        query, values = " AND job.id = ANY(%(ids)s)", {"ids": arguments.job}
    else:
        values = {"task": arguments.task, "days": days}
        query = f""" AND (%(task)s::text IS NULL OR job.task_name = %(task)s) AND (%(days)s::int IS NULL
            OR coalesce({_FAILED_AT}, '-infinity') <= now() - make_interval(days => %(days)s))"""
    rows = conn.execute(f"SELECT job.id{_FROM}{query} ORDER BY job.id FOR UPDATE OF job", values).fetchall()
    found = [row[0] for row in rows]
    unknown = sorted(set(arguments.job) - set(found))
    if unknown:
        listing = ", ".join(map(str, unknown[:10]))
        raise InputError(f"No dead letter: {listing}. mcpstack-admin dead-letters list shows them.")
    return found


def _check_ids(ids: list[int]) -> None:
    if any(not 1 <= number <= _LARGEST for number in ids):
        raise InputError("A job is named by its id, a whole number from 1.")


def _target(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:10])) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}
