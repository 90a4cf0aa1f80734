# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""/v1/tasks: one gateway, the queue's schema, and no worker unless a test wants one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_support import Bench

import support
from support import Gateway, Reply, Stack, put_key

KINDS = ["health_check", "model_cache", "registry_sync", "vector_index"]


@pytest.fixture(scope="module")
def bench(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    found = Bench(stack, tmp_path_factory.mktemp("bench"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def gateway(stack: Stack, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    ports = (stack.postgres.port, bench.name, stack.valkey.port, stack.runner.port)
    running = support.start_gateway(support.environment(folder / "secrets", stack.tls, *ports), folder / "log")
    yield running
    assert running.stop() == 0


def new_key(gateway: Gateway) -> str:
    return put_key(gateway, scopes="tasks", rpm=100_000)


@pytest.fixture
def key(gateway: Gateway) -> str:
    return new_key(gateway)


def start(gateway: Gateway, key: str, kind: str = "health_check", **more: Any) -> Reply:
    return gateway.post("/v1/tasks", {"type": kind}, key, **more)


def delete(gateway: Gateway, key: str, task: str) -> Reply:
    return gateway.call("DELETE", f"/v1/tasks/{task}", None, key)


@pytest.mark.parametrize("kind", KINDS)
def test_start_and_look(gateway: Gateway, key: str, kind: str) -> None:
    answer = start(gateway, key, kind)
    assert answer.status == 202
    task = answer.json
    assert answer.headers["location"] == f"/v1/tasks/{task['id']}"
    assert gateway.get(answer.headers["location"], key).json == task
    assert {name: task[name] for name in ("object", "type", "payload", "status", "stopping", "attempts")} == {
        "object": "task",
        "type": kind,
        "payload": {},
        "status": "queued",
        "stopping": False,
        "attempts": 0,
    }
    for empty in ("started_at", "finished_at", "next_attempt_at", "result", "error"):
        assert task[empty] is None


BAD = [
    ([1], "invalid_json", None),
    ({}, "invalid_request", ""),
    ({"type": "data_cleanup"}, "invalid_request", ""),
    ({"type": "vector_index", "payload": {"x": 1}}, "invalid_request", "vector_index.payload.x"),
    ({"type": "vector_index", "payload": []}, "invalid_request", "vector_index.payload"),
    ({"type": "vector_index", "payload": None}, "invalid_request", "vector_index.payload"),
    ({"type": "vector_index", "extra": 1}, "invalid_request", "vector_index.extra"),
    ({"type": "registry_sync", "payload": {"server": "../x"}}, "invalid_request", "registry_sync.payload.server"),
    ({"type": "registry_sync", "payload": {"server": "a'; DROP"}}, "invalid_request", "registry_sync.payload.server"),
    ({"type": "registry_sync", "payload": {"server": "a\x00b"}}, "invalid_request", "registry_sync.payload.server"),
    ({"type": "model_cache", "payload": {"files": "x"}}, "invalid_request", "model_cache.payload.files"),
    ({"type": "model_cache", "payload": {"files": [".\ud800"]}}, "invalid_json", None),
    ({"type": "model_cache", "payload": {"full": 1}}, "invalid_request", "model_cache.payload.full"),
]


def test_bad_requests(gateway: Gateway, key: str) -> None:
    for body, code, param in BAD:
        answer = gateway.post("/v1/tasks", body, key)
        assert (answer.status, answer.code, answer.json["error"]["param"]) == (400, code, param), body
    big = gateway.post("/v1/tasks", {"type": "vector_index", "payload": {"x": "y" * 1_000_000}}, key)
    assert (big.status, big.code) == (413, "request_too_large")
    for name in ("", "a b", "x" * 256, "é"):
        answer = start(gateway, key, headers={"Idempotency-Key": name})
        assert (answer.status, answer.json["error"]["param"]) == (400, "Idempotency-Key"), name
    for query in ("limit=0", "limit=101", "limit=x", "after=1", "after=task_zz", "limit=%D9%A3"):
        answer = gateway.get(f"/v1/tasks?{query}", key)
        assert (answer.status, answer.json["error"]["param"]) == (400, query.split("=")[0])
    assert gateway.get("/v1/tasks", key).json == {"object": "list", "data": [], "has_more": False}


def test_only_with_the_scope(gateway: Gateway) -> None:
    other = put_key(gateway, scopes="chat,models,tools:admin")
    for answer in (
        start(gateway, other),
        gateway.get("/v1/tasks", other),
        gateway.get("/v1/tasks/task_x", other),
        delete(gateway, other, "task_x"),
    ):
        assert (answer.status, answer.code) == (403, "insufficient_scope")
    assert gateway.get("/v1/tasks").code == "missing_api_key"


def test_a_key_sees_its_own_tasks_only(gateway: Gateway, key: str) -> None:
    other = new_key(gateway)
    mine = start(gateway, key).json["id"]
    for answer in (gateway.get(f"/v1/tasks/{mine}", other), delete(gateway, other, mine)):
        assert (answer.status, answer.code) == (404, "task_not_found")
    assert gateway.get("/v1/tasks", other).json["data"] == []
    assert gateway.get(f"/v1/tasks?after={mine}", other).json["data"] == []
    for strange in ("task_" + "0" * 32, "1", "task_%27", mine.upper()):
        assert gateway.get(f"/v1/tasks/{strange}", key).code == "task_not_found"


def test_the_same_request_again_starts_nothing(gateway: Gateway, bench: Bench, key: str) -> None:
    again = {"Idempotency-Key": "a-b-c"}
    first = start(gateway, key, headers=again)
    second = start(gateway, key, headers=again)
    assert (first.status, second.status) == (202, 200)
    assert second.headers["idempotency-replayed"] == "true"
    assert second.json["id"] == first.json["id"]
    # Saying a default is saying the same.
    full = {"type": "model_cache", "payload": {"full": False}}
    assert gateway.post("/v1/tasks", {"type": "model_cache"}, key, headers={"Idempotency-Key": "d"}).status == 202
    assert gateway.post("/v1/tasks", full, key, headers={"Idempotency-Key": "d"}).status == 200
    clash = start(gateway, key, "vector_index", headers=again)
    assert (clash.status, clash.code) == (409, "idempotency_conflict")
    assert start(gateway, new_key(gateway), headers=again).status == 202
    assert len(gateway.get("/v1/tasks", key).json["data"]) == 2


def test_many_at_once_with_one_idempotency_key(gateway: Gateway, key: str) -> None:
    answers: list[Reply] = []
    threads = [
        threading.Thread(target=lambda: answers.append(start(gateway, key, headers={"Idempotency-Key": "once"})))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answer.status for answer in answers) == [200] * 11 + [202]
    assert len({answer.json["id"] for answer in answers}) == 1


def test_pages(gateway: Gateway, key: str) -> None:
    ids = [start(gateway, key).json["id"] for _ in range(5)][::-1]
    page = gateway.get("/v1/tasks?limit=2", key).json
    assert ([task["id"] for task in page["data"]], page["has_more"]) == (ids[:2], True)
    page = gateway.get(f"/v1/tasks?limit=3&after={ids[1]}", key).json
    assert ([task["id"] for task in page["data"]], page["has_more"]) == (ids[2:], False)
    assert gateway.get(f"/v1/tasks?after={ids[4]}", key).json["data"] == []


def test_cancel_and_the_limit_of_open_tasks(gateway: Gateway, key: str) -> None:
    ids = [start(gateway, key).json["id"] for _ in range(20)]
    full = start(gateway, key)
    assert (full.status, full.code, full.headers["retry-after"]) == (429, "task_limit_exceeded", "5")
    answer = delete(gateway, key, ids[0])
    assert (answer.status, answer.json["status"]) == (200, "cancelled")
    assert answer.json["finished_at"] is not None
    again = delete(gateway, key, ids[0])
    assert (again.status, again.code) == (409, "task_finished")
    assert start(gateway, key).status == 202


def test_the_services_role_can_start_nothing_else(stack: Stack, bench: Bench) -> None:
    """Whatever the gateway asks for, the database lets a key start only what users may start."""
    with stack.postgres.login(bench.name, "gateway_a") as conn:
        row = conn.execute("SELECT * FROM jobs.submit('kid', 'data_cleanup', '{}', NULL, NULL, 20)").fetchone()
    assert row == ("unknown", None)


@pytest.mark.parametrize("how", ["pull", "freeze"])
def test_without_postgres(stack: Stack, bench: Bench, gateway: Gateway, key: str, tmp_path: Path, how: str) -> None:
    """The key is known for a while, the queue cannot be: 503, and in time."""
    cable = support.Cable(stack.loop, stack.postgres.port)
    ports = (cable.port, bench.name, stack.valkey.port, stack.runner.port)
    cut = support.start_gateway(support.environment(tmp_path / "secrets", stack.tls, *ports), tmp_path / "log")
    try:
        assert start(cut, key).status == 202
        getattr(cable, how)()
        answer = start(cut, key)
        assert (answer.status, answer.code) == (503, "task_queue_unavailable")
        assert answer.headers["retry-after"] == "5"
        assert "127.0.0.1" not in answer.body.decode()
        cable.plug()
        support.wait_for("it to work again", lambda: start(cut, key).status == 202)
    finally:
        cut.stop()
        cable.pull()


def test_a_task_is_run_and_tells_what_came_of_it(gateway: Gateway, bench: Bench, key: str) -> None:
    done = start(gateway, key).json["id"]
    wrong = gateway.post("/v1/tasks", {"type": "registry_sync", "payload": {"server": "nobody"}}, key).json["id"]
    files = gateway.post("/v1/tasks", {"type": "model_cache", "payload": {"files": ["x.gguf"]}}, key).json["id"]
    worker = bench.start(module="mcpstack.worker")

    def ended(task: str) -> Any:
        found = gateway.get(f"/v1/tasks/{task}", key).json
        return found if found["finished_at"] else None

    task = support.wait_for("the task to end", lambda: ended(done))
    assert (task["status"], task["attempts"], task["error"]) == ("succeeded", 1, None)
    assert task["result"] == {"postgres": "up", "model_runner": "up"}
    task = support.wait_for("the task to fail", lambda: ended(wrong))
    assert (task["status"], task["result"]) == ("failed", None)
    assert task["error"] == {"code": "unknown_server", "message": "There is no server nobody."}
    task = support.wait_for("the task to fail", lambda: ended(files))
    assert task["error"] == {"code": "unknown_file", "message": "The manifest has no x.gguf."}
    assert worker.stop() == 0


def test_the_document_describes_it(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json").json
    post = document["paths"]["/v1/tasks"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert sorted(part["properties"]["type"]["const"] for part in schema["oneOf"]) == KINDS
    assert "$ref" not in json.dumps(schema)
    assert set(post["responses"]) == {"200", "202", "400", "401", "403", "408", "409", "413", "429", "500", "503"}
    assert set(document["paths"]["/v1/tasks/{task_id}"]) == {"get", "delete"}
