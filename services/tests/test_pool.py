# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several model servers behind one URL: who gets the work, who waits, and what happens when one goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import support
from mcpstack.common.errors import ApiError
from mcpstack.common.secretfile import SecretFile, model_key
from mcpstack.gateway.runner import Runner
from mcpstack.gateway.runnerspec import RunnerSpec
from modelserver import ModelServer
from support import Cable, Gateway, Stack, put_key

Lay = Callable[[int], Cable]


class Team:
    """Model servers, the list that names them, and a gateway in front."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.file = folder / "runners.json"
        self.entries: list[dict[str, Any]] = []
        self.servers: list[ModelServer] = []
        self.gateway: Gateway
        self.key = ""

    def server(self, name: str, lists: list[str] | None = None, **more: Any) -> ModelServer:
        made = ModelServer(self.stack.loop, name=name, models=lists or ["tiny"])
        made.start()
        self.servers.append(made)
        self.add(name, made.port, **more)
        return made

    def add(self, name: str, port: int, **more: Any) -> None:
        key = self.folder / "key"
        key.write_text(support.MODEL_KEY)
        entry = {"name": name, "url": f"http://localhost:{port}", "api_key_file": str(key), "max_concurrency": 50}
        self.entries.append(entry | more)

    def write(self) -> None:
        """As a deployment does it: all at once."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.entries))
        os.replace(new, self.file)

    def open(self, until: tuple[str, ...] = ("ready",), **settings: str) -> Gateway:
        self.write()
        env = support.environment(
            self.folder / "secrets",
            self.stack.tls,
            self.stack.postgres.port,
            self.stack.postgres.new_database(),
            self.stack.valkey.port,
            1,
        )
        for name in ("GATEWAY_MODEL_URL", "GATEWAY_MODEL_API_KEY_FILE"):
            del env[name]
        env |= {
            "GATEWAY_RUNNERS": str(self.file),
            "GATEWAY_DEFAULT_RPM": "100000",
            "GATEWAY_DEFAULT_CONCURRENCY": "500",
        }
        env |= {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
        self.gateway = support.start_gateway(env, self.folder / "gateway.log", until)
        self.key = put_key(self.gateway)
        return self.gateway

    def who(self) -> str:
        return str(self.gateway.chat(self.key).json["system_fingerprint"])

    def close(self) -> None:
        if hasattr(self, "gateway"):
            self.gateway.stop()
        for server in self.servers:
            server.stop()


@pytest.fixture
def team(stack: Stack, tmp_path: Path) -> Iterator[Team]:
    made = Team(stack, tmp_path)
    yield made
    made.close()


@contextlib.contextmanager
def crowd(size: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(size) as pool:
        yield pool


def waiting(gateway: Gateway, count: int) -> None:
    support.wait_for(f"{count} waiting", lambda: gateway.metric("gateway_queue_length") == count, 5)


def reloads(gateway: Gateway, count: int) -> None:
    support.wait_for("the list", lambda: sum(x["event"] == "model servers" for x in gateway.log_lines()) == count, 10)


# Who gets the work


def test_models_of_all_are_offered_once_and_found_where_they_are(team: Team) -> None:
    team.server("a", ["tiny", "left"])
    team.server("b", ["tiny", "right"])
    team.server("c", ["hidden"], models=["fixed"])  # its own list is not asked for
    gateway = team.open()
    assert [model["id"] for model in gateway.get("/v1/models", team.key).json["data"]] == [
        "tiny",
        "left",
        "right",
        "fixed",
    ]
    for model, server in (("left", "a"), ("right", "b"), ("fixed", "c")):
        answer = gateway.post(
            "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "x"}]}, team.key
        )
        assert answer.json["system_fingerprint"] == server
        assert gateway.get(f"/v1/models/{model}", team.key).json["id"] == model
    assert gateway.get("/v1/models/hidden", team.key).code == "model_not_found"


def test_least_load_by_weight(team: Team) -> None:
    one, two = team.server("one"), team.server("two", weight=3)
    team.open()
    with crowd(8) as pool:
        running = [pool.submit(team.gateway.chat, team.key, "#hold") for _ in range(8)]
        support.wait_for("all at work", lambda: one.running + two.running == 8, 5)
        assert (one.running, two.running) == (2, 6)
        one.let_go()
        two.let_go()
        assert [job.result().status for job in running] == [200] * 8
    turns = Counter(team.who() for _ in range(8))
    assert turns["two"] == 8  # idle servers: the one with more weight has less work for it


def test_servers_that_are_alike_take_turns(team: Team) -> None:
    team.server("one")
    team.server("two")
    team.open()
    assert Counter(team.who() for _ in range(10)) == {"one": 5, "two": 5}


# Who waits


def test_the_queue_is_in_order_bounded_and_measured(team: Team) -> None:
    server = team.server("one", max_concurrency=1, queue=2)
    gateway = team.open()
    with crowd(4) as pool:
        first = pool.submit(gateway.chat, team.key, "#hold")
        support.wait_for("the first", lambda: server.running == 1, 5)
        rest = []
        for number in range(2):
            rest.append(pool.submit(gateway.chat, team.key, f"number {number}"))
            waiting(gateway, number + 1)
        full = gateway.chat(team.key, "one too many")
        assert (full.status, full.code, full.headers["retry-after"]) == (429, "queue_full", "2")
        server.let_go()
        assert first.result().status == 200
        assert [job.result().status for job in rest] == [200, 200]
    assert [body["messages"][-1]["content"] for _, _, body in server.seen] == ["#hold", "number 0", "number 1"]
    assert server.most == 1
    assert gateway.metric("gateway_queue_seconds_count") == 3
    assert gateway.metric("gateway_queue_seconds_sum") > 0
    queued = [line for line in gateway.log_lines() if line.get("queue_ms")]
    assert len(queued) == 2


def test_whoever_waits_too_long_is_told_so(team: Team) -> None:
    server = team.server("one", max_concurrency=1, queue=5)
    gateway = team.open(queue_timeout="0.3", ping_interval="0.1")
    with crowd(2) as pool:
        first = pool.submit(gateway.chat, team.key, "#hold")
        support.wait_for("the first", lambda: server.running == 1, 5)
        late = gateway.chat(team.key)
        assert (late.status, late.code, late.headers["retry-after"]) == (503, "queue_timeout", "5")
        stream = gateway.chat(team.key, stream=True)  # pings went out before: the error comes inside the stream
        assert stream.body.startswith(b": ping\n\n")
        assert stream.events[-1]["error"]["code"] == "queue_timeout"
        server.let_go()
        assert first.result().status == 200
    assert [body["messages"][-1]["content"] for _, _, body in server.seen] == ["#hold"]


def test_whoever_leaves_the_queue_frees_the_place(team: Team) -> None:
    server = team.server("one", max_concurrency=1, queue=1)
    gateway = team.open()
    with crowd(2) as pool:
        first = pool.submit(gateway.chat, team.key, "#hold")
        support.wait_for("the first", lambda: server.running == 1, 5)
        with gateway.open_stream(team.key, "goes away"):
            waiting(gateway, 1)
            assert gateway.chat(team.key).code == "queue_full"
        waiting(gateway, 0)
        next_one = pool.submit(gateway.chat, team.key, "stays")
        waiting(gateway, 1)
        server.let_go()
        assert first.result().status == next_one.result().status == 200
    assert [body["messages"][-1]["content"] for _, _, body in server.seen] == ["#hold", "stays"]


def test_a_place_never_gets_lost(team: Team) -> None:
    """Many come, and half of them leave at every possible moment; in the end every place is free again."""
    server = team.server("one", max_concurrency=3, queue=200)
    gateway = team.open()

    def come_and_go(number: int) -> None:
        if number % 2:
            assert gateway.chat(team.key, limit=30).status == 200
            return
        with gateway.open_stream(team.key, "#slow") as sock:
            sock.settimeout(0.002 * (number % 20) or 0.001)
            with contextlib.suppress(TimeoutError):
                sock.recv(100)

    with crowd(24) as pool:
        for job in [pool.submit(come_and_go, number) for number in range(120)]:
            job.result()
    waiting(gateway, 0)
    support.wait_for("everything to end", lambda: server.running == 0, 10)
    server.most = 0
    with crowd(3) as pool:
        jobs = [pool.submit(gateway.chat, team.key, "#hold") for _ in range(3)]
        support.wait_for("three at once", lambda: server.running == 3, 5)
        server.let_go()
        assert [job.result().status for job in jobs] == [200] * 3
    assert server.most == 3


def test_another_model_does_not_wait_for_a_full_one(team: Team) -> None:
    busy = team.server("busy", ["slow"], max_concurrency=1)
    team.server("idle", ["tiny"])
    gateway = team.open()
    slow = {"model": "slow", "messages": [{"role": "user", "content": "#hold"}]}
    with crowd(2) as pool:
        jobs = [pool.submit(gateway.post, "/v1/chat/completions", slow, team.key) for _ in range(2)]
        support.wait_for("the first", lambda: busy.running == 1, 5)
        waiting(gateway, 1)
        assert team.who() == "idle"
        busy.let_go()
        assert [job.result().status for job in jobs] == [200, 200]


def test_bodies_that_wait_are_bounded_together(team: Team) -> None:
    server = team.server("one", max_concurrency=1, queue=1000)
    gateway = team.open(max_body_bytes="50000000")
    large = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 40_000_000}]}
    with crowd(2) as pool:
        first = pool.submit(gateway.chat, team.key, "#hold")
        support.wait_for("the first", lambda: server.running == 1, 5)
        second = pool.submit(gateway.post, "/v1/chat/completions", large, team.key, limit=60)
        waiting(gateway, 1)
        assert gateway.post("/v1/chat/completions", large, team.key, limit=60).code == "queue_full"
        server.let_go()
        assert gateway.chat(team.key).status == first.result().status == second.result().status == 200


# Who goes away


def test_one_that_refuses_connections_is_passed_over(team: Team) -> None:
    gone, stays = team.server("gone"), team.server("stays")
    gateway = team.open()
    gone.stop()
    answers = [gateway.chat(team.key) for _ in range(20)]
    assert [answer.status for answer in answers] == [200] * 20
    assert {answer.json["system_fingerprint"] for answer in answers} == {"stays"}
    support.wait_for("degraded", lambda: gateway.ready() == "degraded", 10)
    reason = gateway.get("/ready").json["checks"]["model_runner"]["reason"]
    assert reason == "1 of 2 cannot be used (gone: it refuses connections)"
    assert [model["id"] for model in gateway.get("/v1/models", team.key).json["data"]] == ["tiny"]
    gone.start()
    support.wait_for("it is back", lambda: team.who() == "gone", 10)
    support.wait_for("ready", lambda: gateway.ready() == "ready", 10)
    stays.stop()
    assert {team.who() for _ in range(5)} == {"gone"}


def test_all_away_is_a_503_with_the_reason_and_no_address(team: Team) -> None:
    one, two = team.server("one"), team.server("two")
    gateway = team.open()
    one.stop()
    two.stop()
    for stream in (False, True):
        answer = gateway.chat(team.key, stream=stream)
        assert (answer.status, answer.code) == (503, "model_runner_unavailable")
        assert answer.json["error"]["reason"] == "it refuses connections"
        assert int(answer.headers["retry-after"]) >= 1
        assert not [word for word in ("localhost", "127.0.0.1", str(one.port)) if word.encode() in answer.body]
    two.start()
    assert gateway.chat(team.key).status == 200  # asked again at once, though it was away a moment ago


LISTS = [
    '{"data": ["tiny"]}',
    '{"data": {}}',
    '{"data": null}',
    "[]",
    "<html>",
    '{"data": [{"name": "tiny"}]}',
    "[" * 9999,
]


@pytest.mark.parametrize("text", LISTS, ids=range(len(LISTS)))
def test_a_list_of_models_that_cannot_be_read(stack: Stack, tmp_path: Path, text: str) -> None:
    server = ModelServer(stack.loop, listed=text)
    server.start()
    (tmp_path / "key").write_text(support.MODEL_KEY)
    key = SecretFile("key", tmp_path / "key", model_key)

    async def ask() -> None:
        settings: Any = SimpleNamespace(model_connect_timeout=1.0, model_list_seconds=1.0)
        runner = Runner(RunnerSpec("a", f"http://127.0.0.1:{server.port}", key, 1), settings)
        await runner.open()
        try:
            with pytest.raises(ApiError, match="list of models is not readable"):
                await runner.check()
            assert runner.reason == "it fails"
        finally:
            await runner.close()

    try:
        asyncio.run(ask())
    finally:
        server.stop()


def test_one_that_is_unwell_gets_nothing(team: Team) -> None:
    sick = team.server("sick")
    team.server("well")
    gateway = team.open(model_list_seconds="0.2")
    sick.healthy = False
    support.wait_for("degraded", lambda: gateway.ready() == "degraded", 10)
    assert {team.who() for _ in range(6)} == {"well"}


def test_a_request_that_arrived_is_not_sent_again(team: Team) -> None:
    """It may have done something, or it is what killed the server: the next one shall live."""
    one, two = team.server("one"), team.server("two")
    gateway = team.open()
    answer = gateway.chat(team.key, "#drop")
    assert (answer.status, answer.code) == (502, "model_runner_error")
    answer = gateway.chat(team.key, "#status 503 busy")
    assert answer.status == 503
    seen = Counter(body["messages"][-1]["content"] for server in (one, two) for _, _, body in server.seen)
    assert seen["#status 503 busy"] == 1
    by_server = [sum(body["messages"][-1]["content"] == "#drop" for _, _, body in server.seen) for server in (one, two)]
    assert 0 in by_server


def test_a_missing_endpoint_is_looked_for_elsewhere(team: Team) -> None:
    without, having = team.server("without"), team.server("having")
    without.lacks = {"/v1/responses"}
    gateway = team.open()
    for _ in range(6):
        assert gateway.post("/v1/responses", {"model": "tiny", "input": "x"}, team.key).status == 200
    assert len(having.seen) == 6


# The list


def test_drained_by_the_file_then_taken_out_then_back(team: Team) -> None:
    one, two = team.server("one"), team.server("two")
    gateway = team.open()
    with gateway.open_stream(team.key, "#steady") as sock:  # both are idle: the first gets it
        assert sock.recv(100)
        leaving, other = (one, two) if one.running else (two, one)
        entry = next(entry for entry in team.entries if entry["name"] == leaving.name)
        entry["draining"] = True
        team.write()
        reloads(gateway, 1)
        assert {team.who() for _ in range(6)} == {other.name}
        team.entries.remove(entry)
        team.write()
        gateway.process.send_signal(signal.SIGHUP)
        reloads(gateway, 2)
        got = b""
        while b"[DONE]" not in got:  # what had begun goes on to its end
            piece = sock.recv(65536)
            assert piece
            got += piece
    assert gateway.ready() == "ready"
    entry.pop("draining")
    team.entries.append(entry)
    team.write()
    gateway.process.send_signal(signal.SIGHUP)
    support.wait_for("it is back", lambda: team.who() == leaving.name, 10)


def test_all_drained(team: Team) -> None:
    team.server("one", draining=True)
    gateway = team.open(until=("degraded",))
    answer = gateway.chat(team.key)
    assert (answer.status, answer.json["error"]["reason"]) == (503, "it is being drained")
    assert gateway.get("/ready").json["checks"]["model_runner"]["reason"] == "all are being drained"


def test_those_who_wait_for_a_drained_one_are_told(team: Team) -> None:
    server = team.server("one", max_concurrency=1)
    gateway = team.open()
    with crowd(2) as pool:
        first = pool.submit(gateway.chat, team.key, "#hold")
        support.wait_for("the first", lambda: server.running == 1, 5)
        second = pool.submit(gateway.chat, team.key)
        waiting(gateway, 1)
        team.entries[0]["draining"] = True
        team.write()
        gateway.process.send_signal(signal.SIGHUP)
        assert second.result().json["error"]["reason"] == "it is being drained"
        server.let_go()
        assert first.result().status == 200


def test_a_list_that_cannot_be_used_changes_nothing(team: Team) -> None:
    team.server("one")
    gateway = team.open()

    def complaints() -> int:
        said = "the list of model servers cannot be used; the old one stays"
        return sum(line["event"] == said for line in gateway.log_lines())

    for text in ("[", "[]", '[{"name": "x"}]'):
        before = complaints()
        team.file.write_text(text)
        gateway.process.send_signal(signal.SIGHUP)
        support.wait_for("the complaint", lambda: complaints() > before, 5)  # noqa: B023 - called inside the loop
        assert team.who() == "one"


def test_a_list_in_the_environment(stack: Stack, team: Team) -> None:
    team.server("one")
    team.write()
    text = team.file.read_text()
    gateway = team.open(runners=text)
    assert team.who() == "one"
    assert gateway.ready() == "ready"


def test_a_rotated_key_of_a_model_server_is_used(team: Team) -> None:
    team.server("one")
    gateway = team.open()
    key = team.folder / "key"
    key.write_text("another-key-" + "x" * 32)
    support.wait_for("the wrong key", lambda: gateway.chat(team.key).status == 502, 5)
    key.write_text(support.MODEL_KEY)
    support.wait_for("the right one", lambda: gateway.chat(team.key).status == 200, 5)
