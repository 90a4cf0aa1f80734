# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The caller of one MCP request, as outside servers meet him, and the answers they give, as he meets them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import mcp_types as types
from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import methods
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from mcpstack.common.errors import ApiError
from mcpstack.registry.mcp_exchange import exchange_of
from mcpstack.registry.principal import Principal

log = logging.getLogger(__name__)

Context = ServerRequestContext[Any, Any]

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_LOG_LEVEL = "io.modelcontextprotocol/logLevel"
# What belongs to the connection between the caller and the registry, and is said anew on the one behind it.
_CONNECTION = frozenset(
    f"io.modelcontextprotocol/{name}"
    for name in ("protocolVersion", "clientInfo", "clientCapabilities", "serverInfo", "related-task", "subscriptionId")
)
_QUESTIONS: dict[str, tuple[type[BaseModel], type[BaseModel], str]] = {
    "elicitation/create": (types.ElicitRequest, types.ElicitResult, "elicitation"),
    "sampling/createMessage": (types.CreateMessageRequest, types.CreateMessageResult, "sampling"),
    "roots/list": (types.ListRootsRequest, types.ListRootsResult, "roots"),
}
_ROUNDS = 10  # of questions inside one call
_QUESTIONS_AT_ONCE = 8
_PATIENCE = 300.0  # longest wait for a person to answer
_LONGEST = 2000  # characters of an error of an outside server
_ABOUT_THE_CONNECTION = frozenset(
    (
        types.PARSE_ERROR,
        types.INVALID_REQUEST,
        types.HEADER_MISMATCH,
        types.UNSUPPORTED_PROTOCOL_VERSION,
        types.CONNECTION_CLOSED,
        types.REQUEST_TIMEOUT,
    )
)
UPSTREAM_TROUBLE = -32050  # our own JSON-RPC code: the outside server did not do its part


class RequestCaller:
    """See catalogue.Caller. Lives as long as one request."""

    def __init__(self, context: Context, who: Principal, request_id: str) -> None:
        self._context = context
        self.who = who
        self.request_id = request_id
        raw = (context.params or {}).get("_meta")
        given = dict(raw) if isinstance(raw, Mapping) else {}
        self._wants_progress = given.pop("progressToken", None) is not None
        self.meta: dict[str, Any] = {name: value for name, value in given.items() if name not in _CONNECTION}
        if self._wants_progress:
            # Of our own making: tokens of different callers meet on one connection to an outside server.
            self.meta["progressToken"] = secrets.token_hex(8)
        level = None if self.modern else session_state(context).get("log_level")
        if level is not None:
            self.meta[_LOG_LEVEL] = level

    @property
    def version(self) -> str:
        return self._context.protocol_version

    @property
    def modern(self) -> bool:
        return self.version in MODERN_PROTOCOL_VERSIONS

    @property
    def capabilities(self) -> Mapping[str, Any]:
        declared = self._context.session.client_capabilities
        return {} if declared is None else declared.model_dump(by_alias=True, mode="json", exclude_none=True)

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """What an outside server says while it works. Only what belongs to this request is passed on."""
        session = self._context.session
        try:
            if method == "notifications/progress" and self._wants_progress:
                if params.get("progressToken") == self.meta["progressToken"]:
                    total, message = params.get("total"), params.get("message")
                    await session.report_progress(float(params["progress"]), total, message)
            elif method == "notifications/message" and self._log_level_allows(params.get("level")):
                said = {key: params[key] for key in ("level", "data", "logger") if key in params}
                note = types.LoggingMessageNotification.model_validate({"method": method, "params": said})
                await session.send_notification(note, related_request_id=self._context.request_id)
        except (ValidationError, KeyError, TypeError, ValueError):
            log.debug("a notification of an outside server is dropped", extra={"mcp_method": method[:64]})

    def _log_level_allows(self, level: Any) -> bool:
        wanted = self.meta.get(_LOG_LEVEL)
        if level not in LOG_LEVELS:
            return False
        return wanted in LOG_LEVELS and LOG_LEVELS.index(level) >= LOG_LEVELS.index(wanted)

    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
        kinds = _QUESTIONS.get(method)
        session = self._context.session
        if kinds is None or not session.can_send_request or kinds[2] not in self.capabilities:
            return None
        asked, answered, _ = kinds
        try:
            question = asked.model_validate({"method": method, "params": dict(params)})
            answer = await session.send_request(
                cast(types.ServerRequest, question),
                answered,
                request_read_timeout_seconds=_PATIENCE,
                metadata=ServerMessageMetadata(related_request_id=self._context.request_id),
            )
        except (ValidationError, NoBackChannelError):
            return None
        return answer.model_dump(by_alias=True, mode="json", exclude_none=True)


def session_state(context: Context) -> dict[str, Any]:
    """What is remembered between the requests of one session of the older era (for the newer one: nothing).

    The SDK keeps it for us on the connection, which its context does not show yet (2.3).
    """
    return context.session._connection.state


async def complete(
    caller: RequestCaller, ask: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Ask an outside server; answer its questions for callers of the older era, who cannot get them as a result.

    A caller of the newer era gets `input_required` as it came and comes back with the answers himself.
    """
    for _ in range(_ROUNDS):
        try:
            result = await ask(more)
        except MCPError as error:
            raise _outside(error) from None
        if result.get("resultType") != "input_required" or caller.modern:
            return result
        more = {"inputResponses": await _answers(caller, result.get("inputRequests"))}
        if isinstance(state := result.get("requestState"), str):
            more["requestState"] = state
    raise MCPError(UPSTREAM_TROUBLE, "The outside server keeps asking for more input.")


def _outside(error: MCPError) -> MCPError:
    """An error of an outside server as it came, unless it is about a connection that is not the caller's."""
    code = UPSTREAM_TROUBLE if error.code in _ABOUT_THE_CONNECTION else error.code
    return MCPError(code, error.message[:_LONGEST], error.data)


async def _answers(caller: RequestCaller, questions: Any) -> dict[str, Any]:
    if questions is None:
        return {}
    if not isinstance(questions, dict) or len(questions) > _QUESTIONS_AT_ONCE:
        raise MCPError(UPSTREAM_TROUBLE, "The outside server's questions are not understood.")
    found = {}
    for name, question in questions.items():
        known = isinstance(question, dict) and isinstance(question.get("params", {}), dict)
        answer = await caller.ask(str(question.get("method")), question.get("params", {})) if known else None
        if answer is None:
            method = str(question.get("method"))[:64] if known else "unknown"
            raise MCPError(UPSTREAM_TROUBLE, f"The outside server asks for {method}, which this client does not offer.")
        found[name] = answer
    return found


def done(result: dict[str, Any]) -> dict[str, Any]:
    """The newer era wants to be told that there is nothing to come; what the older one does not know is left out."""
    return {"resultType": "complete", **result}


def checked(method: str, version: str, result: dict[str, Any]) -> dict[str, Any]:
    """A result of an outside server that follows the protocol its caller speaks.

    The SDK would check it as well, and write all of a result it refuses into the log.
    """
    if version not in MODERN_PROTOCOL_VERSIONS:
        result = {key: value for key, value in result.items() if key != "resultType"}
    result = done(result)
    private = method in methods.CACHEABLE_METHODS and version in MODERN_PROTOCOL_VERSIONS
    if private and result["resultType"] == "complete":
        # Who may ask is decided here, so what is given must not be kept for others.
        result = {"ttlMs": 0, **result, "cacheScope": "private"}
    if result.get("resultType", "complete") not in ("complete", "input_required"):
        return result  # a shape an extension defines
    try:
        # Not validate_server_result: at 2026-07-28 any object passes that as an `input_required` result.
        methods.parse_server_result(method, version, result)
    except (ValidationError, KeyError):
        raise MCPError(UPSTREAM_TROUBLE, "The outside server's answer does not follow the protocol.") from None
    return result


def as_rpc_error(error: ApiError, request_id: str) -> MCPError:
    """The same refusal in the words of JSON-RPC."""
    code = types.INVALID_PARAMS if 400 <= error.status < 500 and error.status != 429 else types.INTERNAL_ERROR
    if error.status in (502, 503, 504):
        code = UPSTREAM_TROUBLE
    data = {"code": error.code, "request_id": request_id, "suggestions": list(error.suggestions)}
    return MCPError(code, error.message, data)


async def guarded(ctx: Context, call_next: CallNext) -> HandlerResult:
    """The last safety net: what nobody expected is for our log, and the older era would tell all of it."""
    try:
        return await call_next(ctx)
    except (MCPError, ValidationError):
        raise
    except ApiError as error:
        raise as_rpc_error(error, exchange_of(ctx).request_id) from None
    except Exception:
        exchange = exchange_of(ctx)
        log.exception("unexpected error", extra={"request_id": exchange.request_id, "mcp_method": ctx.method[:64]})
        exchange.log["code"] = "internal_error"
        words = "Something went wrong inside the registry."
        raise as_rpc_error(ApiError("internal_error", words), exchange.request_id) from None


def as_tool_error(error: ApiError, request_id: str) -> dict[str, Any]:
    """The same refusal as a tool's result, which is what a model gets to see and can act on."""
    words = " ".join((error.message, *error.suggestions, f"({error.code}, request {request_id})"))
    return tool_error(words)


def tool_error(words: str) -> dict[str, Any]:
    return done({"content": [{"type": "text", "text": words}], "isError": True})
