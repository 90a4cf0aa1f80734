# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log of a service: nothing waits for it, nothing is written twice, what is lost is counted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import support
from mcpstack.common import audit, database
from mcpstack.common.audit import AuditLog
from mcpstack.common.secretfile import SecretFile, login
from support import Cable, Launch, Stack
from test_keys import until

Rows = list[tuple[Any, ...]]


class Place:
    def __init__(self, stack: Stack, folder: Path, user: str = "gateway_a") -> None:
        self.postgres, self.tls = stack.postgres, stack.tls
        self.name = stack.postgres.new_database()
        path = support.write_secrets(folder, {"db": f"{user}:{support.DB_PASSWORD}"})["db"]
        self.login = SecretFile("DB", Path(path), login)

    def log(self, capacity: int = 10_000, port: int | None = None) -> AuditLog:
        return AuditLog(
            "gateway",
            lambda: database.parameters(
                "localhost", port or self.postgres.port, self.name, self.tls.ca, self.login, "mcpstack-audit"
            ),
            capacity,
        )

    def rows(self, columns: str = "who, action, target, result, request_id") -> Rows:
        with self.postgres.login(self.name) as conn:
            return conn.execute(f"SELECT {columns} FROM gateway.audit_log ORDER BY at, who".encode()).fetchall()


@pytest.fixture
def place(stack: Stack, tmp_path: Path) -> Place:
    return Place(stack, tmp_path)


def test_what_is_recorded_is_there_when_the_service_has_stopped(place: Place) -> None:
    async def go() -> AuditLog:
        log = place.log()
        log.start()
        log.record("k1", "tools call", "time__now", "ok", "req_1", {"b": 1, "a": [None, "é"]})
        log.record("k2", "tasks create")
        await log.stop()
        return log

    log = asyncio.run(go())
    assert (log.written, log.dropped, log.queued) == (2, 0, 0)
    assert place.rows() == [
        ("k1", "tools call", "time__now", "ok", "req_1"), ("k2", "tasks create", None, "ok", None),
    ]  # fmt: skip
    hashed = place.rows("service, written_by, arguments_sha256")
    assert [row[:2] for row in hashed] == [("gateway", "gateway_a")] * 2
    assert bytes(hashed[0][2]) == hashlib.sha256(b'{"a":[null,"\\u00e9"],"b":1}').digest()
    assert hashed[1][2] is None


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": "1"}, False),
        (b"x", b"x", True),
        ([], {}, False),
        ({"a": "\ud800"}, {"a": "\ud800"}, True),
        ({"a": {1, 2}.__class__}, {"a": set}, True),
    ],
)
def test_arguments_are_compared_by_what_they_say(one: Any, two: Any, same: bool) -> None:
    assert (audit.arguments_hash(one) == audit.arguments_hash(two)) is same


NASTY = "a\0b\nc\x1b[31m\u202ed\ud800e'; DROP TABLE gateway.audit_log; --"


def test_names_from_clients_do_no_harm(place: Place) -> None:
    async def go() -> AuditLog:
        log = place.log()
        log.start()
        log.record(NASTY, NASTY, NASTY, NASTY, NASTY)
        log.record("", "  ", "", "", "")
        log.record("w" * 9999, "a" * 9999, "t" * 9999, "r" * 9999, "q" * 9999)
        log.record("é" * 200, "漢" * 100)
        await log.stop()
        return log

    log = asyncio.run(go())
    assert (log.written, log.dropped) == (4, 0)
    rows = place.rows()
    clean = "a�b�c�[31m�d�e'; DROP TABLE gateway.audit_log; --"
    assert rows[0] == (clean,) * 5
    assert rows[1] == ("-",) * 5
    assert [len(value) for value in rows[2]] == [200, 100, 300, 100, 100]


def test_the_queue_is_bounded_and_says_so(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> AuditLog:
        log = place.log(capacity=3, port=support.free_port())
        with caplog.at_level(logging.WARNING):
            for number in range(10):
                log.record(f"k{number}", "x")
            log.start()
            await until("the reason", lambda: log.reason is not None)
            assert (log.queued, log.dropped) == (3, 7)
            await log.stop(limit=0.2)
        return log

    log = asyncio.run(go())
    assert (log.written, log.dropped, log.queued) == (0, 10, 0)
    said = [(record.getMessage(), record.__dict__["reason"]) for record in caplog.records]
    assert said == [
        ("audit events are lost", "the queue is full"),  # once, not for each of them
        ("the audit log cannot be written", "no connection"),
        ("audit events are lost", "the service stops"),
    ]
    assert caplog.records[-1].__dict__["dropped"] == 10


@pytest.mark.parametrize("how", ["pull", "freeze"])
def test_an_outage_loses_nothing_and_doubles_nothing(
    stack: Stack, place: Place, cable: Callable[[int], Cable], how: str
) -> None:
    line = cable(stack.postgres.port)

    async def go() -> AuditLog:
        log = place.log(port=line.port)
        log.start()
        for number in range(1500):
            log.record(f"{number:04d}", "x")
            if number % 100 == 99:
                await asyncio.sleep(0.005)
            if number == 700:
                getattr(line, how)()
            if number == 1200 and how == "pull":
                await until("the outage to be seen", lambda: log.reason is not None)
        line.plug()
        await until("everything", lambda: log.queued == 0, 20)
        await log.stop()
        return log

    log = asyncio.run(go())
    assert (log.dropped, log.reason) == (0, None)
    assert sorted(row[0] for row in place.rows("who")) == [f"{number:04d}" for number in range(1500)]


def test_a_batch_that_is_sent_twice_is_written_once(stack: Stack, place: Place) -> None:
    events = [audit.make("gateway", f"k{number}", "x") for number in range(5)]
    with stack.postgres.login(place.name, "gateway_a") as conn:
        for _ in range(2):
            audit.write(conn, *events)
        audit.write(conn)
    assert len(place.rows()) == 5


def test_one_event_that_postgres_refuses_does_not_hold_up_the_others(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> AuditLog:
        log = place.log()
        for number in range(5):
            log.record(f"k{number}", "x")
        log._queue[2] = log._queue[2]._replace(arguments_sha256=b"short")
        log._queue[3] = log._queue[3]._replace(who="nul\0")
        log.start()
        await log.stop()
        return log

    log = asyncio.run(go())
    assert (log.written, log.dropped, log.queued) == (3, 2, 0)
    assert [row[0] for row in place.rows()] == ["k0", "k1", "k4"]
    assert "audit events are lost" in caplog.text


def test_stopping_does_not_wait_for_a_server_that_does_not_answer(
    stack: Stack, place: Place, cable: Callable[[int], Cable]
) -> None:
    line = cable(stack.postgres.port)

    async def go() -> AuditLog:
        log = place.log(port=line.port)
        log.start()
        log.record("k1", "x")
        await until("the first", lambda: log.written == 1)
        line.freeze()
        log.record("k2", "x")
        await asyncio.sleep(0)
        async with asyncio.timeout(4):
            await log.stop(limit=0.3)
        return log

    log = asyncio.run(go())
    assert (log.written, log.dropped, log.queued) == (1, 1, 0)
    line.plug()


def test_a_rotated_login_is_used_for_the_next_connection(stack: Stack, place: Place) -> None:
    stack.postgres.new_login("gateway_b", "gateway", "q" * 32)

    async def go() -> None:
        log = place.log()
        log.start()
        log.record("k1", "x")
        await until("the first", lambda: log.written == 1)
        support.swap_secret(place.login.path, "gateway_b:" + "q" * 32)
        with stack.postgres.admin() as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (place.name,)
            )
        log.record("k2", "x")
        await until("the second", lambda: log.written == 2)
        await log.stop()

    try:
        asyncio.run(go())
        assert place.rows("who, written_by") == [("k1", "gateway_a"), ("k2", "gateway_b")]
    finally:
        stack.postgres.drop_login("gateway_b")


def test_a_gateway_writes_down_what_tasks_were_started_and_taken_back(
    launch: Launch, stack: Stack, new_key: Callable[..., str]
) -> None:
    gateway = launch()
    key = new_key(gateway, scopes="tasks")
    kid = key.split("_")[2]
    task = gateway.post("/v1/tasks", {"type": "health_check"}, key, headers={"X-Request-Id": "request-1"})
    assert task.status == 202
    number = task.json["id"]
    assert gateway.call("DELETE", f"/v1/tasks/{number}", key=key).status == 200
    assert gateway.call("DELETE", "/v1/tasks/none", key=key).status == 404
    assert gateway.get(f"/v1/tasks/{number}", key).status == 200  # reading leaves no line
    assert gateway.stop() == 0
    with stack.postgres.login(gateway.env["GATEWAY_DB_NAME"]) as conn:
        rows = conn.execute(
            "SELECT service, who, action, target, result, written_by FROM gateway.audit_log ORDER BY at"
        ).fetchall()
        first = conn.execute(
            "SELECT request_id, arguments_sha256 FROM gateway.audit_log ORDER BY at LIMIT 1"
        ).fetchone()
    assert rows == [
        ("gateway", kid, "task start", number, "created", "gateway_a"),
        ("gateway", kid, "task cancel", number, "cancelled", "gateway_a"),
        ("gateway", kid, "task cancel", "none", "not_found", "gateway_a"),
    ]
    assert first is not None
    assert (first[0], bytes(first[1])) == (
        "request-1", audit.arguments_hash({"type": "health_check", "payload": task.json["payload"]}),
    )  # fmt: skip


def test_the_hash_never_holds_what_was_hashed() -> None:
    event = audit.make("gateway", "k", "x", arguments={"password": "hunter2-hunter2"})
    assert "hunter2" not in json.dumps(event, default=repr)
