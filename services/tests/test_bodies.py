# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any bytes as a body: an answer below 500, always, and what is sent on is valid JSON of what was checked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from mcpstack.common.errors import ApiError
from mcpstack.gateway.api import encode, parse
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


@given(raw=BODIES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_is_answered_with_a_500(gateway: Gateway, key: str, raw: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings"):
        answer = gateway.post(path, raw, key)
        assert answer.status in (200, 400, 404, 502), answer.body
        assert answer.status != 502 or b"model server" in answer.body
