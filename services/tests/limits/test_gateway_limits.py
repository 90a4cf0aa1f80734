# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits, budgets, usage and the response cache as a client meets them, on real gateways."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from valkey import Valkey as Client

import support
from mcpstack.common import apikey
from support import Gateway, Launch, Reply, Stack

NewKey = Callable[..., str]


def ask(
    gateway: Gateway,
    key: str,
    word: str = "hello",
    *,
    stream: bool = False,
    path: str = "/v1/chat/completions",
    **more: Any,
) -> Reply:
    payload = {"model": "tiny", "messages": [{"role": "user", "content": word}], **more}
    return gateway.post(path, payload | ({"stream": True} if stream else {}), key)


def usage(gateway: Gateway, key: str, query: str = "") -> Any:
    return gateway.get(f"/v1/usage{query}", key).json


def kid_of(key: str) -> str:
    found = apikey.parse(key)
    assert found is not None
    return found.kid


@pytest.fixture
def operator(stack: Stack) -> Any:
    with Client(
        host="localhost",
        port=stack.valkey.port,
        username="operator",
        password=stack.valkey.operator,
        ssl=True,
        ssl_ca_certs=str(stack.tls.ca),
    ) as found:
        yield found


# Tokens


def test_tokens_are_reserved_and_settled(gateway: Gateway, stack: Stack, new_key: NewKey) -> None:
    key = new_key(gateway, tpm=6000, tokens_day=100_000, tokens_month=200_000)
    first = ask(gateway, key, max_tokens=1000)
    assert first.status == 200
    assert first.headers["x-ratelimit-limit-tokens"] == "6000"
    size = len(json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1000},
                          separators=(",", ":")))  # fmt: skip
    assert int(first.headers["x-ratelimit-remaining-tokens"]) == 6000 - 1000 - -(-size // 4)
    assert first.headers["x-ratelimit-reset-tokens"].endswith("ms")
    report = usage(gateway, key)
    assert report["today"] == {"requests": 1, "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert report["this_month"] == report["today"]
    (row,) = report["data"]
    assert row == {"day": datetime.now(UTC).date().isoformat(), "model": "tiny", **report["today"]}
    assert report["remaining"]["tokens_this_day"] == 99_995
    assert report["remaining"]["tokens_this_month"] == 199_995
    assert report["limits"] == {
        "requests_per_minute": 100_000, "concurrency": 32, "tokens_per_minute": 6000,
        "tokens_per_day": 100_000, "tokens_per_month": 200_000,
    }  # fmt: skip
    # The model server's figure for the stream is 3 + 8, and it was asked for it although the client was not interested.
    streamed = ask(gateway, key, stream=True)
    assert streamed.events[-1] == "[DONE]"
    assert stack.runner.seen[-1][2]["stream_options"] == {"include_usage": True}
    assert usage(gateway, key)["today"]["total_tokens"] == 5 + 11


def test_what_fails_is_not_billed(gateway: Gateway, new_key: NewKey) -> None:
    key = new_key(gateway, tpm=6000, tokens_day=10_000)
    for word in ("#status 500 kaboom", "#status 400 bad", "#drop", "#garbage"):
        assert ask(gateway, key, word, max_tokens=100).status >= 400
    assert ask(gateway, key, "#status 500 kaboom", stream=True, max_tokens=100).status >= 400
    report = usage(gateway, key)
    assert report["today"]["total_tokens"] in (0, report["today"]["prompt_tokens"])
    assert report["remaining"]["tokens_this_day"] == 10_000 - report["today"]["total_tokens"]


def test_a_client_that_leaves_is_billed_for_what_it_got(gateway: Gateway, stack: Stack, new_key: NewKey) -> None:
    key = new_key(gateway, tokens_day=10_000, concurrency=1)
    with gateway.open_stream(key, "#slow") as sock:
        got = b""
        while got.count(b"data: ") < 3:
            got += sock.recv(65536)
        assert ask(gateway, key).code == "concurrency_limit_exceeded"
    support.wait_for("the bill", lambda: usage(gateway, key)["today"]["requests"] == 1, 5)
    today = usage(gateway, key)["today"]
    assert 3 <= today["completion_tokens"] <= 20
    assert 15 <= today["prompt_tokens"] <= 40  # four bytes a token
    support.wait_for("the place", lambda: ask(gateway, key).status == 200, 5)


def test_a_request_larger_than_the_limit_is_refused_for_good(gateway: Gateway, new_key: NewKey) -> None:
    for limit, word in (("tpm", "minute"), ("tokens_day", "day"), ("tokens_month", "month")):
        key = new_key(gateway, **{limit: 500})
        answer = ask(gateway, key, max_tokens=600)
        assert (answer.status, answer.code) == (429, "request_exceeds_limit")
        assert f"500 a {word}" in answer.json["error"]["message"]
        assert answer.headers["x-should-retry"] == "false"
        assert "x-ratelimit-remaining-requests" in answer.headers
        assert ask(gateway, key, max_tokens=400).status == 200
        assert ask(gateway, key).status == 200  # without max_tokens what is left is set aside


def test_tokens_a_minute_run_out_and_say_when_they_are_back(gateway: Gateway, new_key: NewKey) -> None:
    key = new_key(gateway, tpm=300)
    codes = [ask(gateway, key, "#wait 0.2", max_tokens=250).status]
    answer = ask(gateway, key, max_tokens=270)
    assert codes == [200]
    assert answer.status in (200, 429)  # five tokens were used; some came back
    answers = [ask(gateway, key, n=2, max_tokens=140), ask(gateway, key, n=3, max_tokens=100)]
    assert [answer.code for answer in answers[1:]] == ["request_exceeds_limit"]


def test_budgets(gateway: Gateway, new_key: NewKey, operator: Client) -> None:
    for limit, period in (("tokens_day", "day"), ("tokens_month", "month")):
        key = new_key(gateway, **{limit: 60})
        answers = [ask(gateway, key, max_tokens=5) for _ in range(9)]
        statuses = [answer.status for answer in answers]
        refused = statuses.index(429)
        assert statuses == [200] * refused + [429] * (9 - refused)
        # Each uses five; one is admitted while 25 are left: 78 bytes are 20 tokens, and 5 are asked for.
        assert refused == (60 - 25) // 5 + 1
        answer = answers[-1]
        assert answer.code == "budget_exceeded"
        seconds = int(answer.headers["retry-after"])
        assert 0 < seconds <= (86400 if period == "day" else 31 * 86400)
        report = usage(gateway, key)  # costs nothing and is allowed
        assert report["today"]["total_tokens"] == 5 * refused
        assert report["remaining"][f"tokens_this_{period}"] == 60 - 5 * refused
        assert report["remaining"][f"{period}_ends_in_seconds"] in range(seconds - 10, seconds + 1)
        # A Valkey that lost everything learns from Postgres what was used.
        support.wait_for("the rows", partial(_stored, gateway, key, 5 * refused), 5)
        operator.flushall()
        assert ask(gateway, key, max_tokens=5).code == "budget_exceeded"
        operator.flushall()
        assert usage(gateway, key)["remaining"][f"tokens_this_{period}"] == 60 - 5 * refused


def _stored(gateway: Gateway, key: str, wanted: int) -> bool:
    env = gateway.env
    with psycopg.connect(
        host="localhost", port=int(env["GATEWAY_DB_PORT"]), dbname=env["GATEWAY_DB_NAME"], user="gateway_a",
        password=support.DB_PASSWORD, sslmode="require",
    ) as conn:  # fmt: skip
        row = conn.execute(
            b"SELECT coalesce(sum(tokens_in + tokens_out), 0) FROM gateway.usage_day WHERE kid = %s", (kid_of(key),)
        ).fetchone()
    return row is not None and int(row[0]) == wanted


# Requests


def test_bad_requests_count_like_good_ones(gateway: Gateway, new_key: NewKey) -> None:
    key = new_key(gateway, rpm=4)
    answers = [gateway.post("/v1/chat/completions", b"{", key) for _ in range(3)]
    answers.append(ask(gateway, key, model="nobody"))
    assert [answer.code for answer in answers] == ["invalid_json"] * 3 + ["model_not_found"]
    assert [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers] == [3, 2, 1, 0]
    refused = [gateway.post("/v1/chat/completions", b"{", key), ask(gateway, key), gateway.get("/v1/models", key)]
    assert [answer.code for answer in refused] == ["rate_limit_exceeded"] * 3
    assert all(1 <= int(answer.headers["retry-after"]) <= 15 for answer in refused)
    assert all("x-ratelimit-limit-requests" in answer.headers for answer in refused)


def test_while_a_key_is_refused_its_bodies_are_not_read(gateway: Gateway, new_key: NewKey) -> None:
    key = new_key(gateway, rpm=1)
    assert ask(gateway, key).status == 200
    assert ask(gateway, key).status == 429
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
        sock.sendall(head.encode())
        assert b" 429 " in sock.recv(65536)  # although nine hundred bytes are missing


def test_bodies_that_are_being_read_are_places_too(gateway: Gateway, new_key: NewKey) -> None:
    key = new_key(gateway, concurrency=2)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    socks = []
    try:
        for _ in range(2):
            socks.append(socket.create_connection(("127.0.0.1", gateway.port), 10))
            socks[-1].sendall(head.encode())
        support.wait_for("both", lambda: ask(gateway, key).status == 429, 5)
        assert ask(gateway, key).code == "concurrency_limit_exceeded"
        assert gateway.get("/v1/models", key).status == 200  # takes no place
    finally:
        for sock in socks:
            sock.close()
    support.wait_for("the places", lambda: ask(gateway, key).status == 200, 5)


# Replicas


def test_replicas_share_everything_and_a_killed_one_lets_go(stack: Stack, launch: Launch, new_key: NewKey) -> None:
    first = launch(lease_seconds="2")
    second = launch(lease_seconds="2", database=first.env["GATEWAY_DB_NAME"])
    key = new_key(first, rpm=6)
    asked = [(first, second)[number % 2].get("/v1/models", key) for number in range(8)]
    assert [answer.status for answer in asked] == [200] * 6 + [429] * 2
    key = new_key(first, concurrency=2, tokens_day=5000)
    with first.open_stream(key, "#slow") as one, first.open_stream(key, "#slow") as two:
        for sock in (one, two):
            assert b"200 OK" in sock.recv(65536)
        assert ask(second, key).code == "concurrency_limit_exceeded"
        held = usage(second, key)["remaining"]["tokens_this_day"]
        assert held <= 5000 - 2 * 1024
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()

    def admitted() -> bool:
        answer = ask(second, key)
        assert answer.status == 200 or answer.code == "concurrency_limit_exceeded"
        return answer.status == 200

    support.wait_for("the leases of the killed one to end", admitted, 10)
    support.wait_for("its tokens", lambda: usage(second, key)["remaining"]["tokens_this_day"] >= 4990, 10)


def test_requests_that_ask_in_vain_run_out(gateway: Gateway, new_key: NewKey) -> None:
    key = new_key(gateway, rpm=5, tokens_day=100)
    answers = [ask(gateway, key, max_tokens=80, messages=[{"role": "user", "content": "x" * 100}]) for _ in range(2)]
    assert [answer.code for answer in answers] == ["request_exceeds_limit"] * 2
    assert ask(gateway, key, max_tokens=75).status == 200
    codes = [ask(gateway, key, max_tokens=76).code for _ in range(4)]
    assert codes == ["budget_exceeded"] * 2 + ["rate_limit_exceeded"] * 2


def test_a_stop_writes_what_was_used(launch: Launch, new_key: NewKey) -> None:
    gateway = launch()
    key = new_key(gateway)
    assert [ask(gateway, key).status for _ in range(7)] == [200] * 7
    assert gateway.stop() == 0
    assert _stored(gateway, key, 35)


def test_budgets_hold_without_valkey(
    stack: Stack, launch: Launch, cable: Any, new_key: NewKey, operator: Client
) -> None:
    line = cable(stack.valkey.port)
    gateway = launch(valkey_port=line.port, replicas="2")
    key = new_key(gateway, tokens_day=200, tpm=100_000)
    assert ask(gateway, key, max_tokens=5).status == 200
    line.pull()
    answers = [ask(gateway, key, max_tokens=5) for _ in range(30)]
    assert answers[0].headers["x-ratelimit-degraded"] == "local"
    statuses = [answer.status for answer in answers]
    allowed = statuses.index(429)
    assert answers[allowed].code == "budget_exceeded"
    assert allowed == (97 - 25) // 5 + 1  # half of what was left, five each, and the estimate must fit
    assert ask(gateway, key, max_tokens=300).code == "request_exceeds_limit"
    line.plug()
    support.wait_for("valkey", lambda: gateway.ready() == "ready", 10)
    # What was used meanwhile reaches Valkey through Postgres.
    spent = 5 * (allowed + 1)
    record = f"gw:k:{{{kid_of(key)}}}"
    support.wait_for("the sum", lambda: float(operator.hget(record, "dn") or 0) == spent, 10)
    answer = ask(gateway, key, max_tokens=200 - spent)
    assert answer.code == "budget_exceeded"
    assert "x-ratelimit-degraded" not in answer.headers


# GET /v1/usage


def test_usage_is_for_the_callers_own_key(gateway: Gateway, new_key: NewKey) -> None:
    mine, other = new_key(gateway, scopes="embeddings"), new_key(gateway)
    assert ask(gateway, other).status == 200
    report = usage(gateway, mine)
    assert report["data"] == []
    assert report["kid"] == kid_of(mine)
    assert report["limits"]["tokens_per_day"] is None
    assert report["remaining"]["tokens_this_day"] is None
    assert gateway.get("/v1/usage").code == "missing_api_key"


@pytest.mark.parametrize("days", ["0", "-1", "93", "100", "1.5", "x", "", "\u0661", "1;2"])
def test_usage_takes_a_number_of_days(gateway: Gateway, key: str, days: str) -> None:
    answer = gateway.get(f"/v1/usage?days={quote(days)}", key)
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (400, "invalid_request", "days")


def test_usage_tells_of_the_days_that_were_asked_for(gateway: Gateway, stack: Stack, new_key: NewKey) -> None:
    key = new_key(gateway)
    with stack.postgres.admin(gateway.env["GATEWAY_DB_NAME"]) as conn:
        for age in (0, 1, 30, 91, 92):
            conn.execute(
                b"INSERT INTO gateway.usage_day VALUES (%s, 'm', (now() AT TIME ZONE 'UTC')::date - %s::int, 1, 10, 1)",
                (kid_of(key), age),
            )
    for days, rows in (("1", 1), ("2", 2), ("30", 2), ("31", 3), ("91", 3), ("92", 4)):
        report = usage(gateway, key, f"?days={days}")
        assert len(report["data"]) == rows, days
        assert report["today"]["total_tokens"] == 11
        assert report["this_month"]["total_tokens"] >= 11  # not only of the days that were asked for
    assert len(usage(gateway, key)["data"]) == 3


def test_usage_without_postgres(stack: Stack, launch: Launch, cable: Any, new_key: NewKey) -> None:
    line = cable(stack.postgres.port)
    gateway = launch(pg_port=line.port)
    key = new_key(gateway)
    assert ask(gateway, key).status == 200
    line.pull()
    answer = gateway.get("/v1/usage", key)
    assert (answer.status, answer.code) == (503, "usage_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert ask(gateway, key).status == 200
    line.plug()
    support.wait_for("postgres", lambda: gateway.ready() == "ready", 15)
    support.wait_for("usage", lambda: usage(gateway, key).get("today", {}).get("requests") == 2, 15)


# The response cache


def test_the_cache_gives_an_answer_again_to_the_same_key_only(gateway: Gateway, new_key: NewKey, stack: Stack) -> None:
    mine, other, without = new_key(gateway, cache=True, rpm=50), new_key(gateway, cache=True), new_key(gateway)
    word = f"cache {time.monotonic()}"

    def asked() -> int:
        return sum(1 for _, _, body in stack.runner.seen if body.get("messages", [{}])[-1].get("content") == word)

    first = ask(gateway, mine, word, temperature=0)
    assert (first.status, first.headers["x-mcpstack-cache"], asked()) == (200, "miss", 1)
    again = ask(gateway, mine, word, temperature=0)
    assert (again.headers["x-mcpstack-cache"], again.body, asked()) == ("hit", first.body, 1)
    assert again.headers["content-type"] == "application/json"
    before = int(again.headers["x-ratelimit-remaining-requests"])
    shuffled = {"temperature": 0, "messages": [{"content": word, "role": "user"}], "model": "tiny"}
    hit = gateway.post("/v1/chat/completions", shuffled, mine)
    assert hit.headers["x-mcpstack-cache"] == "hit"
    assert int(hit.headers["x-ratelimit-remaining-requests"]) < before  # it is a request all the same
    assert usage(gateway, mine)["today"] == {
        "requests": 1, "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
    }  # fmt: skip
    assert ask(gateway, other, word, temperature=0).headers["x-mcpstack-cache"] == "miss"
    assert asked() == 2
    assert "x-mcpstack-cache" not in ask(gateway, without, word, temperature=0).headers
    assert asked() == 3


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0, "seed": -1}, True),
        ({"seed": 7}, True),
        ({"seed": 7, "temperature": 1}, True),
        ({"seed": -1}, False),
        ({"seed": 4294967295}, False),
        ({"temperature": 0.1}, False),
        ({}, False),
        ({"temperature": 0, "stream": True}, False),
    ],
)
def test_only_answers_that_do_not_change_are_kept(
    gateway: Gateway, new_key: NewKey, more: dict[str, Any], kept: bool
) -> None:
    key = new_key(gateway, cache=True)
    found = [ask(gateway, key, "hello", **more).headers.get("x-mcpstack-cache") for _ in range(2)]
    assert found == (["miss", "hit"] if kept else [None, None])


def test_embeddings_are_kept_and_errors_are_not(gateway: Gateway, new_key: NewKey) -> None:
    key = new_key(gateway, cache=True)
    found = [
        gateway.post("/v1/embeddings", {"model": "org/tiny-embed", "input": "x"}, key).headers["x-mcpstack-cache"]
        for _ in range(2)
    ]
    assert found == ["miss", "hit"]
    for word in ("#status 500 no", "#garbage"):
        answers = [ask(gateway, key, word, temperature=0) for _ in range(2)]
        assert [answer.status for answer in answers] == [502, 502]
        assert all(answer.headers.get("x-mcpstack-cache") == "miss" for answer in answers)


def test_the_cache_is_bounded_ends_and_may_be_away(
    stack: Stack, launch: Launch, cable: Any, new_key: NewKey, operator: Client
) -> None:
    small = launch(cache_max_bytes="100")
    key = new_key(small, cache=True)
    assert [ask(small, key, temperature=0).headers["x-mcpstack-cache"] for _ in range(2)] == ["miss", "miss"]
    off = launch(cache_seconds="0")
    assert "x-mcpstack-cache" not in ask(off, new_key(off, cache=True), temperature=0).headers
    line = cable(stack.valkey.port)
    gateway = launch(valkey_port=line.port, cache_seconds="60")
    key = new_key(gateway, cache=True)
    assert [ask(gateway, key, temperature=0).headers["x-mcpstack-cache"] for _ in range(2)] == ["miss", "hit"]
    entries = list(operator.scan_iter("gw:c:*"))
    assert any(0 < operator.ttl(entry) <= 60 for entry in entries)
    for trouble in (line.freeze, line.pull):
        trouble()
        began = time.monotonic()
        answers = [ask(gateway, key, temperature=0) for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 5
        assert {answer.headers["x-mcpstack-cache"] for answer in answers} == {"miss"}
        assert time.monotonic() - began < 3
        line.plug()
        support.wait_for("valkey", lambda: gateway.ready() == "ready", 10)
    support.wait_for("the cache", lambda: ask(gateway, key, temperature=0).headers["x-mcpstack-cache"] == "hit", 10)
