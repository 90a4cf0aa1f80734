# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything the gateway depends on breaks, in every way we know of."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import support
from support import Cable, Gateway, Launch, Reply, Runner, Stack

Lay = Callable[[int], Cable]
NewKey = Callable[..., str]


def leaks(answer: Reply) -> list[str]:
    return [word for word in ("localhost", "127.0.0.1", "http://", "Traceback") if word.encode() in answer.body]


# The model server


def test_model_server_down_and_back(stack: Stack, launch: Launch, new_key: NewKey) -> None:
    runner = Runner(stack.loop, support.free_port())
    gateway = launch(until=("degraded",), model_port=runner.port)  # starts without it
    key = new_key(gateway)
    for answer in (gateway.chat(key), gateway.chat(key, stream=True), gateway.get("/v1/models", key)):
        assert (answer.status, answer.code) == (503, "model_runner_unavailable")
        assert answer.json["error"]["reason"] == "it refuses connections"
        assert int(answer.headers["retry-after"]) >= 1
        assert not leaks(answer)
    assert gateway.get("/health").status == 200
    assert gateway.get("/ready").json["checks"]["model_runner"] == {
        "status": "down",
        "reason": "it refuses connections",
    }
    runner.start()
    try:
        assert gateway.chat(key).status == 200
        support.wait_for("ready", lambda: gateway.ready() == "ready", 10)
        runner.loading = True
        loading = gateway.chat(key)
        assert (loading.status, loading.json["error"]["reason"]) == (503, "it is loading the model")
    finally:
        runner.stop()
    assert gateway.chat(key).status == 503  # the connection kept from before is dead


def test_model_server_that_accepts_nothing_is_given_up_in_time(launch: Launch, new_key: NewKey) -> None:
    # 192.0.2.1 is reserved for documentation: nothing answers there, or the network says so at once.
    gateway = launch(until=("degraded",), model_url="http://192.0.2.1:9")
    key = new_key(gateway)
    began = time.monotonic()
    answer = gateway.chat(key)
    assert (answer.status, answer.code) == (503, "model_runner_unavailable")
    assert time.monotonic() - began < 2
    assert b"192.0.2.1" not in answer.body


def test_model_server_without_a_name_is_given_up_in_time(launch: Launch, new_key: NewKey) -> None:
    gateway = launch(until=("degraded",), model_url="http://no-such-host.invalid:8080")
    answer = gateway.chat(new_key(gateway))
    assert (answer.status, answer.code) == (503, "model_runner_unavailable")
    assert b"no-such-host" not in answer.body


MAPPED = [
    ("#status 400 bad thing", 400, "model_rejected_request", "bad thing"),
    ("#status 404 File Not Found", 400, "model_rejected_request", "File Not Found"),
    ("#status 422 at http://10.1.2.3:8080/x and localhost:8080", 400, "model_rejected_request", None),
    ("#context", 400, "context_length_exceeded", None),
    ("#status 401 Invalid API Key", 502, "model_runner_error", None),
    ("#status 302 x", 502, "model_runner_error", None),
    ("#status 429 slow down", 503, "model_runner_unavailable", None),
    ("#status 500 kaboom at 10.1.2.3:99", 502, "model_runner_error", None),
    ("#status 501 no embeddings here", 400, "unsupported_by_model", "no embeddings here"),
    ("#status 503 Loading model", 503, "model_runner_unavailable", None),
    ("#garbage", 502, "model_runner_error", None),
    ("#drop", 502, "model_runner_error", None),
]


@pytest.mark.parametrize(("word", "status", "code", "message"), MAPPED)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_model_server(
    gateway: Gateway, key: str, word: str, status: int, code: str, message: str | None, stream: bool
) -> None:
    answer = gateway.chat(key, word, stream=stream)
    assert (answer.status, answer.code) == (status, code)
    assert not leaks(answer)
    assert b"10.1.2.3" not in answer.body
    if message:
        assert answer.json["error"]["message"] == message


def test_slow_whole_answer(gateway: Gateway, stack: Stack, key: str) -> None:
    broken_off = stack.runner.broken_off
    answer = gateway.chat(key, "#wait 30")
    assert (answer.status, answer.code) == (504, "model_runner_timeout")
    support.wait_for("the model server to notice", lambda: stack.runner.broken_off == broken_off + 1, 3)


def test_slow_stream_pings_then_answers(gateway: Gateway, key: str) -> None:
    answer = gateway.chat(key, "#wait 1.3", stream=True)
    assert answer.status == 200
    assert answer.body.startswith(b": ping\n\n")
    assert answer.body.count(b": ping") == 2
    assert answer.events[-1] == "[DONE]"


def test_slow_stream_pings_then_gives_up(gateway: Gateway, key: str) -> None:
    answer = gateway.chat(key, "#wait 30", stream=True)
    assert answer.body.count(b": ping") >= 3
    assert [event["error"]["code"] for event in answer.events] == ["model_runner_timeout"]


def test_slow_stream_before_any_ping_is_a_504(launch: Launch, new_key: NewKey) -> None:
    gateway = launch(model_first_byte_timeout="0.3")
    answer = gateway.chat(new_key(gateway), "#wait 30", stream=True)
    assert (answer.status, answer.code) == (504, "model_runner_timeout")


@pytest.mark.parametrize(
    ("word", "code"),
    [("#die", "model_runner_error"), ("#end", "model_runner_error"), ("#hang", "model_runner_timeout")],
)
def test_a_stream_never_ends_silently(gateway: Gateway, key: str, word: str, code: str) -> None:
    answer = gateway.chat(key, word, stream=True)
    assert b"[DONE]" not in answer.body
    *pieces, last = answer.events  # every event is whole: they all parse
    assert [piece["choices"][0]["delta"]["content"] for piece in pieces] == ["w0 ", "w1 ", "w2 "]
    assert last["error"]["code"] == code
    assert last["error"]["request_id"] == answer.headers["x-request-id"]


def test_a_new_model_is_found_at_once(stack: Stack, launch: Launch, new_key: NewKey) -> None:
    runner = Runner(stack.loop)
    runner.start()
    try:
        gateway = launch(model_port=runner.port, model_list_seconds="600")
        key = new_key(gateway)
        assert gateway.get("/v1/models/late", key).status == 404
        runner.models.append("late")
        support.wait_for("the new model", lambda: gateway.get("/v1/models/late", key).status == 200, 3)
    finally:
        runner.stop()


# Postgres


def test_postgres_away(stack: Stack, launch: Launch, cable: Lay, new_key: NewKey) -> None:
    line = cable(stack.postgres.port)
    gateway = launch(pg_port=line.port, key_cache_seconds="0", key_grace_seconds="2")
    known, unknown = new_key(gateway), new_key(gateway, name="other")
    assert gateway.chat(known).status == 200
    line.pull()
    assert gateway.chat(known).status == 200
    answer = gateway.chat(unknown)
    assert (answer.status, answer.code) == (503, "auth_unavailable")
    assert not leaks(answer)
    began = time.monotonic()
    assert all(gateway.chat(known).status == 200 for _ in range(20))
    assert time.monotonic() - began < 2  # known keys do not wait for Postgres each time
    assert gateway.get("/v1/models", "wrong").status == 401  # a malformed key needs no look-up
    support.wait_for("the end of the grace", lambda: gateway.chat(known).status == 503, 8)
    support.wait_for("unavailable", lambda: gateway.ready() == "unavailable", 8)
    line.plug()
    support.wait_for("recovery", lambda: gateway.chat(unknown).status == 200, 15)
    support.wait_for("ready", lambda: gateway.ready() == "ready", 10)


def test_postgres_frozen(stack: Stack, launch: Launch, cable: Lay, new_key: NewKey) -> None:
    line = cable(stack.postgres.port)
    gateway = launch(pg_port=line.port, key_cache_seconds="0")
    known, unknown = new_key(gateway), new_key(gateway, name="other")
    assert gateway.chat(known).status == 200
    line.freeze()
    began = time.monotonic()
    assert gateway.chat(known).status == 200
    assert gateway.chat(unknown).code == "auth_unavailable"
    assert time.monotonic() - began < 6
    line.plug()
    support.wait_for("recovery", lambda: gateway.chat(unknown).status == 200, 20)


def test_starts_before_postgres_and_valkey(stack: Stack, launch: Launch, cable: Lay, new_key: NewKey) -> None:
    pg, vk = cable(stack.postgres.port), cable(stack.valkey.port)
    pg.pull()
    vk.pull()
    gateway = launch(until=("unavailable",), pg_port=pg.port, valkey_port=vk.port)
    assert gateway.get("/v1/models", support.make_key()).code == "auth_unavailable"
    pg.plug()
    vk.plug()
    support.wait_for("ready", lambda: gateway.ready() == "ready", 15)
    assert gateway.chat(new_key(gateway)).status == 200


def test_a_certificate_with_another_name_is_refused(launch: Launch) -> None:
    gateway = launch(until=("unavailable",), db_host="127.0.0.1", valkey_host="127.0.0.1")
    support.wait_for(
        "reasons",
        lambda: (
            {gateway.get("/ready").json["checks"][name]["reason"] for name in ("postgres", "valkey")}
            == {"its certificate is not trusted"}
        ),
        10,
    )


def test_a_rotated_login_is_used_without_a_restart(stack: Stack, launch: Launch, new_key: NewKey) -> None:
    gateway = launch(key_cache_seconds="0", key_grace_seconds="0")
    key = new_key(gateway)
    stack.postgres.new_login("gateway_b", "gateway", "q" * 32)
    support.swap_secret(gateway.env["GATEWAY_DB_LOGIN_FILE"], "gateway_b:" + "q" * 32)
    with stack.postgres.admin() as conn:
        try:
            conn.execute(b"ALTER ROLE gateway_a NOLOGIN")
            conn.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gateway_a' AND datname = %s",
                (gateway.env["GATEWAY_DB_NAME"],),
            )
            support.wait_for("the new login", lambda: gateway.chat(key).status == 200, 10)
        finally:
            conn.execute(b"ALTER ROLE gateway_a LOGIN")


# Valkey


def drain_bucket(gateway: Gateway, key: str) -> list[Reply]:
    return [gateway.get("/v1/models", key) for _ in range(8)]


def test_valkey_away_means_local_limits_never_none(stack: Stack, launch: Launch, cable: Lay, new_key: NewKey) -> None:
    line = cable(stack.valkey.port)
    gateway = launch(valkey_port=line.port)
    key = new_key(gateway, rpm=5)
    line.pull()
    answers = drain_bucket(gateway, key)
    assert [answer.status for answer in answers] == [200] * 5 + [429] * 3
    assert answers[0].headers["x-ratelimit-degraded"] == "local"
    assert gateway.metric("gateway_ratelimit_degraded") == 1
    assert gateway.ready() == "degraded"
    line.plug()
    support.wait_for("valkey", lambda: gateway.ready() == "ready", 10)
    assert "x-ratelimit-degraded" not in gateway.get("/v1/models", key).headers
    assert gateway.metric("gateway_ratelimit_degraded") == 0


def test_valkey_frozen_costs_one_short_wait(stack: Stack, launch: Launch, cable: Lay, new_key: NewKey) -> None:
    line = cable(stack.valkey.port)
    gateway = launch(valkey_port=line.port)
    key = new_key(gateway)
    assert gateway.get("/v1/models", key).status == 200
    line.freeze()
    began = time.monotonic()
    assert [answer.status for answer in drain_bucket(gateway, key)] == [200] * 8
    assert time.monotonic() - began < 1
    line.plug()
    support.wait_for("valkey", lambda: gateway.ready() == "ready", 10)


def test_replicas_share_the_local_limit(launch: Launch, cable: Lay, stack: Stack, new_key: NewKey) -> None:
    line = cable(stack.valkey.port)
    line.pull()
    gateway = launch(until=("degraded",), valkey_port=line.port, replicas="3")
    key = new_key(gateway, rpm=6)
    assert [answer.status for answer in drain_bucket(gateway, key)][:3] == [200, 200, 429]


def test_flushed_scripts_are_loaded_again(gateway: Gateway, stack: Stack, key: str) -> None:
    from valkey import Valkey

    with Valkey(
        host="localhost",
        port=stack.valkey.port,
        username="operator",
        password=stack.valkey.operator,
        ssl=True,
        ssl_ca_certs=str(stack.tls.ca),
    ) as operator:
        before = set(operator.keys("*"))  # of other tests
        operator.script_flush()
        answer = gateway.get("/v1/models", key)
        assert answer.status == 200
        assert "x-ratelimit-degraded" not in answer.headers
        assert all(name.startswith((b"gw:k:", b"gw:l:")) for name in set(operator.keys("*")) - before)


# Stopping


def test_sigterm_lets_a_stream_end_and_refuses_new_work(launch: Launch, new_key: NewKey) -> None:
    gateway = launch()
    key = new_key(gateway)
    with gateway.open_stream(key, "#wait 1") as sock:
        time.sleep(0.2)
        gateway.process.send_signal(signal.SIGTERM)
        support.wait_for("draining", lambda: gateway.get("/ready").status == 503, 3)
        assert gateway.ready() == "shutting_down"
        refused = gateway.chat(key)
        assert (refused.status, refused.code, refused.headers["connection"]) == (503, "shutting_down", "close")
        got = b""
        while piece := sock.recv(65536):
            got += piece
            if b"[DONE]" in got:
                break
    assert b"[DONE]" in got
    assert gateway.process.wait(5) == 0


def test_sigterm_cuts_what_outlasts_the_grace(launch: Launch, new_key: NewKey) -> None:
    gateway = launch(shutdown_grace="0.5")
    key = new_key(gateway)
    answers: list[Reply] = []
    thread = threading.Thread(target=lambda: answers.append(gateway.chat(key, "#slow", stream=True)))
    thread.start()
    support.wait_for("the stream", lambda: gateway.metric("gateway_time_to_first_token_seconds_count") == 1, 5)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(5) == 0
    thread.join(5)
    assert answers[0].events[-1]["error"]["code"] == "shutting_down"


def test_idle_stop_is_quick(launch: Launch) -> None:
    gateway = launch()
    began = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - began < 3


# Refusing to start


def test_a_newer_database_is_refused(stack: Stack, launch: Launch, tmp_path: Path) -> None:
    gateway = launch()
    database = gateway.env["GATEWAY_DB_NAME"]
    gateway.stop()
    with stack.postgres.admin(database) as conn:
        conn.execute(b"INSERT INTO public.schema_version VALUES ('gateway', 99, 'future', 'x')")
    log = tmp_path / "refused.log"
    with contextlib.suppress(AssertionError):
        support.start_gateway(gateway.env, log)
    last = [json.loads(line) for line in log.read_text().splitlines()]
    reason = next(line["reason"] for line in last if line["level"] == "critical")
    assert reason.startswith("The gateway schema is at version 99, this release knows 1. Run the newer release")
    assert support.run_admin(gateway.env, "migrate").returncode == 4
