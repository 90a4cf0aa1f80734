# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies of the OpenAI surface, as far as it defines them; what a model server adds on top passes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    WrapValidator,
)
from pydantic_core import PydanticCustomError


def _integral(value: object) -> object:
    """JSON has one kind of number: 3.0 is an integer. Anything else is left to the strict check."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_integral)  # the last one in an annotation is asked first
# fail_fast below: a body of a few MB may hold a million wrong elements, and one error for each would not fit in memory.
Name = Annotated[str, Field(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1), _WHOLE]


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


_GRAMMAR_GROUPS = 4096


def _shallow(grammar: str) -> str:
    """The model server reads groups by recursion, and tens of thousands inside each other overrun its stack."""
    if grammar.count("(") > _GRAMMAR_GROUPS:
        raise PydanticCustomError("grammar", f"Grammar should have at most {_GRAMMAR_GROUPS} groups")
    return grammar


Grammar = Annotated[str, Field(max_length=64 * 1024), AfterValidator(_shallow)]


class ContentPart(_Request):
    type: Annotated[str, Field(min_length=1, max_length=64)]
    text: str | None = None
    image_url: dict[str, JsonValue] | None = None
    input_audio: dict[str, JsonValue] | None = None


class Message(_Request):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[dict[str, JsonValue]], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None


class StreamOptions(_Request):
    include_usage: bool | None = None


class ResponseFormat(_Request):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, JsonValue] | None = None


class Function(_Request):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None


class Tool(_Request):
    type: Literal["function"]
    function: Function


class ChatCompletionRequest(_Request):
    model: Name
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128), _WHOLE] | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), _WHOLE] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | list[JsonValue] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), _WHOLE] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, JsonValue] | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = None
    grammar: Grammar | None = None  # llama.cpp's


Text = Annotated[str, Field(min_length=1)]
Token = Annotated[int, Field(ge=0, le=2**31 - 1), _WHOLE]
Tokens = Annotated[list[Token], Field(min_length=1, fail_fast=True)]


def _one_sentence(value: Any, check: Callable[[Any], Any]) -> Any:
    """Four forms are allowed; what each of them misses would not help anybody."""
    try:
        return check(value)
    except ValidationError:
        raise PydanticCustomError(
            "embedding_input",
            "Input should be a text, a list of texts, a list of tokens or a list of such lists, none of them empty, "
            "at most 2048",
        ) from None


class EmbeddingsRequest(_Request):
    model: Name
    input: Annotated[
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=2048, fail_fast=True)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=2048, fail_fast=True)],
        WrapValidator(_one_sentence),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    user: str | None = None


class _Reply(BaseModel):
    model_config = ConfigDict(extra="allow")


class Model(_Reply):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(_Reply):
    object: Literal["list"]
    data: list[Model]


class ChatCompletion(_Reply):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None = None


class EmbeddingList(_Reply):
    object: Literal["list"]
    data: list[dict[str, Any]]
    model: str
    usage: dict[str, Any] | None = None


class ErrorDetail(_Reply):
    message: str
    type: str
    param: str | None
    code: str
    request_id: str
    suggestions: list[str]


class ErrorBody(BaseModel):
    error: ErrorDetail


class Health(BaseModel):
    status: Literal["ok"]


class Check(BaseModel):
    status: Literal["up", "down"]
    reason: str | None = None


class Readiness(BaseModel):
    status: Literal["ready", "degraded", "unavailable", "shutting_down"]
    checks: dict[str, Check]
