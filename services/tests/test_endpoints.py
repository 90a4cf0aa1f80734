# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every endpoint that a model server may have, as clients see it: answers, streams and their ends, errors, CORS."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

import support
from modelserver import ModelServer
from support import Gateway, Reply, Stack, put_key

QUESTION = [{"role": "user", "content": "hello"}]
ORIGIN = "https://app.example.org"


@pytest.fixture(scope="module")
def server(stack: Stack) -> Iterator[ModelServer]:
    running = ModelServer(stack.loop)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def api(stack: Stack, server: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("endpoints")
    env = support.environment(
        folder / "secrets",
        stack.tls,
        stack.postgres.port,
        stack.postgres.new_database(),
        stack.valkey.port,
        server.port,
    )
    env |= {
        "GATEWAY_CORS_ORIGINS": ORIGIN,
        "GATEWAY_MODEL_FIRST_BYTE_TIMEOUT": "2",
        "GATEWAY_MODEL_IDLE_TIMEOUT": "1",
        "GATEWAY_PING_INTERVAL": "0.5",
        "GATEWAY_DEFAULT_RPM": "100000",
    }
    running = support.start_gateway(env, folder / "gateway.log")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def good(api: Gateway) -> str:
    return put_key(api)


@pytest.fixture(scope="module")
def client(api: Gateway, good: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key=good, max_retries=0) as found:
        yield found


# The OpenAI client


def test_chat_with_tools(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    made = client.chat.completions.create(model="tiny", messages=QUESTION, tools=tools, tool_choice="required")
    call: Any = made.choices[0].message.tool_calls[0]  # type: ignore[index]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})
    pieces = client.chat.completions.create(model="tiny", messages=QUESTION, tools=tools, stream=True)
    parts = [piece.choices[0].delta.tool_calls for piece in pieces]
    assert json.loads("".join(part[0].function.arguments for part in parts if part)) == {"city": "Oslo"}  # type: ignore


def test_chat_with_a_schema_and_logprobs(client: openai.OpenAI, server: ModelServer) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}}
    made = client.chat.completions.create(
        model="tiny", messages=QUESTION, response_format=wanted, logprobs=True, top_logprobs=2
    )
    assert json.loads(made.choices[0].message.content or "") == {"answer": 42}
    assert made.choices[0].logprobs.content[0].logprob == -0.5  # type: ignore[union-attr, index]
    assert server.seen[-1][2]["response_format"] == wanted
    assert server.seen[-1][2]["top_logprobs"] == 2


def test_vision_parts_pass_and_are_checked(client: openai.OpenAI, server: ModelServer) -> None:
    parts: Any = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    ]
    client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])
    assert server.seen[-1][2]["messages"][0]["content"] == parts
    parts[1]["image_url"] = "data:image/png;base64,AA"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}])
    assert caught.value.param == "messages.0.content.1.image_url"


@pytest.mark.parametrize("asked", [True, False])
def test_usage_is_always_asked_for_and_shown_when_wanted(
    api: Gateway, good: str, server: ModelServer, asked: bool
) -> None:
    before = api.metric("gateway_tokens_total")
    payload: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "stream": True}
    if asked:
        payload["stream_options"] = {"include_usage": True}
    answer = api.post("/v1/chat/completions", payload, good)
    assert server.seen[-1][2]["stream_options"] == {"include_usage": True}
    shown = [event for event in answer.events if event != "[DONE]" and event.get("usage")]
    assert [event["choices"] for event in shown] == ([[]] if asked else [])
    assert len(answer.events) == (11 if asked else 10)
    assert answer.events[-1] == "[DONE]"
    assert api.metric("gateway_tokens_total") == before + 11


def test_completions(client: openai.OpenAI) -> None:
    assert client.completions.create(model="tiny", prompt="tell").choices[0].text == "once upon"
    pieces = list(client.completions.create(model="tiny", prompt="tell", stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == "w0 w1 w2 w3 "


@pytest.mark.parametrize("given", ["text", ["a", "b"], [1, 2], [[1], [2, 3]], ""])
def test_prompts(api: Gateway, good: str, given: object) -> None:
    assert api.post("/v1/completions", {"model": "tiny", "prompt": given}, good).status == 200


@pytest.mark.parametrize("given", [[], None, 1, {}, [1, "a"], [[]]])
def test_bad_prompts(api: Gateway, good: str, given: object) -> None:
    answer = api.post("/v1/completions", {"model": "tiny", "prompt": given}, good)
    assert (answer.status, answer.json["error"]["param"]) == (400, "prompt")


def test_embeddings(client: openai.OpenAI) -> None:
    assert client.embeddings.create(model="org/tiny-embed", input=["x"]).data[0].embedding == [0.5, 0.25]


def test_embeddings_are_no_stream(api: Gateway, good: str) -> None:
    assert api.post("/v1/embeddings", {"model": "tiny", "input": "x", "stream": True}, good).json["object"] == "list"


def test_responses(client: openai.OpenAI) -> None:
    assert client.responses.create(model="tiny", input="hello").output_text == "hello there"
    kinds = [event.type for event in client.responses.create(model="tiny", input="hello", stream=True)]
    assert kinds == [
        "response.created",
        "response.in_progress",
        *["response.output_text.delta"] * 8,
        "response.completed",
    ]


def test_responses_keep_nothing(api: Gateway, good: str) -> None:
    for name, value in (("previous_response_id", "resp_1"), ("conversation", "conv_1"), ("background", True)):
        answer = api.post("/v1/responses", {"model": "tiny", "input": "x", name: value}, good)
        assert (answer.status, answer.json["error"]["param"]) == (400, name)


ERRORS = [
    ({"model": "nope"}, openai.NotFoundError, "model_not_found"),
    ({"temperature": 9}, openai.BadRequestError, "invalid_request"),
    (
        {"messages": [{"role": "user", "content": "#status 400 too hot"}]},
        openai.BadRequestError,
        "model_rejected_request",
    ),
    ({"messages": [{"role": "user", "content": "#status 500 x"}]}, openai.InternalServerError, "model_runner_error"),
    (
        {"messages": [{"role": "user", "content": "#status 503 x"}]},
        openai.InternalServerError,
        "model_runner_unavailable",
    ),
    ({"messages": [{"role": "user", "content": "#wait 30"}]}, openai.InternalServerError, "model_runner_timeout"),
]


@pytest.mark.parametrize(("more", "kind", "code"), ERRORS, ids=[code for _, _, code in ERRORS])
def test_the_client_raises(
    client: openai.OpenAI, more: dict[str, Any], kind: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**({"model": "tiny", "messages": QUESTION} | more))
    assert caught.value.code == code
    assert caught.value.request_id


def test_the_client_raises_for_keys_and_limits(api: Gateway) -> None:
    def call(key: str) -> None:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{api.port}/v1", api_key=key, max_retries=0) as one:
            one.chat.completions.create(model="tiny", messages=QUESTION)  # type: ignore[arg-type]

    with pytest.raises(openai.AuthenticationError):
        call(support.make_key())
    with pytest.raises(openai.PermissionDeniedError):
        call(put_key(api, scopes="models", name="narrow"))
    slow = put_key(api, rpm=1, name="slow")
    call(slow)
    with pytest.raises(openai.RateLimitError) as caught:
        call(slow)
    assert int(caught.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("word", ["#die", "#end", "#hang", "#error"])
def test_the_client_raises_for_a_stream_that_breaks(client: openai.OpenAI, word: str) -> None:
    said = r"The model server|no slot at"
    with pytest.raises(openai.APIError, match=said):
        list(client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": word}], stream=True))
    with pytest.raises(openai.APIError, match=said):
        list(client.completions.create(model="tiny", prompt=word, stream=True))
    with pytest.raises(openai.APIError, match=said):
        list(client.responses.create(model="tiny", input=word, stream=True))


# Streams, byte by byte

BROKEN = [
    ("#die", "model_runner_error"),
    ("#end", "model_runner_error"),
    ("#hang", "model_runner_timeout"),
    ("#error", "model_runner_error"),
]


def typed(answer: Reply) -> list[tuple[str, Any]]:
    """Events with names: every one is whole, so every one can be read."""
    found = []
    for block in answer.body.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines.get("event", ""), json.loads(lines["data"])))
    return found


@pytest.mark.parametrize(("word", "code"), BROKEN)
def test_broken_streams_of_chat(api: Gateway, good: str, word: str, code: str) -> None:
    answer = api.chat(good, word, stream=True)
    assert b"[DONE]" not in answer.body
    assert b"10.1.2.3" not in answer.body
    *pieces, last = answer.events
    assert len(pieces) == 3
    assert last["error"]["code"] == code


@pytest.mark.parametrize(("word", "code"), BROKEN)
def test_broken_streams_of_responses(api: Gateway, good: str, word: str, code: str) -> None:
    *pieces, (name, last) = typed(api.post("/v1/responses", {"model": "tiny", "input": word, "stream": True}, good))
    assert [kind for kind, _ in pieces] == ["response.created", "response.in_progress", "response.output_text.delta"]
    assert (name, last["type"], last["code"], last["sequence_number"]) == ("error", "error", code, 3)
    assert "10.1.2.3" not in str(last)


def say(word: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": word}], **more}


@pytest.mark.parametrize(("word", "code"), BROKEN)
def test_broken_streams_of_messages(api: Gateway, good: str, word: str, code: str) -> None:
    *pieces, (name, last) = typed(api.post("/v1/messages", say(word, stream=True), good))
    assert [kind for kind, _ in pieces] == ["message_start", "content_block_start", "content_block_delta"]
    assert (name, last["type"], last["error"]["code"]) == ("error", "error", code)
    assert last["error"]["type"] == ("timeout_error" if word == "#hang" else "api_error")
    assert "10.1.2.3" not in str(last)


def test_what_a_model_writes_cannot_end_a_stream(api: Gateway, good: str) -> None:
    """Its text looks like the end of a stream, an error and a usage; the stream itself just breaks off."""
    before = api.metric("gateway_tokens_total")
    answer = api.chat(good, "#inner", stream=True)
    text, last = answer.events
    assert text["choices"][0]["delta"]["content"].startswith("data: [DONE]\n\n{")
    assert last["error"]["code"] == "model_runner_error"
    assert api.metric("gateway_tokens_total") == before + 1  # the one piece that came


# Anthropic


def test_messages(api: Gateway, good: str, server: ModelServer) -> None:
    before = api.metric("gateway_tokens_total")
    answer = api.post("/v1/messages", say("hello", system="be short"), headers={"x-api-key": good})
    assert answer.status == 200
    assert answer.json["content"][0]["text"] == "hello there"
    assert api.metric("gateway_tokens_total") == before + 3 + 4 + 8
    path, headers, body = server.seen[-1]
    assert (path, body["system"]) == ("/v1/messages", "be short")
    assert headers["Authorization"] == f"Bearer {support.MODEL_KEY}"
    assert "x-api-key" not in {name.lower() for name in headers}
    stream = typed(api.post("/v1/messages", say("hello", stream=True), headers={"x-api-key": good}))
    assert [name for name, _ in stream][-2:] == ["message_delta", "message_stop"]
    assert api.post("/v1/messages/count_tokens", say("hello"), headers={"x-api-key": good}).json == {"input_tokens": 7}
    assert api.post("/v1/messages", say("hello"), good).status == 200  # a bearer is taken as well


ANTHROPIC_ERRORS = [
    ({}, {}, 401, "authentication_error", "missing_api_key"),
    ({"x-api-key": "wrong"}, {}, 401, "authentication_error", "invalid_api_key"),
    (None, {"model": "nope"}, 404, "not_found_error", "model_not_found"),
    (None, {"max_tokens": None}, 400, "invalid_request_error", "invalid_request"),
    (None, {"messages": [{"role": "user", "content": "#status 500 x"}]}, 502, "api_error", "model_runner_error"),
    (
        None,
        {"messages": [{"role": "user", "content": "#status 503 x"}]},
        503,
        "overloaded_error",
        "model_runner_unavailable",
    ),
    (None, {"messages": [{"role": "user", "content": "#wait 30"}]}, 504, "timeout_error", "model_runner_timeout"),
]


@pytest.mark.parametrize(("headers", "more", "status", "kind", "code"), ANTHROPIC_ERRORS)
def test_errors_of_messages(
    api: Gateway, good: str, headers: dict[str, str] | None, more: dict[str, Any], status: int, kind: str, code: str
) -> None:
    answer = api.post("/v1/messages", say("hello") | more, headers={"x-api-key": good} if headers is None else headers)
    assert answer.status == status
    assert answer.json["type"] == "error"
    assert (answer.json["error"]["type"], answer.json["error"]["code"]) == (kind, code)
    assert answer.json["request_id"] == answer.headers["x-request-id"]


def test_an_anthropic_key_header_is_for_messages_only(api: Gateway, good: str) -> None:
    assert api.post("/v1/chat/completions", say("x"), headers={"x-api-key": good}).code == "missing_api_key"
    assert api.get("/v1/messages", good).json["error"]["type"] == "invalid_request_error"  # 405, in its own shape


BAD_BLOCKS = [
    ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages.0.content.0.id"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.source"),
    ({"system": [{"type": "text"}]}, "system.0.text"),
    ({"temperature": 1.5}, "temperature"),
    ({"tool_choice": {"type": "perhaps"}}, "tool_choice.type"),
]


@pytest.mark.parametrize(("more", "param"), BAD_BLOCKS)
def test_bad_messages(api: Gateway, good: str, more: dict[str, Any], param: str) -> None:
    answer = api.post("/v1/messages", say("x") | more, good)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


# Endpoints that a model server lacks

MISSING = [
    ("/v1/completions", {"model": "tiny", "prompt": "x"}, "Use POST /v1/chat/completions."),
    ("/v1/responses", {"model": "tiny", "input": "x"}, "Use POST /v1/chat/completions."),
    ("/v1/messages", say("x"), "Use POST /v1/chat/completions."),
    ("/v1/embeddings", {"model": "tiny", "input": "x"}, "Use a model for embeddings; GET /v1/models lists them."),
]


@pytest.mark.parametrize(("path", "payload", "suggestion"), MISSING)
def test_a_missing_endpoint_is_said_so_and_remembered(
    stack: Stack, launch: Callable[..., Gateway], path: str, payload: dict[str, Any], suggestion: str
) -> None:
    server = ModelServer(stack.loop, lacks={path})
    server.start()
    try:
        gateway = launch(model_port=server.port)
        key = put_key(gateway)
        for _ in range(3):
            answer = gateway.post(path, payload, key)
            assert (answer.status, answer.code) == (404, "unsupported_endpoint")
            assert answer.json["error"]["suggestions"] == [suggestion]
        assert gateway.chat(key).status == 200
        assert [seen for seen, _, _ in server.seen] == ["/v1/chat/completions"]
        lines = [line for line in gateway.log_lines() if line["event"] == "a model server lacks an endpoint"]
        assert len(lines) == 1  # asked once, and not again for every request
    finally:
        server.stop()


def test_a_client_cannot_make_an_endpoint_look_missing(api: Gateway, good: str) -> None:
    """A 404 that one request gets says nothing about the endpoint."""
    answer = api.post("/v1/completions", {"model": "tiny", "prompt": "#status 404 no such thing"}, good)
    assert (answer.status, answer.code) == (400, "model_rejected_request")
    assert api.post("/v1/completions", {"model": "tiny", "prompt": "x"}, good).status == 200
    answer = api.chat(good, "#status 404 The model `tiny` does not exist.")
    assert (answer.status, answer.code) == (404, "model_not_found")


# Wrong answers

WRONG = [
    ("#garbage", 502, "model_runner_error"),
    ("#broken", 502, "model_runner_error"),
    ("#redirect", 502, "model_runner_error"),
    ("#drop", 502, "model_runner_error"),
    ("#big", 502, "model_runner_error"),
    ("#status 418 teapot", 400, "model_rejected_request"),
    ("#status 599 odd", 502, "model_runner_error"),
]


@pytest.mark.parametrize(("word", "status", "code"), WRONG)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_wrong_answers(api: Gateway, good: str, path: str, word: str, status: int, code: str) -> None:
    payload = {"model": "tiny", "input": word} if path == "/v1/responses" else say(word)
    answer = api.post(path, payload, good)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert b"10.1.2.3" not in answer.body


@pytest.mark.parametrize("word", ["#text", "#garbage", "#broken"])
def test_a_stream_of_another_type_is_refused(api: Gateway, good: str, word: str) -> None:
    answer = api.chat(good, word, stream=True)
    assert (answer.status, answer.code) == (502, "model_runner_error")


# CORS

USED = [
    ("POST", "/v1/chat/completions", "authorization,content-type,x-stainless-os,x-stainless-retry-count"),
    ("POST", "/v1/messages", "x-api-key,anthropic-version,anthropic-dangerous-direct-browser-access,content-type"),
    ("GET", "/v1/models", "authorization"),
    ("GET", "/v1/usage", "authorization"),
    ("POST", "/v1/tasks", "authorization,content-type"),
    ("DELETE", "/v1/tasks/task_0", "authorization"),
]


@pytest.mark.parametrize(("method", "path", "headers"), USED)
def test_preflights(api: Gateway, method: str, path: str, headers: str) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    answer = api.call("OPTIONS", path, headers=asked)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    assert set(headers.split(",")) <= set(answer.headers["access-control-allow-headers"].split(","))
    assert "access-control-allow-credentials" not in answer.headers
    for origin in ("https://evil.example.org", "null", "http://app.example.org", ORIGIN + ".evil.org"):
        refused = api.call("OPTIONS", path, headers=asked | {"Origin": origin})
        assert refused.status == 400
        assert "access-control-allow-origin" not in refused.headers


def test_answers_streams_and_errors_can_be_read_by_the_page(api: Gateway, good: str) -> None:
    page = {"Origin": ORIGIN}
    for answer in (
        api.chat(good, headers=page),
        api.chat(good, stream=True, headers=page),
        api.chat(good, "#status 500 x", headers=page),
        api.get("/v1/models", support.make_key(), headers=page),
        api.get("/v1/nothing", headers=page),
    ):
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]
    assert "access-control-allow-origin" not in api.chat(good, headers={"Origin": "https://evil.example.org"}).headers
