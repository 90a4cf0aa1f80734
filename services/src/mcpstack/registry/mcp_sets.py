# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""/mcp/NAME: virtual servers that show chosen tools directly.

NAME of an outside server: a mirror of it, with its own tool names and, where it has them, its prompts, resources and
completions. NAME of a set: the tools of several servers as server__tool. Only approved definitions are shown.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import mcp_types as types
from mcp import MCPError
from mcp.server import Server
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcpstack import __version__
from mcpstack.common.errors import ApiError
from mcpstack.registry.catalogue import Catalogue, Members, Tool
from mcpstack.registry.mcp_caller import (
    LOG_LEVELS,
    UPSTREAM_TROUBLE,
    Context,
    RequestCaller,
    as_rpc_error,
    as_tool_error,
    checked,
    complete,
    done,
    guarded,
    session_state,
)
from mcpstack.registry.mcp_exchange import current, exchange_of, require
from mcpstack.registry.mcp_front import continuation
from mcpstack.registry.principal import CALL, READ

PAGE = 250
_FRESH = 30_000  # ms a client may keep a list: an approval or a quarantine shows within this time

# Which capability of the outside server a method belongs to, and the scope it takes.
_PASSED_ON: dict[str, tuple[str, str, type[types.RequestParams]]] = {
    "prompts/list": ("prompts", READ, types.PaginatedRequestParams),
    "prompts/get": ("prompts", CALL, types.GetPromptRequestParams),
    "resources/list": ("resources", READ, types.PaginatedRequestParams),
    "resources/templates/list": ("resources", READ, types.PaginatedRequestParams),
    "resources/read": ("resources", CALL, types.ReadResourceRequestParams),
    "completion/complete": ("completions", CALL, types.CompleteRequestParams),
}
_LEVEL = "logging/setLevel"
_OWN = {_LEVEL: "logging", "tools/list": "tools", "tools/call": "tools"}


def exposed(members: Members) -> dict[str, Tool]:
    """Tools by the name a client calls them by, in the order of a list."""
    named = {(tool.name if members.mirror else tool.full_name): tool for tool in members.tools}
    return dict(sorted(named.items()))


def scope_for(method: str) -> str | None:
    """The scope a method takes; None for what any user of tools may do."""
    if method == "tools/list":
        return READ
    if method == "tools/call":
        return CALL
    return _PASSED_ON[method][1] if method in _PASSED_ON else None


class Sets:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        hint = CacheHint(ttl_ms=_FRESH, scope="private")
        self.server: Server[Any] = Server(
            "mcpstack-registry",
            version=__version__,
            title="mcpstack virtual server",
            cache_hints={"tools/list": hint, "server/discover": hint},
            get_tool_input_schema=_input_schema,
        )
        self.server.add_request_handler("tools/list", types.PaginatedRequestParams, self._list)
        self.server.add_request_handler("tools/call", types.CallToolRequestParams, self._call)
        self.server.add_request_handler("server/discover", types.RequestParams, self._discover)
        self.server.add_request_handler(_LEVEL, types.SetLevelRequestParams, self._set_level)
        for method, (_, _, model) in _PASSED_ON.items():
            self.server.add_request_handler(method, model, self._pass_on)
        self.server.middleware += [guarded, self._as_this_set]

    async def _as_this_set(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """One SDK server stands for all sets: what a set does not have, it does not have here."""
        members = _members(ctx)
        needed = _PASSED_ON[ctx.method][0] if ctx.method in _PASSED_ON else _OWN.get(ctx.method)
        if needed is not None and needed not in capabilities(members, ctx.protocol_version):
            raise MCPError(types.METHOD_NOT_FOUND, "Method not found", ctx.method)
        result = await call_next(ctx)
        if ctx.method == "initialize" and isinstance(result, dict):
            result["capabilities"] = capabilities(members, str(result.get("protocolVersion")))
            if members.instructions:
                result["instructions"] = members.instructions
        return result

    async def _discover(self, context: Context, _: types.RequestParams) -> dict[str, Any]:
        members = _members(context)
        found: dict[str, Any] = {
            "supportedVersions": list(MODERN_PROTOCOL_VERSIONS),
            "capabilities": capabilities(members, context.protocol_version),
        }
        return done(found) | ({"instructions": members.instructions} if members.instructions else {})

    async def _list(self, context: Context, params: types.PaginatedRequestParams) -> dict[str, Any]:
        tools = exposed(_members(context))
        if not tools:
            # A client that is shown nothing would take it for the truth.
            message = (
                "None of the tools may be used: they wait for the approval of an administrator, or are switched off."
            )
            raise MCPError(UPSTREAM_TROUBLE, message, {"code": "no_tools"})
        after = "" if params.cursor is None else _cursor(params.cursor)
        names = [name for name in tools if name > after]
        page = [{**tools[name].definition, "name": name} for name in names[:PAGE]]
        result: dict[str, Any] = {"tools": page}
        if len(names) > PAGE:
            result["nextCursor"] = base64.urlsafe_b64encode(names[PAGE - 1].encode()).decode()
        return done(result)

    async def _call(self, context: Context, params: types.CallToolRequestParams) -> dict[str, Any]:
        exchange = exchange_of(context)
        require(exchange, CALL)
        members = _members(context)
        found = exposed(members).get(params.name)
        if found is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name[:128]}")
        tool = found
        caller = RequestCaller(context, exchange.who, exchange.request_id)

        async def ask(more: Mapping[str, Any]) -> dict[str, Any]:
            arguments = params.arguments or {}
            return await self._catalogue.call_tool(caller.who, tool.server, tool.name, arguments, caller, more)

        try:
            result = await complete(caller, ask, continuation(params))
        except ApiError as error:
            exchange.log["code"] = error.code
            if error.code == "internal_error":
                raise as_rpc_error(error, exchange.request_id) from None
            return as_tool_error(error, exchange.request_id)
        return checked("tools/call", caller.version, result)

    async def _pass_on(self, context: Context, params: types.RequestParams) -> dict[str, Any]:
        exchange, method = exchange_of(context), context.method
        require(exchange, _PASSED_ON[method][1])
        server = _members(context).mirror
        assert server is not None  # noqa: S101 - `_as_this_set` lets nothing else through
        caller = RequestCaller(context, exchange.who, exchange.request_id)
        wanted = params.model_dump(by_alias=True, mode="json", exclude_none=True)
        more = continuation(params)
        plain = {name: value for name, value in wanted.items() if name != "_meta" and name not in more}

        async def ask(more: Mapping[str, Any]) -> dict[str, Any]:
            return await self._catalogue.request(caller.who, server, method, {**plain, **more}, caller)

        try:
            return checked(method, caller.version, await complete(caller, ask, more))
        except ApiError as error:
            exchange.log["code"] = error.code
            raise as_rpc_error(error, exchange.request_id) from None

    async def _set_level(self, context: Context, params: types.SetLevelRequestParams) -> dict[str, Any]:
        """The outside server is told with each request of this session (it may serve many)."""
        if params.level in LOG_LEVELS:
            session_state(context)["log_level"] = params.level
        return {}


def capabilities(members: Members, version: str) -> dict[str, Any]:
    """What this virtual server can do in an era. Nothing is said to change by itself: lists are asked for again."""
    found: dict[str, Any] = {"tools": {}}
    if members.mirror is not None and not members.tools and members.capabilities.get("tools") is None:
        found = {}  # a server without any, and not one whose tools are held back
    if members.mirror is not None:
        kinds = ["prompts", "resources", "completions"]
        if version not in MODERN_PROTOCOL_VERSIONS:
            kinds.append("logging")
        found |= {kind: {} for kind in kinds if members.capabilities.get(kind) is not None}
    return found


def _members(context: Context) -> Members:
    members = exchange_of(context).members
    assert members is not None  # noqa: S101 - the endpoint asked for them before it got here
    return members


def _input_schema(name: str) -> Mapping[str, Any] | None:
    exchange = current.get()
    if exchange is None or exchange.members is None:
        return None
    tool = exposed(exchange.members).get(name)
    return None if tool is None else tool.definition.get("inputSchema")


def _cursor(text: str) -> str:
    try:
        return base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        raise MCPError(types.INVALID_PARAMS, "The cursor is not one of this list.") from None
