# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""/mcp: four tools that find and call all the others, so that a model need not be shown a thousand definitions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import mcp_types as types
from mcp import MCPError
from mcp.server import Server
from mcp.server.caching import CacheHint
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mcpstack import __version__
from mcpstack.common.errors import ApiError
from mcpstack.registry.catalogue import SEPARATOR, Catalogue
from mcpstack.registry.mcp_caller import (
    Context,
    RequestCaller,
    as_rpc_error,
    as_tool_error,
    checked,
    complete,
    done,
    guarded,
    tool_error,
)
from mcpstack.registry.mcp_exchange import exchange_of, require
from mcpstack.registry.principal import CALL, READ

INSTRUCTIONS = (
    "A registry of tools of many servers. Use find_tools with a few words for what is to be done, read the inputSchema "
    "of what it returns, then call_tool with the tool's full name (server__tool) and its arguments. "
    "call_tool_summarized shortens long answers."
)
DAY = 24 * 60 * 60 * 1000


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FindTools(_Arguments):
    query: Annotated[str, Field(min_length=1, max_length=1000, description="What is to be done, in a few words")]
    limit: Annotated[int, Field(ge=1, le=50, description="How many tools to return")] = 10
    server: Annotated[str | None, Field(max_length=128, description="Only tools of this server")] = None


class CallTool(_Arguments):
    name: Annotated[str, Field(min_length=1, max_length=256, description="Full name of the tool: server__tool")]
    arguments: Annotated[dict[str, JsonValue], Field(description="Arguments as the tool's inputSchema says")] = {}


class CallToolSummarized(CallTool):
    max_tokens: Annotated[int | None, Field(ge=16, le=32768, description="Answers longer than this are summarized")] = (
        None
    )


class ListServers(_Arguments):
    pass


_OPEN: dict[str, Any] = {"type": "object", "additionalProperties": True}
_FOUND = {
    "type": "object",
    "properties": {
        "mode": {"type": "string", "description": "hybrid, or keyword while no embedding model is up"},
        "tools": {
            "type": "array",
            "items": _OPEN | {"properties": {"name": {"type": "string"}}, "required": ["name"]},
        },
    },
    "required": ["mode", "tools"],
}
_SERVERS = {
    "type": "object",
    "properties": {
        "servers": {
            "type": "array",
            "items": _OPEN | {"properties": {"name": {"type": "string"}}, "required": ["name"]},
        }
    },
    "required": ["servers"],
}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema as a client wants to read it: without titles made from names, without null for what is optional."""

    def tidy(node: Any) -> Any:
        if isinstance(node, list):
            return [tidy(item) for item in node]
        if not isinstance(node, dict):
            return node
        found = {key: tidy(value) for key, value in node.items() if key != "title"}
        options = found.get("anyOf")
        if isinstance(options, list) and {"type": "null"} in options and len(options) == 2:
            del found["anyOf"]
            found = next(option for option in options if option != {"type": "null"}) | found
            found.pop("default", None)
        return found

    found: dict[str, Any] = tidy(model.model_json_schema())
    found.pop("$defs", None)
    found.setdefault("properties", {})
    if "arguments" in found["properties"]:
        found["properties"]["arguments"] |= {"additionalProperties": True}
    return found


def _definitions() -> dict[str, dict[str, Any]]:
    reads = {"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False}
    calls = {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True}
    found = [
        {
            "name": "call_tool",
            "title": "Call a tool",
            "description": "Call a tool of the registry by its full name. The answer is the tool's own, unchanged.",
            "inputSchema": _schema(CallTool),
            "annotations": calls,
        },
        {
            "name": "call_tool_summarized",
            "title": "Call a tool and shorten its answer",
            "description": "Like call_tool; an answer that is longer than max_tokens comes back as a summary.",
            "inputSchema": _schema(CallToolSummarized),
            "annotations": calls,
        },
        {
            "name": "find_tools",
            "title": "Find tools",
            "description": "Search the registry for tools by what they do. Returns full names and input schemas.",
            "inputSchema": _schema(FindTools),
            "outputSchema": _FOUND,
            "annotations": reads,
        },
        {
            "name": "list_servers",
            "title": "List servers",
            "description": "The servers whose tools are in the registry, and whether they answer.",
            "inputSchema": _schema(ListServers),
            "outputSchema": _SERVERS,
            "annotations": reads,
        },
    ]
    return {str(tool["name"]): tool for tool in found}


TOOLS = _definitions()
SCOPE_OF = {"find_tools": READ, "list_servers": READ, "call_tool": CALL, "call_tool_summarized": CALL}


class Front:
    """The handlers. The scopes are checked before a request gets here, and here once more, on what is carried out."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        hint = CacheHint(ttl_ms=DAY, scope="private")
        self.server: Server[Any] = Server(
            "mcpstack-registry",
            version=__version__,
            title="mcpstack tool registry",
            instructions=INSTRUCTIONS,
            cache_hints={"tools/list": hint, "server/discover": hint},
            get_tool_input_schema=lambda name: TOOLS[name]["inputSchema"] if name in TOOLS else None,
        )
        self.server.middleware.append(guarded)
        self.server.add_request_handler("tools/list", types.PaginatedRequestParams, self._list)
        self.server.add_request_handler("tools/call", types.CallToolRequestParams, self._call)

    async def _list(self, context: Context, params: types.PaginatedRequestParams) -> dict[str, Any]:
        if params.cursor is not None:
            raise MCPError(types.INVALID_PARAMS, "There is one page only.")
        return done({"tools": list(TOOLS.values())})

    async def _call(self, context: Context, params: types.CallToolRequestParams) -> dict[str, Any]:
        exchange = exchange_of(context)
        name = params.name
        if name not in TOOLS:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {name[:128]}. There are {', '.join(TOOLS)}.")
        require(exchange, SCOPE_OF[name])
        caller = RequestCaller(context, exchange.who, exchange.request_id)
        try:
            return await self._run(name, params, caller)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            words = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:5])
            return tool_error(f"Wrong arguments: {words}.")
        except ApiError as error:
            exchange.log["code"] = error.code
            if error.code == "internal_error":
                raise as_rpc_error(error, exchange.request_id) from None
            return as_tool_error(error, exchange.request_id)

    async def _run(self, name: str, params: types.CallToolRequestParams, caller: RequestCaller) -> dict[str, Any]:
        arguments = params.arguments or {}
        if name == "find_tools":
            wanted = FindTools.model_validate(arguments)
            return _structured(await self._catalogue.find_tools(caller.who, wanted.query, wanted.limit, wanted.server))
        if name == "list_servers":
            ListServers.model_validate(arguments)
            return _structured({"servers": await self._catalogue.list_servers(caller.who)})
        call = (CallTool if name == "call_tool" else CallToolSummarized).model_validate(arguments)
        server, tool = split(call.name)

        async def ask(more: Mapping[str, Any]) -> dict[str, Any]:
            if isinstance(call, CallToolSummarized):
                return await self._catalogue.call_tool_summarized(
                    caller.who, server, tool, call.arguments, caller, call.max_tokens, more
                )
            return await self._catalogue.call_tool(caller.who, server, tool, call.arguments, caller, more)

        result = await complete(caller, ask, continuation(params))
        return checked("tools/call", caller.version, result)


def split(name: str) -> tuple[str, str]:
    server, separator, tool = name.partition(SEPARATOR)
    if not separator or not server or not tool:
        words = f"{name[:128]!r} is not the full name of a tool: it has the form server__tool."
        raise ApiError("invalid_request", words, param="name", suggestions=("Use find_tools to get full names.",))
    return server, tool


def continuation(params: BaseModel) -> dict[str, Any]:
    """What a caller of the newer era sends to go on with a call that needed more input."""
    found = params.model_dump(by_alias=True, mode="json", exclude_none=True)
    return {name: found[name] for name in ("inputResponses", "requestState") if name in found}


def _structured(found: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    return done({"content": [{"type": "text", "text": text}], "structuredContent": found, "isError": False})
