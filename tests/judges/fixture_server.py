# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An outside MCP server that has every tool, prompt and resource the conformance suite asks for.

usage: fixture_server.py PORT [--record FILE]

It answers on 127.0.0.1:PORT/mcp in both protocol eras. --record appends one JSON line for each HTTP request: what
of the caller reached an outside server is a question the tests ask.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import json
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp import MCPError
from mcp.server import Server
from mcp.server.context import ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

Context = ServerRequestContext[Any, Any]
Result = dict[str, Any]
Handler = Callable[[Context, dict[str, Any], "Answers"], Awaitable[Result]]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="
MISSING_CAPABILITY = -32021

TOOLS: dict[str, tuple[Result, Handler]] = {}


class Answers:
    """What a caller came back with."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.given: dict[str, Any] = params.get("inputResponses") or {}
        self.state: str | None = params.get("requestState")

    def content(self, name: str, key: str) -> Any:
        answer = self.given.get(name)
        content = answer.get("content") if isinstance(answer, dict) else None
        return content.get(key) if isinstance(content, dict) else None


def tool(name: str, about: str, properties: Result | None = None, **more: Any) -> Callable[[Handler], Handler]:
    schema: Result = {"type": "object", "properties": properties or {}}
    if required := more.pop("required", None):
        schema["required"] = required
    definition = {"name": name, "description": about, "inputSchema": more.pop("schema", schema), **more}

    def keep(handler: Handler) -> Handler:
        TOOLS[name] = (definition, handler)
        return handler

    return keep


def done(result: Result) -> Result:
    return {"resultType": "complete", **result}


def text(words: str, **more: Any) -> Result:
    return {"content": [{"type": "text", "text": words}], **more}


def constant(name: str, about: str, content: list[Result], **more: Any) -> None:
    @tool(name, about, **more.pop("definition", {}))
    async def answer(_: Context, __: Result, ___: Answers) -> Result:
        return {"content": content, **more}


def embedded(uri: str, kind: str, words: str) -> Result:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": words}}


IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}
constant(
    "test_simple_text", "Returns simple text", [{"type": "text", "text": "This is a simple text response for testing."}]
)
constant("test_image_content", "Returns an image", [IMAGE])
constant("test_audio_content", "Returns audio", [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}])
constant(
    "test_embedded_resource",
    "Returns an embedded resource",
    [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")],
)
constant(
    "test_multiple_content_types",
    "Returns several kinds of content",
    [
        {"type": "text", "text": "Multiple content types test:"},
        IMAGE,
        embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ],
)
constant(
    "test_error_handling",
    "Always fails",
    [{"type": "text", "text": "This tool intentionally returns an error for testing"}],
    isError=True,
)
constant(
    "test_structured",
    "Returns structured content with everything that must survive",
    [
        {
            "type": "text",
            "text": '{"sum":3}',
            "annotations": {"audience": ["user"], "priority": 0.5},
            "_meta": {"a/b": 1},
        }
    ],
    structuredContent={"sum": 3, "text": "käse \u2028 \u0000 end"},
    definition={
        "outputSchema": {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]},
        "annotations": {"readOnlyHint": True},
        "title": "Structured",
    },
    _meta={"vendor.example/kept": {"deep": [1, 2, {"x": None}]}},
)
constant(
    "json_schema_2020_12_tool",
    "Tool with JSON Schema 2020-12 features",
    [{"type": "text", "text": "ok"}],
    definition={
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": {
                "address": {
                    "$anchor": "addressDef",
                    "type": "object",
                    "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
                }
            },
            "properties": {
                "name": {"type": "string"},
                "address": {"$ref": "#/$defs/address"},
                "contactMethod": {"type": "string", "enum": ["phone", "email"]},
                "phone": {"type": "string"},
                "email": {"type": "string"},
            },
            "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
            "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
            "then": {"required": ["phone"]},
            "else": {"required": ["email"]},
            "additionalProperties": False,
        }
    },
)


@tool("test_echo", "Returns its arguments", {"text": {"type": "string"}}, required=["text"])
async def echo(_: Context, arguments: Result, __: Answers) -> Result:
    return text(str(arguments["text"]), structuredContent={"arguments": arguments})


@tool(
    "test_x_mcp_header",
    "Has a parameter that is mirrored into a header",
    {"region": {"type": "string", "x-mcp-header": "Region"}, "count": {"type": "integer"}},
    required=["region"],
)
async def mirrored(context: Context, arguments: Result, _: Answers) -> Result:
    return text(f"{arguments['region']} {context.request.headers.get('mcp-param-region')}")


@tool("test_tool_with_logging", "Sends log messages while it works")
async def logging(context: Context, _: Result, __: Answers) -> Result:
    for number, words in enumerate(("Tool execution started", "Tool processing data", "Tool execution completed")):
        await anyio.sleep(0.05 if number else 0)
        await say(context, "info", words)
    return text("Tool with logging executed successfully")


@tool("test_logging_tool", "Sends a log message at each level")
async def logging_all(context: Context, _: Result, __: Answers) -> Result:
    for level in ("debug", "info", "warning", "error"):
        await say(context, level, f"a message at {level}")
    return text("done")


async def say(context: Context, level: str, words: str) -> None:
    allowed = context.session._allowed_log_levels  # the SDK's own gate; its public method is deprecated
    if level in allowed:
        note = types.LoggingMessageNotification.model_validate(
            {"method": "notifications/message", "params": {"level": level, "data": words, "logger": "fixture"}}
        )
        await context.session.send_notification(note, related_request_id=context.request_id)


@tool("test_tool_with_progress", "Reports progress")
async def progress(context: Context, _: Result, __: Answers) -> Result:
    for done in (0, 50, 100):
        await anyio.sleep(0.05 if done else 0)
        await context.session.report_progress(done, 100, f"{done} of 100")
    return text("Tool with progress executed successfully")


# What needs something of the caller


def form(message: str, properties: Result, required: list[str] | None = None) -> Result:
    schema: Result = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def sampling(words: str, tokens: int = 100) -> Result:
    message = {"role": "user", "content": {"type": "text", "text": words}}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": tokens}}


ROOTS: Result = {"method": "roots/list", "params": {}}


def need(context: Context, **questions: Result) -> Result:
    """An input_required result, for callers that declared what it takes."""
    kinds = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
    missing = {kinds[question["method"]]: {} for question in questions.values()}.keys() - declared(context).keys()
    if missing:
        data = {"requiredCapabilities": {name: {} for name in sorted(missing)}}
        raise MCPError(MISSING_CAPABILITY, f"The client does not offer {', '.join(sorted(missing))}", data)
    return {"resultType": "input_required", "inputRequests": questions}


def declared(context: Context) -> Result:
    found = context.session.client_capabilities
    return {} if found is None else found.model_dump(by_alias=True, mode="json", exclude_none=True)


_SECRET = secrets.token_bytes(32)


def seal(word: str) -> str:
    return f"{word}.{hmac.new(_SECRET, word.encode(), 'sha256').hexdigest()}"


def unseal(state: str | None) -> str:
    word, _, signature = (state or "").rpartition(".")
    if not hmac.compare_digest(signature, seal(word).rpartition(".")[2]):
        raise MCPError(types.INVALID_PARAMS, "requestState fails its integrity check")
    return word


@tool("test_missing_capability", "Needs sampling")
async def missing_capability(context: Context, _: Result, __: Answers) -> Result:
    return need(context, sample=sampling("anything"))


@tool("test_sampling", "Asks the client's model", {"prompt": {"type": "string"}}, required=["prompt"])
async def ask_model(context: Context, arguments: Result, answers: Answers) -> Result:
    answer = answers.given.get("sample")
    if not isinstance(answer, dict):
        return need(context, sample=sampling(arguments["prompt"]))
    return text(f"LLM response: {answer['content']['text']}")


def elicits(name: str, about: str, properties: Result, required: list[str] | None = None, **more: Any) -> None:
    prefix = more.pop("prefix")
    message = more.pop("message", "Please fill in")

    @tool(name, about, **more)
    async def ask(context: Context, arguments: Result, answers: Answers) -> Result:
        answer = answers.given.get("form")
        if not isinstance(answer, dict):
            return need(context, form=form(arguments.get("message", message), properties, required))
        content = json.dumps(answer.get("content", {}))
        return text(f"{prefix}: action={answer.get('action')}, content={content}")


elicits(
    "test_elicitation",
    "Asks the user",
    {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    },
    ["username", "email"],
    prefix="User response",
    schema={"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]},
)
elicits(
    "test_elicitation_sep1034_defaults",
    "Asks with defaults",
    {
        "name": {"type": "string", "description": "User name", "default": "John Doe"},
        "age": {"type": "integer", "description": "User age", "default": 30},
        "score": {"type": "number", "description": "User score", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "description": "Verification status", "default": True},
    },
    prefix="Elicitation completed",
)
_CHOICES = [{"const": f"value{number}", "title": f"{word} Option"} for number, word in ((1, "First"), (2, "Second"))]
_MANY = [{"const": f"value{number}", "title": f"{word} Choice"} for number, word in ((1, "First"), (2, "Second"))]
elicits(
    "test_elicitation_sep1330_enums",
    "Asks with every form of choice",
    {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": [*_CHOICES, {"const": "value3", "title": "Third Option"}]},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {"type": "array", "items": {"anyOf": [*_MANY, {"const": "value3", "title": "Third Choice"}]}},
    },
    prefix="Elicitation completed",
)
elicits("test_streaming_elicitation", "Asks while a stream is open", {"ok": {"type": "boolean"}}, prefix="Streamed")

NAME = form("What is your name?", {"name": {"type": "string"}}, ["name"])
CONFIRM = form("Please confirm", {"ok": {"type": "boolean"}}, ["ok"])


@tool("test_input_required_result_elicitation", "Needs a name")
async def needs_name(context: Context, _: Result, answers: Answers) -> Result:
    name = answers.content("user_name", "name")
    return text(f"Hello, {name}!") if isinstance(name, str) else need(context, user_name=NAME)


@tool("test_input_required_result_sampling", "Needs a sample")
async def needs_sample(context: Context, _: Result, answers: Answers) -> Result:
    answer = answers.given.get("capital_question")
    if not isinstance(answer, dict):
        return need(context, capital_question=sampling("What is the capital of France?"))
    return text(answer["content"]["text"])


@tool("test_input_required_result_list_roots", "Needs the client's roots")
async def needs_roots(context: Context, _: Result, answers: Answers) -> Result:
    answer = answers.given.get("client_roots")
    if not isinstance(answer, dict):
        return need(context, client_roots=ROOTS)
    return text(", ".join(root["uri"] for root in answer["roots"]))


@tool("test_input_required_result_request_state", "Keeps a state with the client")
async def keeps_state(context: Context, _: Result, answers: Answers) -> Result:
    if answers.content("confirm", "ok") is None:
        return need(context, confirm=CONFIRM) | {"requestState": seal("round-1")}
    return text("state-ok" if unseal(answers.state) == "round-1" else "another state")


@tool("test_input_required_result_multiple_inputs", "Needs three things at once")
async def needs_three(context: Context, _: Result, answers: Answers) -> Result:
    if not {"user_name", "greeting", "client_roots"} <= answers.given.keys():
        questions = need(context, user_name=NAME, greeting=sampling("Generate a greeting", 50), client_roots=ROOTS)
        return questions | {"requestState": seal("three")}
    unseal(answers.state)
    return text(f"{answers.content('user_name', 'name')}: all three arrived")


@tool("test_input_required_result_multi_round", "Needs two things one after the other")
async def needs_twice(context: Context, _: Result, answers: Answers) -> Result:
    state = unseal(answers.state) if answers.state else ""
    if state == "round-2" and answers.content("step2", "color") is not None:
        return text(f"Your favorite color is {answers.content('step2', 'color')}")
    if state == "round-1" and answers.content("step1", "name") is not None:
        step = form("Step 2: What is your favorite color?", {"color": {"type": "string"}}, ["color"])
        return need(context, step2=step) | {"requestState": seal("round-2")}
    step = form("Step 1: What is your name?", {"name": {"type": "string"}}, ["name"])
    return need(context, step1=step) | {"requestState": seal("round-1")}


@tool("test_input_required_result_tampered_state", "Refuses a state that was changed")
async def refuses_tampered(context: Context, _: Result, answers: Answers) -> Result:
    if answers.state is None:
        return need(context, confirm=CONFIRM) | {"requestState": seal("sealed")}
    return text(unseal(answers.state))


@tool("test_input_required_result_capabilities", "Asks only for what the client offers")
async def asks_what_is_offered(context: Context, _: Result, answers: Answers) -> Result:
    if answers.given:
        return text(", ".join(sorted(answers.given)))
    offers = declared(context)
    questions = {"name": NAME} if "elicitation" in offers else {}
    questions |= {"sample": sampling("anything")} if "sampling" in offers else {}
    questions |= {"roots": ROOTS} if "roots" in offers else {}
    return need(context, **questions) if questions else text("nothing is offered")


# Prompts and resources

_ARGUMENTS = [
    {"name": "arg1", "description": "First test argument", "required": True},
    {"name": "arg2", "description": "Second test argument", "required": True},
]
PROMPTS = [
    {"name": "test_input_required_result_prompt", "description": "A prompt that needs something of the user"},
    {"name": "test_prompt_with_arguments", "description": "A prompt with arguments", "arguments": _ARGUMENTS},
    {
        "name": "test_prompt_with_embedded_resource",
        "description": "A prompt with a resource in it",
        "arguments": [{"name": "resourceUri", "description": "URI of the resource to embed", "required": True}],
    },
    {"name": "test_prompt_with_image", "description": "A prompt with an image"},
    {"name": "test_simple_prompt", "description": "A simple prompt"},
]
RESOURCES = [
    {"uri": "test://static-binary", "name": "binary", "description": "A static image", "mimeType": "image/png"},
    {"uri": "test://static-text", "name": "text", "description": "A static text", "mimeType": "text/plain"},
    {"uri": "test://watched-resource", "name": "watched", "description": "A watched one", "mimeType": "text/plain"},
]
TEMPLATES = [
    {
        "uriTemplate": "test://template/{id}/data",
        "name": "template",
        "description": "Data by id",
        "mimeType": "application/json",
    }
]


def said(*contents: Result) -> Result:
    return done({"messages": [{"role": "user", "content": content} for content in contents]})


async def get_prompt(context: Context, params: types.GetPromptRequestParams) -> Result:
    given, arguments = params.model_dump(by_alias=True, mode="json"), params.arguments or {}
    if params.name == "test_simple_prompt":
        return said({"type": "text", "text": "This is a simple prompt for testing."})
    if params.name == "test_prompt_with_arguments":
        words = f"Prompt with arguments: arg1='{arguments.get('arg1')}', arg2='{arguments.get('arg2')}'"
        return said({"type": "text", "text": words})
    if params.name == "test_prompt_with_embedded_resource":
        resource = embedded(arguments["resourceUri"], "text/plain", "Embedded resource content for testing.")
        return said(resource, {"type": "text", "text": "Please process the embedded resource above."})
    if params.name == "test_prompt_with_image":
        return said(IMAGE, {"type": "text", "text": "Please analyze the image above."})
    if params.name == "test_input_required_result_prompt":
        wanted = Answers(given).content("user_context", "context")
        if wanted is None:
            message = "What context should the prompt use?"
            return need(context, user_context=form(message, {"context": {"type": "string"}}, ["context"]))
        return said({"type": "text", "text": f"Use this context: {wanted}"})
    raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")


async def read_resource(_: Context, params: types.ReadResourceRequestParams) -> Result:
    uri = str(params.uri)
    content: Result
    if uri == "test://static-text":
        content = {"mimeType": "text/plain", "text": "This is the content of the static text resource."}
    elif uri == "test://watched-resource":
        content = {"mimeType": "text/plain", "text": "This is watched."}
    elif uri == "test://static-binary":
        content = {"mimeType": "image/png", "blob": PNG}
    elif uri.startswith("test://template/") and uri.endswith("/data"):
        number = uri.removeprefix("test://template/").removesuffix("/data")
        data = {"id": number, "templateTest": True, "data": f"Data for ID: {number}"}
        content = {"mimeType": "application/json", "text": json.dumps(data, separators=(",", ":"))}
    else:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})
    # A server that says everybody may keep this: the registry must not repeat it.
    return done({"contents": [{"uri": uri, **content}], "ttlMs": 5000, "cacheScope": "public"})


def listing(key: str, entries: list[Result]) -> Callable[[Context, types.PaginatedRequestParams], Awaitable[Result]]:
    async def answer(_: Context, __: types.PaginatedRequestParams) -> Result:
        return done({key: entries, "ttlMs": 5000, "cacheScope": "public"})

    return answer


async def call_tool(context: Context, params: types.CallToolRequestParams) -> Result:
    if params.name not in TOOLS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    given = params.model_dump(by_alias=True, mode="json", exclude_none=True)
    return done(await TOOLS[params.name][1](context, params.arguments or {}, Answers(given)))


async def complete(_: Context, params: types.CompleteRequestParams) -> Result:
    values = [word for word in ("paris", "park", "party", "test") if word.startswith(params.argument.value)]
    return done({"completion": {"values": values, "total": len(values), "hasMore": False}})


async def accept(_: Context, __: Any) -> Result:
    return {}


def server() -> Server[Any]:
    found: Server[Any] = Server("fixture", version="1.0.0", title="Fixture", instructions="For tests only.")
    add = found.add_request_handler
    tools = [TOOLS[name][0] for name in sorted(TOOLS)]
    add("tools/list", types.PaginatedRequestParams, listing("tools", tools))
    add("tools/call", types.CallToolRequestParams, call_tool)
    add("prompts/list", types.PaginatedRequestParams, listing("prompts", PROMPTS))
    add("prompts/get", types.GetPromptRequestParams, get_prompt)
    add("resources/list", types.PaginatedRequestParams, listing("resources", RESOURCES))
    add("resources/templates/list", types.PaginatedRequestParams, listing("resourceTemplates", TEMPLATES))
    add("resources/read", types.ReadResourceRequestParams, read_resource)
    add("completion/complete", types.CompleteRequestParams, complete)
    add("logging/setLevel", types.SetLevelRequestParams, accept)
    return found


class Recorder:
    def __init__(self, app: Any, path: Path | None) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._path is not None:
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            with self._path.open("a") as handle:
                handle.write(json.dumps({"method": scope["method"], "headers": headers}) + "\n")
        await self._app(scope, receive, send)


def app(record: Path | None = None) -> Any:
    manager = StreamableHTTPSessionManager(server())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    class Endpoint:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await manager.handle_request(scope, receive, send)

    return Recorder(Starlette(routes=[Route("/mcp", Endpoint())], lifespan=lifespan), record)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--record", type=Path)
    arguments = parser.parse_args(argv)
    uvicorn.run(app(arguments.record), host="127.0.0.1", port=arguments.port, log_level="error")
    return 0


if __name__ == "__main__":
    sys.exit(main())
