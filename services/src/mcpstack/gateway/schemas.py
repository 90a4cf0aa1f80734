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
    Discriminator,
    Field,
    JsonValue,
    Tag,
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


Label = Annotated[str, Field(min_length=1, max_length=64)]
Object = dict[str, JsonValue]


def _kinds(*known: str) -> Discriminator:
    """Parts are told apart by `type`; what nobody here knows is left to the model server."""

    def tag(value: Any) -> str:
        kind = value.get("type") if isinstance(value, dict) else None
        return f"part-{kind}" if kind in known else "part-other"

    return Discriminator(tag)


def _unknown(*known: str) -> Any:
    """In the document: any type but those that are described beside it."""
    return Field(min_length=1, max_length=64, json_schema_extra={"not": {"enum": list(known)}})


_PARTS = ("text", "image_url", "input_audio", "file", "refusal")


class TextPart(_Request):
    type: Literal["text"]
    text: str


class ImageUrl(_Request):
    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Request):
    type: Literal["image_url"]
    image_url: ImageUrl


class Audio(_Request):
    data: str
    format: Label


class AudioPart(_Request):
    type: Literal["input_audio"]
    input_audio: Audio


class FilePart(_Request):
    type: Literal["file"]
    file: Object


class RefusalPart(_Request):
    type: Literal["refusal"]
    refusal: str


class OtherPart(_Request):
    type: Annotated[str, _unknown(*_PARTS)]


ContentPart = Annotated[
    Annotated[TextPart, Tag("part-text")]
    | Annotated[ImagePart, Tag("part-image_url")]
    | Annotated[AudioPart, Tag("part-input_audio")]
    | Annotated[FilePart, Tag("part-file")]
    | Annotated[RefusalPart, Tag("part-refusal")]
    | Annotated[OtherPart, Tag("part-other")],
    _kinds(*_PARTS),
]


class CalledFunction(_Request):
    name: str
    arguments: str


class ToolCall(_Request):
    id: str | None = None
    type: Label | None = None
    function: CalledFunction | None = None


class Message(_Request):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None


class StreamOptions(_Request):
    include_usage: bool | None = None


class TextFormat(_Request):
    type: Literal["text", "json_object"]


class NamedSchema(_Request):
    name: Label
    description: str | None = None
    schema_: Annotated[Object | None, Field(alias="schema")] = None
    strict: bool | None = None


class SchemaFormat(_Request):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | SchemaFormat, Field(discriminator="type")]


class Function(_Request):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: Object | None = None
    strict: bool | None = None


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
    tool_choice: Literal["none", "auto", "required"] | Object | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Label | None = None
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


# Completions


def _prompt_sentence(value: Any, check: Callable[[Any], Any]) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise PydanticCustomError(
            "prompt", "Input should be a text, a list of texts, a list of tokens or a list of such lists, at most 2048"
        ) from None


class CompletionRequest(_Request):
    model: Name
    prompt: Annotated[
        str
        | Annotated[list[str], Field(min_length=1, max_length=2048, fail_fast=True)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=2048, fail_fast=True)],
        WrapValidator(_prompt_sentence),
    ]
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1), _WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128), _WHOLE] | None = None
    best_of: Annotated[int, Field(ge=1, le=128), _WHOLE] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20), _WHOLE] | None = None
    echo: bool | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), _WHOLE] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | list[JsonValue] | None = None
    user: str | None = None
    grammar: Grammar | None = None  # llama.cpp's


# Responses. Nothing is kept between requests: another one may go to another model server, and what one key had kept
# would be readable for every other one.

_RESPONSE_PARTS = ("input_text", "output_text", "input_image", "input_file", "refusal")


class InputText(_Request):
    type: Literal["input_text"]
    text: str


class OutputText(_Request):
    type: Literal["output_text"]
    text: str


class InputImage(_Request):
    type: Literal["input_image"]
    image_url: str | None = None
    detail: Literal["auto", "low", "high", "original"] | None = None


class InputFile(_Request):
    type: Literal["input_file"]
    file_data: str | None = None
    filename: str | None = None


class OtherResponsePart(_Request):
    type: Annotated[str, _unknown(*_RESPONSE_PARTS)]


ResponsePart = Annotated[
    Annotated[InputText, Tag("part-input_text")]
    | Annotated[OutputText, Tag("part-output_text")]
    | Annotated[InputImage, Tag("part-input_image")]
    | Annotated[InputFile, Tag("part-input_file")]
    | Annotated[RefusalPart, Tag("part-refusal")]
    | Annotated[OtherResponsePart, Tag("part-other")],
    _kinds(*_RESPONSE_PARTS),
]


class InputMessage(_Request):
    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[ResponsePart], Field(fail_fast=True)]


class FunctionCall(_Request):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(_Request):
    type: Literal["function_call_output"]
    call_id: str
    output: str | Annotated[list[ResponsePart], Field(fail_fast=True)]


class OtherItem(_Request):
    type: Annotated[str, _unknown("message", "function_call", "function_call_output")]


def _item(value: Any) -> str:
    kind = value.get("type", "message") if isinstance(value, dict) else None
    return f"part-{kind or 'message'}" if kind in (None, "message", *_CALLS) else "part-other"


_CALLS = ("function_call", "function_call_output")

InputItem = Annotated[
    Annotated[InputMessage, Tag("part-message")]
    | Annotated[FunctionCall, Tag("part-function_call")]
    | Annotated[FunctionCallOutput, Tag("part-function_call_output")]
    | Annotated[OtherItem, Tag("part-other")],
    Discriminator(_item),
]


class ResponseFunctionTool(_Request):
    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: Object | None = None
    strict: bool | None = None


class OtherTool(_Request):
    type: Annotated[str, _unknown("function")]


ResponseTool = Annotated[
    Annotated[ResponseFunctionTool, Tag("part-function")] | Annotated[OtherTool, Tag("part-other")], _kinds("function")
]


class Reasoning(_Request):
    effort: Label | None = None
    summary: Label | None = None


class ResponseText(_Request):
    format: Object | None = None
    verbosity: Label | None = None


def _off(value: bool) -> bool:
    if value:
        raise PydanticCustomError("off", "Input should be false: nothing is kept that could be asked for later")
    return value


class ResponsesRequest(_Request):
    model: Name
    input: Annotated[str, Field(min_length=1)] | Annotated[list[InputItem], Field(min_length=1, fail_fast=True)]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), _WHOLE] | None = None
    tools: Annotated[list[ResponseTool], Field(fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Object | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Count | None = None
    text: ResponseText | None = None
    reasoning: Reasoning | None = None
    include: Annotated[list[str], Field(fail_fast=True)] | None = None
    metadata: dict[str, str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    user: str | None = None
    store: bool | None = None
    background: Annotated[bool, AfterValidator(_off), Field(json_schema_extra={"const": False})] | None = None
    previous_response_id: None = None
    conversation: None = None


# Messages

_BLOCKS = ("text", "image", "document", "tool_use", "tool_result", "thinking")


class Source(_Request):
    type: Label


class ImageBlock(_Request):
    type: Literal["image"]
    source: Source


class DocumentBlock(_Request):
    type: Literal["document"]
    source: Source


class ToolUseBlock(_Request):
    type: Literal["tool_use"]
    id: Label | Annotated[str, Field(min_length=1, max_length=256)]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    input: Object


class ToolResultBlock(_Request):
    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1, max_length=256)]
    content: str | Annotated[list[Object], Field(fail_fast=True)] | None = None
    is_error: bool | None = None


class ThinkingBlock(_Request):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class OtherBlock(_Request):
    type: Annotated[str, _unknown(*_BLOCKS)]


Block = Annotated[
    Annotated[TextPart, Tag("part-text")]
    | Annotated[ImageBlock, Tag("part-image")]
    | Annotated[DocumentBlock, Tag("part-document")]
    | Annotated[ToolUseBlock, Tag("part-tool_use")]
    | Annotated[ToolResultBlock, Tag("part-tool_result")]
    | Annotated[ThinkingBlock, Tag("part-thinking")]
    | Annotated[OtherBlock, Tag("part-other")],
    _kinds(*_BLOCKS),
]


class Turn(_Request):
    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(fail_fast=True)]


class AnthropicTool(_Request):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    type: Label | None = None
    description: str | None = None
    input_schema: Object | None = None


class AnthropicToolChoice(_Request):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(_Request):
    type: Label
    budget_tokens: Count | None = None


class AnthropicMetadata(_Request):
    user_id: str | None = None


class CountTokensRequest(_Request):
    model: Name
    messages: Annotated[list[Turn], Field(min_length=1, fail_fast=True)]
    system: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    tools: Annotated[list[AnthropicTool], Field(fail_fast=True)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountTokensRequest):
    max_tokens: Count
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1), _WHOLE] | None = None
    stop_sequences: Annotated[list[str], Field(fail_fast=True)] | None = None
    metadata: AnthropicMetadata | None = None


# Answers


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


class Completion(_Reply):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, Any] | None = None


class ResponsesAnswer(_Reply):
    id: str
    object: Literal["response"]
    model: str
    status: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None = None


class MessagesAnswer(_Reply):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None = None
    usage: dict[str, Any]


class TokenCount(_Reply):
    input_tokens: int


class AnthropicErrorBody(BaseModel):
    type: Literal["error"]
    error: ErrorDetail
    request_id: str


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
