# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any bytes as a body: an answer below 500, always, and what is sent on is valid JSON of what was checked."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from mcpstack.common.errors import ApiError
from mcpstack.gateway.bodies import encode, parse
from mcpstack.gateway.schemas import ChatCompletionRequest, EmbeddingsRequest
from support import Gateway

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([*ChatCompletionRequest.model_fields, *EmbeddingsRequest.model_fields, "extra"])
NEARLY = st.dictionaries(FIELDS, JSON, max_size=6).map(
    lambda more: {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "input": "x"} | more
)
BODIES = st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode) | NEARLY.map(json.dumps).map(str.encode)


@pytest.mark.parametrize("model", [ChatCompletionRequest, EmbeddingsRequest])
@given(raw=BODIES)
@settings(max_examples=200, deadline=None)
def test_parsing_raises_client_errors_only(model: type[BaseModel], raw: bytes) -> None:
    try:
        sent = encode(parse(raw, model))
    except ApiError as error:
        refused = error.status
    else:
        refused = None
    if refused is not None:
        assert refused == 400
        return

    def refuse(word: str) -> Any:
        raise AssertionError(word)

    assert isinstance(json.loads(sent, parse_constant=refuse), dict)


CHAT = b'{"model":"tiny","messages":[{"role":"user","content":"x"}],'
MANY = 200_000


@pytest.mark.parametrize(
    ("model", "raw", "message"),
    [
        (ChatCompletionRequest, b'{"model":"tiny","messages":[' + b"{}," * MANY + b"{}]}", "messages.0.role: Field "),
        (ChatCompletionRequest, CHAT + b'"tools":[' + b"1," * MANY + b"1]}", "tools.0: Input should be "),
        (ChatCompletionRequest, CHAT + b'"stop":[' + b"1," * MANY + b"1]}", "stop.0: Input should be "),
        (
            EmbeddingsRequest,
            b'{"model":"tiny","input":[' + b"[[]]," * MANY + b"[]]}",
            "input: Input should be a text, ",
        ),
    ],
)
def test_a_body_full_of_mistakes_costs_no_more_than_one_with_few(
    model: type[BaseModel], raw: bytes, message: str
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ApiError) as caught:
            parse(raw, model)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.message.startswith(message)
    assert len(caught.value.suggestions) <= 5
    assert peak < 40 * len(raw)


def test_objects_with_very_many_members_are_refused() -> None:
    members = {f"k{number}": 1 for number in range(1024)}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "extra": [{"deep": members}]}
    assert parse(json.dumps(body).encode(), ChatCompletionRequest) == body
    members["one more"] = 1
    with pytest.raises(ApiError, match="an object with more than 1024 members"):
        parse(json.dumps(body).encode(), ChatCompletionRequest)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("root ::= " + "(" * 20000 + '"a"' + ")" * 20000, "grammar: Grammar should have at most 4096 groups."),
        ("root ::= " + '"a" | ' * 20000 + '"a"', "grammar: String should have at most 65536 characters."),
    ],
)
def test_grammars_that_would_hurt_the_model_server_are_refused(grammar: str, message: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "grammar": 'root ::= ("a" | "b")*'}
    assert parse(json.dumps(body).encode(), ChatCompletionRequest) == body
    with pytest.raises(ApiError) as caught:
        parse(json.dumps(body | {"grammar": grammar}).encode(), ChatCompletionRequest)
    assert caught.value.message == message


@given(raw=BODIES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_is_answered_with_a_500(gateway: Gateway, key: str, raw: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings"):
        answer = gateway.post(path, raw, key)
        assert answer.status in (200, 400, 404, 502), answer.body
        assert answer.status != 502 or b"model server" in answer.body
