# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people say is in no log unless it is asked for, whatever becomes of the request."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

import support
from mcpstack.common.settings import SettingsError
from mcpstack.gateway import settings
from support import Gateway, Launch

CANARY = "kanarienvogel"
NewKey = Callable[..., str]


def say(word: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": word}], **more}


def every_path(gateway: Gateway, key: str) -> None:
    """The canary in every place where a client can put something, and in what a model server says about it."""
    chat = "/v1/chat/completions"
    for word in (
        CANARY,
        f"#status 500 {CANARY}",
        f"#status 400 {CANARY}",
        f"#status 503 {CANARY}",
        "#garbage",
        "#drop",
    ):
        for stream in (False, True):
            gateway.post(chat, say(word, stream=stream, user=CANARY, metadata={CANARY: CANARY}), key)
    for word in ("#die", "#end"):
        gateway.post(chat, say(word, stream=True, user=CANARY), key)
    for path in (chat, "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/tasks"):
        for payload in (
            say(CANARY) | {"input": CANARY, "prompt": CANARY, "max_tokens": 5},
            say(CANARY, model=CANARY),
            say(CANARY, model={"x": CANARY}),
            {"model": "tiny", "messages": CANARY, CANARY: CANARY},
            {"task": "vector_index", "arguments": {CANARY: CANARY}},
            {"task": CANARY},
            f'{{"model": "{CANARY}'.encode(),
            f'["{CANARY}"]'.encode(),
            b'"' + CANARY.encode() + b"\xff",
            json.dumps(say(CANARY * 20_000)).encode(),
        ):
            gateway.post(path, payload, key, headers={"X-Request-ID": CANARY + "!", "Idempotency-Key": CANARY})
            gateway.post(path, payload, f"mk_dev_{CANARY}", headers={"X-Api-Key": CANARY})
    for path in (
        f"/{CANARY}",
        f"/v1/models/{CANARY}",
        f"/v1/tasks/{CANARY}",
        f"/v1/usage?days={CANARY}",
        f"/v1/{CANARY}",
    ):
        for method in ("GET", "POST", "DELETE", "PATCH"):
            gateway.call(method, path, None, key)
    gateway.call(CANARY.upper(), chat, None, key)
    gateway.get(
        "/v1/models", CANARY, headers={"Cookie": CANARY, "Origin": f"https://{CANARY}.example", "User-Agent": CANARY}
    )
    with contextlib.closing(gateway.open_stream(key, "#slow " + CANARY)) as sock:
        sock.recv(100)
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as sock:  # leaves in the middle of its body
        head = f"POST {chat} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        sock.sendall(f'{head}Content-Length: 1000\r\n\r\n{{"{CANARY}'.encode())


def test_off_means_not_a_byte(launch: Launch, new_key: NewKey) -> None:
    gateway = launch(log_level="debug", default_rpm="100000", max_body_bytes="100000", model_first_byte_timeout="2")
    key = new_key(gateway, scopes="chat,embeddings,models,tasks", cache=True)
    every_path(gateway, key)
    for _ in range(2):
        gateway.post("/v1/chat/completions", say(CANARY, temperature=0), key)
    assert gateway.chat(key, CANARY).status == 200
    assert gateway.stop() == 0
    text = gateway.log.read_text().lower()
    assert text.count('"event": "request"') > 100
    assert CANARY not in text
    assert "hello there" not in text  # what the model said
    assert not any(line["event"] == "content" for line in gateway.log_lines())


def content_of(gateway: Gateway, request_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [line for line in gateway.log_lines() if line["event"] == "content" and line["request_id"] == request_id]

    lines = support.wait_for("the content", found, 5)
    assert len(lines) == 1
    return dict(lines[0])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("redacted", "I am [e-mail], my card is [card]"), ("full", "I am jo@example.org, my card is 4111111111111111")],
)
def test_content_that_was_asked_for(launch: Launch, new_key: NewKey, mode: str, expected: str) -> None:
    gateway = launch(log_content=mode, environment="staging")
    key = new_key(gateway, cache=True)
    word = "I am jo@example.org, my card is 4111111111111111"
    for stream, answer in ((False, "hello there"), (True, "w0 w1 w2 w3 w4 w5 w6 w7 ")):
        reply = gateway.chat(key, word, stream=stream)
        line = content_of(gateway, reply.headers["x-request-id"])
        assert line["prompt"].split("\n") == ["tiny", "user", expected]
        assert answer in line["answer"].split("\n")
        assert (line["kid"], line["model"]) == (key.split("_")[2], "tiny")
    for result in ("miss", "hit"):
        reply = gateway.post("/v1/chat/completions", say(word, temperature=0), key)
        assert reply.headers["x-mcpstack-cache"] == result
        assert "hello there" in content_of(gateway, reply.headers["x-request-id"])["answer"]
    reply = gateway.chat(key, "#status 400 no " + word)
    line = content_of(gateway, reply.headers["x-request-id"])
    assert expected in line["prompt"]
    assert line["answer"] == ""
    own = gateway.chat(key, f"my key is {key}")
    assert key not in content_of(gateway, own.headers["x-request-id"])["prompt"]  # in no mode


def test_full_is_refused_in_production(launch: Launch) -> None:
    env = launch().env
    env = {name: value for name, value in env.items() if name.startswith("GATEWAY_")}
    settings.load(env | {"GATEWAY_ENVIRONMENT": "production", "GATEWAY_LOG_CONTENT": "redacted"})
    with pytest.raises(SettingsError) as caught:
        settings.load(env | {"GATEWAY_ENVIRONMENT": "production", "GATEWAY_LOG_CONTENT": "full"})
    assert [str(problem) for problem in caught.value.problems] == [
        "GATEWAY_LOG_CONTENT: 'full' writes what people say into the log, with their keys and addresses. "
        "Set it to redacted or off in production."
    ]
