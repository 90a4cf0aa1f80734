# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API as a client sees it, on a healthy stack."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator

import openai
import pytest

import support
from support import Gateway, Stack


def test_health_ready_and_metrics_need_no_key(gateway: Gateway) -> None:
    assert gateway.get("/health").json == {"status": "ok"}
    ready = gateway.get("/ready")
    assert ready.status == 200
    up = {"status": "up", "reason": None}
    assert ready.json == {"status": "ready", "checks": {"postgres": up, "valkey": up, "model_runner": up}}
    assert b"gateway_build_info" in gateway.get("/metrics").body


def test_models_are_listed_without_anything_of_the_inside(gateway: Gateway, key: str) -> None:
    answer = gateway.get("/v1/models", key)
    assert answer.status == 200
    assert answer.json["data"][1] == {"id": "org/tiny-embed", "object": "model", "created": 1, "owned_by": "llamacpp"}
    assert gateway.get("/v1/models/org/tiny-embed", key).json["id"] == "org/tiny-embed"
    missing = gateway.get("/v1/models/tin", key)
    assert (missing.status, missing.code) == (404, "model_not_found")
    assert missing.json["error"]["suggestions"][0] == "Did you mean 'tiny'?"


def test_chat_whole(gateway: Gateway, stack: Stack, key: str) -> None:
    answer = gateway.chat(key, headers={"X-Request-ID": "client-id-0001", "Cookie": "a=b", "X-Other": "c"})
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"] == "hello there"
    assert answer.headers["x-request-id"] == "client-id-0001"
    assert int(answer.headers["x-ratelimit-remaining-requests"]) < int(answer.headers["x-ratelimit-limit-requests"])
    _, headers, _ = stack.runner.seen[-1]
    assert headers["Authorization"] == f"Bearer {support.MODEL_KEY}"
    assert headers["X-Request-ID"] == "client-id-0001"
    assert not {"Cookie", "X-Other", "User-Agent"} & set(headers)


def test_chat_stream_ends_with_done_and_is_measured(gateway: Gateway, key: str) -> None:
    before = gateway.metric("gateway_time_to_first_token_seconds_count")
    tokens = gateway.metric("gateway_tokens_total")
    answer = gateway.chat(key, stream=True)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in answer.events[:-1])
    assert text == "w0 w1 w2 w3 w4 w5 w6 w7 "
    assert answer.events[-1] == "[DONE]"
    assert gateway.metric("gateway_time_to_first_token_seconds_count") == before + 1
    assert gateway.metric("gateway_tokens_total") == tokens + 11


def test_a_stream_is_forwarded_as_it_comes(gateway: Gateway, key: str) -> None:
    with gateway.open_stream(key, "#slow") as sock:
        got = b""
        while got.count(b"data: ") < 2:
            got += sock.recv(4096)
    assert got.count(b"data: ") < 20  # of 201; nothing waited for the end


def test_embeddings(gateway: Gateway, key: str) -> None:
    for given in ("text", ["a", "b"], [1, 2, 3], [[1], [2, 3]]):
        answer = gateway.post("/v1/embeddings", {"model": "org/tiny-embed", "input": given}, key)
        assert answer.status == 200, answer.body
        assert answer.json["data"][0]["embedding"] == [0.5, 0.25]


def test_the_openai_client_works_and_raises_what_it_should(gateway: Gateway, key: str) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny", "org/tiny-embed"]
        question = [{"role": "user", "content": "hello"}]
        assert client.chat.completions.create(model="tiny", messages=question).choices[0].message.content
        pieces = list(client.chat.completions.create(model="tiny", messages=question, stream=True))
        assert len(pieces) == 9
        assert client.embeddings.create(model="org/tiny-embed", input="x").data[0].embedding == [0.5, 0.25]
        with pytest.raises(openai.NotFoundError, match="does not exist here"):
            client.chat.completions.create(model="nope", messages=question)
        with pytest.raises(openai.APIError, match="broke off"):
            list(
                client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "#die"}], stream=True
                )
            )
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


BAD_KEYS = [
    (None, "missing_api_key"),
    ("Basic YTpi", "missing_api_key"),
    ("Bearer ", "missing_api_key"),
    ("Bearer wrong", "invalid_api_key"),
    ("Bearer " + support.make_key(), "invalid_api_key"),
    ("Bearer " + support.make_key()[:-1] + "g", "invalid_api_key"),
    ("Bearer mk_dev_é", "invalid_api_key"),
]


@pytest.mark.parametrize(("header", "code"), BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_no_key_no_service(gateway: Gateway, header: str | None, code: str) -> None:
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/v1/models/tiny"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
    ):
        headers = {"Authorization": header.encode("latin-1")} if header else {}
        answer = gateway.call(method, path, b"{}" if method == "POST" else None, headers=headers)  # type: ignore[arg-type]
        assert (answer.status, answer.code) == (401, code)
        assert answer.headers["www-authenticate"] == "Bearer"


def test_same_kid_other_secret_is_refused(gateway: Gateway, key: str) -> None:
    forged = support.make_key(kid=key.split("_")[2])
    assert gateway.get("/v1/models", key).status == 200  # so that the kid is cached
    assert gateway.get("/v1/models", forged).status == 401


def test_scopes(gateway: Gateway, new_key: Callable[..., str]) -> None:
    narrow = new_key(gateway, scopes="embeddings", name="narrow")
    answer = gateway.chat(narrow)
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (403, "insufficient_scope", "chat")
    assert gateway.post("/v1/embeddings", {"model": "tiny", "input": "x"}, narrow).status == 200


def test_an_expired_key(gateway: Gateway, new_key: Callable[..., str]) -> None:
    old = new_key(gateway, expires_at="2020-01-01T00:00:00+00:00", name="old")
    assert gateway.get("/v1/models", old).code == "expired_api_key"


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}

BAD_BODIES = [
    (b"", "invalid_json", None),
    (b"{", "invalid_json", None),
    (b"[1]", "invalid_json", None),
    (b'"text"', "invalid_json", None),
    (b"null", "invalid_json", None),
    (b"\xff\xfe{}", "invalid_json", None),
    (b'{"model": NaN}', "invalid_json", None),
    (b'{"model": "tiny", "messages": [], "temperature": Infinity}', "invalid_json", None),
    (b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}', "invalid_json", None),
    (b'{"x":1e999,"model":"tiny","messages":[{"role":"user","content":"a"}]}', "invalid_json", None),
    (b'{"x":' + b"9" * 5000 + b',"model":"tiny","messages":[{"role":"user","content":"a"}]}', "invalid_json", None),
    (b'{"messages":' + b"[" * 50000, "invalid_json", None),
    (b'{"model":"tiny","messages":' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json", None),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "invalid_json", None),
    (b"{}", "invalid_request", "model"),
    ({**CHAT, "model": 1}, "invalid_request", "model"),
    ({**CHAT, "model": ""}, "invalid_request", "model"),
    ({**CHAT, "messages": []}, "invalid_request", "messages"),
    ({**CHAT, "messages": "hello"}, "invalid_request", "messages"),
    ({**CHAT, "messages": [{"role": "king", "content": "x"}]}, "invalid_request", "messages.0.role"),
    ({**CHAT, "stream": "yes"}, "invalid_request", "stream"),
    ({**CHAT, "temperature": "hot"}, "invalid_request", "temperature"),
    ({**CHAT, "temperature": 9}, "invalid_request", "temperature"),
    ({**CHAT, "max_tokens": -5}, "invalid_request", "max_tokens"),
    ({**CHAT, "max_tokens": 1.5}, "invalid_request", "max_tokens"),
    ({**CHAT, "max_tokens": True}, "invalid_request", "max_tokens"),
    ({**CHAT, "messages": [{"role": "user", "content": 1}]}, "invalid_request", "messages.0.content"),
    ({**CHAT, "messages": [{"role": "user", "content": [{}]}]}, "invalid_request", "messages.0.content.0.type"),
    ({**CHAT, "tools": [{"type": "function"}]}, "invalid_request", "tools.0.function"),
]


@pytest.mark.parametrize(("body", "code", "param"), BAD_BODIES)
def test_bad_bodies(gateway: Gateway, key: str, body: object, code: str, param: str | None) -> None:
    answer = gateway.post("/v1/chat/completions", body, key)
    assert (answer.status, answer.code) == (400, code)
    assert answer.json["error"]["param"] == param
    assert answer.json["error"]["suggestions"]


@pytest.mark.parametrize("given", ["", [], [""], [1.5], [-1], [[]], [1, "a"], {}, None, 1])
def test_bad_embedding_inputs(gateway: Gateway, key: str, given: object) -> None:
    answer = gateway.post("/v1/embeddings", {"model": "tiny", "input": given}, key)
    assert (answer.status, answer.json["error"]["param"]) == (400, "input")
    assert answer.json["error"]["message"].startswith("input: Input should be a text, a list of texts")


def test_whole_numbers_may_be_written_with_a_point(gateway: Gateway, key: str) -> None:
    assert gateway.post("/v1/chat/completions", {**CHAT, "max_tokens": 3.0, "seed": -1.0}, key).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_bad_content_types(gateway: Gateway, key: str, headers: dict[str, str]) -> None:
    assert gateway.post("/v1/chat/completions", CHAT, key, headers=headers).code == "unsupported_content_type"


def test_what_was_checked_is_what_is_sent(gateway: Gateway, stack: Stack, key: str) -> None:
    """A name given twice must not mean one thing here and another one there."""
    body = b'{"model":"nope","model":"tiny","messages":[{"role":"user","content":"x"}],"extra":{"a":[1,2.5,"\\u00e9"]}}'
    assert gateway.post("/v1/chat/completions", body, key).status == 200
    _, _, sent = stack.runner.seen[-1]
    assert sent == {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "extra": {"a": [1, 2.5, "é"]}}


def test_too_large_with_and_without_a_length(gateway: Gateway, key: str) -> None:
    body = json.dumps({**CHAT, "pad": "x" * 300_000}).encode()
    assert gateway.post("/v1/chat/completions", body, key).code == "request_too_large"

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    chunked = gateway.call("POST", "/v1/chat/completions", pieces(), key, {"Content-Type": "application/json"})
    assert (chunked.status, chunked.code) == (413, "request_too_large")


def test_unknown_paths_and_methods_have_the_same_shape(gateway: Gateway, key: str) -> None:
    for path in ("/", "/v1", "/v1/nothing", "/docs", "/v1/models/", "/health/"):
        answer = gateway.get(path, key)
        assert (answer.status, answer.json["error"]["type"]) == (404, "invalid_request_error"), path
    wrong = gateway.call("DELETE", "/v1/models", key=key)
    assert (wrong.status, wrong.code, wrong.headers["allow"]) == (405, "method_not_allowed", "GET")


def test_request_ids_that_could_harm_are_replaced(gateway: Gateway) -> None:
    for given in ("short", "x" * 65, 'a"b{c}d:e', "with space in it"):
        assert gateway.get("/health", headers={"X-Request-ID": given}).headers["x-request-id"].startswith("req_")


def test_cors_for_the_named_origin_only(gateway: Gateway) -> None:
    asked = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}
    assert gateway.call("OPTIONS", "/v1/chat/completions", headers=asked).headers["access-control-allow-origin"] == (
        "https://app.example.org"
    )
    asked["Origin"] = "https://evil.example.org"
    assert "access-control-allow-origin" not in gateway.call("OPTIONS", "/v1/models", headers=asked).headers


def test_rate_limit(gateway: Gateway, new_key: Callable[..., str]) -> None:
    slow = new_key(gateway, rpm=3, name="slow")
    answers = [gateway.get("/v1/models", slow) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    refused = answers[-1]
    assert refused.code == "rate_limit_exceeded"
    assert 18 <= int(refused.headers["retry-after"]) <= 20
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
    assert "x-ratelimit-degraded" not in refused.headers


def test_concurrency_limit_and_disconnect_frees_the_slot(
    gateway: Gateway, stack: Stack, new_key: Callable[..., str]
) -> None:
    single = new_key(gateway, concurrency=1, name="single")
    before = gateway.metric("gateway_client_disconnects_total")
    broken_off = stack.runner.broken_off
    with gateway.open_stream(single, "#slow") as sock:
        assert sock.recv(1024)
        refused = gateway.chat(single)
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (
            429,
            "concurrency_limit_exceeded",
            "1",
        )
    support.wait_for("the model server to notice", lambda: stack.runner.broken_off == broken_off + 1, 3)
    support.wait_for("the slot", lambda: gateway.chat(single).status == 200, 3)
    assert gateway.metric("gateway_client_disconnects_total") == before + 1


@pytest.mark.parametrize("word", ["#wait 30"])
def test_disconnect_before_the_first_byte(gateway: Gateway, stack: Stack, key: str, word: str) -> None:
    broken_off = stack.runner.broken_off
    sock = gateway.open_stream(key, word)
    support.wait_for("the request", lambda: stack.runner.seen[-1][2]["messages"][0]["content"] == word, 3)
    sock.close()
    support.wait_for("the model server to notice", lambda: stack.runner.broken_off == broken_off + 1, 3)


def test_a_client_that_leaves_inside_its_body(gateway: Gateway, key: str) -> None:
    errors = gateway.metric("gateway_errors_total")
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as sock:
        sock.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
        )
    support.wait_for("the log", lambda: any(line.get("disconnected") for line in gateway.log_lines()[-5:]), 5)
    assert gateway.metric("gateway_errors_total") == errors


def test_metrics_have_bounded_labels(gateway: Gateway, key: str) -> None:
    for number in range(20):
        gateway.get(f"/v1/models/m{number}", key)
        gateway.get(f"/path{number}", key)
        gateway.call(f"VERB{number}", "/v1/models", key=key)
    gateway.post("/v1/chat/completions", {"model": "m7", "messages": [{"role": "user", "content": "x"}]}, key)
    text = gateway.get("/metrics").body.decode()
    assert '"m7"' not in text
    assert "path7" not in text
    assert "VERB7" not in text


def test_nothing_secret_and_no_content_in_the_log(gateway: Gateway, key: str) -> None:
    phrase = "the quick brown phrase"
    gateway.chat(key, phrase)
    gateway.get("/v1/models?api_key=" + key, key)
    gateway.get("/v1/models", key, headers={"X-Request-ID": key})
    gateway.get("/v1/models", support.make_key())
    text = gateway.log.read_text()
    for secret in (key, key.split("_")[3], support.MODEL_KEY, support.PEPPER, "p" * 32, "v" * 32, phrase):
        assert secret not in text
    assert key.split("_")[2] in text  # the kid is not secret
    assert all(line["event"] for line in gateway.log_lines())
