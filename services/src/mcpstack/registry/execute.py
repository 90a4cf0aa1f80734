# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calling a tool: may it be called, do the arguments fit, what came back, and a record of it without its contents."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

import psycopg
from psycopg_pool import PoolTimeout

from mcpstack.common.audit import AuditLog
from mcpstack.common.errors import ApiError
from mcpstack.registry import breaker, client, definitions, store
from mcpstack.registry.arguments import ArgumentsError, Checker, SchemaUnusableError, TooComplexError
from mcpstack.registry.catalogue import Caller
from mcpstack.registry.client import Options, RpcError, Upstream, UpstreamError
from mcpstack.registry.outbound_metrics import Metrics
from mcpstack.registry.principal import CALL, Principal
from mcpstack.registry.summarise import Summariser, Summary

log = logging.getLogger(__name__)

Via = Literal["rest", "mcp", "job"]

MAX_ARGUMENTS = 1 << 20
# What may be passed through to a server without a tool in it. Tools are called by `call` only, which checks them.
PASSED_THROUGH = frozenset(
    (
        "completion/complete",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
    )
)
_TROUBLE = (psycopg.Error, PoolTimeout, OSError, ApiError)  # ApiError: what the registry's pool makes of the others
_REFUSED = (psycopg.DataError, psycopg.IntegrityError)
_INVALID_PARAMS = -32602
_METHOD_NOT_FOUND = -32601


class Store(Protocol):
    """What is needed of store.Store."""

    async def resolve(self, public_name: str) -> tuple[store.Server, store.Tool] | None: ...
    async def server(self, server_id: str) -> store.Server | None: ...
    async def record_calls(self, calls: Sequence[store.Call]) -> None: ...
    async def set_breaker(self, server_id: str, until: datetime | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gave: `result` is a CallToolResult as it is on the wire."""

    result: dict[str, Any]
    size: int
    duration_ms: float
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    checker: Checker
    headers: Mapping[tuple[str, ...], str]


class Executor:
    def __init__(
        self,
        tools: Store,
        upstream: Upstream,
        breakers: breaker.Breakers,
        audit: AuditLog,
        metrics: Metrics,
        summariser: Summariser | None = None,
    ) -> None:
        self._store = tools
        self._upstream = upstream
        self._breakers = breakers
        self._audit = audit
        self._metrics = metrics
        self._summariser = summariser
        self._prepared: OrderedDict[str, _Prepared] = OrderedDict()
        self.calls = CallLog(tools, metrics)

    async def call(
        self,
        who: Principal,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        request_id: str,
        via: Via = "rest",
        timeout: float | None = None,
        caller: Caller | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Call an approved tool. ApiError for every refusal and failure; RpcError where the server itself refused.

        `timeout` can only shorten the server's own. `more`: inputResponses and requestState of a call that goes on.
        """
        return await self._recorded(who, server, tool, arguments, request_id, via, timeout, caller, more, None)

    async def call_summarised(
        self,
        who: Principal,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        request_id: str,
        max_tokens: int | None = None,
        via: Via = "rest",
        timeout: float | None = None,
        caller: Caller | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """The same, with the text of the result shortened where it is long; `summary` says what was done."""
        if self._summariser is None:
            raise ApiError("tool_server_refused", "Summaries are not set up here.")
        limit = self._summariser.limit(max_tokens)
        return await self._recorded(who, server, tool, arguments, request_id, via, timeout, caller, more, limit)

    async def request(
        self,
        who: Principal,
        server: str,
        method: str,
        params: Mapping[str, Any],
        *,
        request_id: str,
        caller: Caller | None = None,
    ) -> dict[str, Any]:
        """Another request of the protocol, passed through. Never a tool call: that would go around its approval."""
        _require_scope(who)
        if method not in PASSED_THROUGH:
            raise RpcError(_METHOD_NOT_FOUND, "Method not found")
        code = "ok"
        try:
            row = await self._server(server)
            options = _options(caller, {})
            answer = await self._ask(row, lambda to: self._upstream.request(to, method, params, **options))
        except ApiError as error:
            code = error.code
            raise
        except RpcError:
            code = "rpc_error"
            raise
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        finally:
            self._audit.record(who.id, f"mcp.{method}", server, code, request_id)
        return answer.result

    # A call

    async def _recorded(
        self,
        who: Principal,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        request_id: str,
        via: Via,
        timeout: float | None,
        caller: Caller | None,
        more: Mapping[str, Any] | None,
        limit: int | None,
    ) -> Outcome:
        _require_scope(who)
        started = time.perf_counter()
        canonical = _canonical(arguments)
        target = definitions.public_name(server[:64], tool[:128])
        code, size, summary = "internal_error", 0, None
        self._metrics.calls_in_flight.inc()
        try:
            outcome = await self._call(server, tool, arguments, timeout, caller, more)
            code = "tool_error" if outcome.result.get("isError") is True else "ok"
            size = outcome.size
            if limit is not None and self._summariser is not None:
                result, summary = await self._summariser.shorten(outcome.result, limit, name=target)
                outcome = replace(outcome, result=result, summary=summary)
            return replace(outcome, duration_ms=(time.perf_counter() - started) * 1000)
        except ApiError as error:
            code = error.code
            raise
        except RpcError:
            code = "rpc_error"
            raise
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        finally:
            self._metrics.calls_in_flight.dec()
            duration = time.perf_counter() - started
            self._metrics.call(code, duration)
            self.calls.add(
                store.Call(
                    server_id=_recordable(server, 64),
                    tool=_recordable(tool, 128),
                    subject=who.id,
                    via=via,
                    request_id=_recordable(request_id, 128),
                    status=code,
                    duration_ms=duration * 1000,
                    bytes_in=len(canonical),
                    bytes_out=size,
                    args_hash=hashlib.sha256(canonical).hexdigest(),
                    summarised=summary is not None and summary.summarised,
                    truncated=summary is not None and summary.truncated,
                )
            )
            self._audit.record(who.id, "tool.call", target, code, request_id, canonical)

    async def _call(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        timeout: float | None,
        caller: Caller | None,
        more: Mapping[str, Any] | None,
    ) -> Outcome:
        row, definition = await self._find(server, tool)
        prepared = self._prepare(definition)
        try:
            prepared.checker.check(arguments)
        except ArgumentsError as error:
            message = f"The arguments do not fit the tool: {error}."
            raise ApiError("invalid_arguments", message, param=error.path or None) from None
        except TooComplexError as error:
            raise ApiError("arguments_too_complex", f"The arguments cannot be checked: {error}.") from None
        except SchemaUnusableError as error:
            raise _schema_unusable(error) from None
        hints = definition.annotations or {}
        options = _options(caller, _param_headers(prepared, arguments))
        options["timeout"] = row.call_timeout if timeout is None else min(timeout, row.call_timeout)
        options["retry"] = hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True
        answer = await self._ask(
            row, lambda to: self._upstream.call_tool(to, definition.name, arguments, params=more, **options)
        )
        return Outcome(answer.result, answer.size, 0.0)

    async def _server(self, server: str) -> store.Server:
        row = await self._store.server(server)
        if row is None:
            raise ApiError("tool_not_found", f"There is no server {server[:64]!r}.")
        _require_enabled(row)
        return row

    async def _find(self, server: str, tool: str) -> tuple[store.Server, store.Tool]:
        found = await self._store.resolve(definitions.public_name(server, tool))
        if found is None:
            name = definitions.public_name(server[:64], tool[:128])
            raise ApiError("tool_not_found", f"There is no tool {name!r}.", param="name")
        row, definition = found
        name = definition.public_name
        if definition.status == "quarantined":
            why = "its definition changed" if definition.pending is not None else "it was not approved yet"
            raise ApiError("tool_quarantined", f"The tool {name!r} is held back: {why}.", reason=why)
        if definition.status != "active":
            gone = definition.disabled_by == "sync"
            why = "its server does not list it any more" if gone else "the operator switched it off"
            raise ApiError("tool_disabled", f"The tool {name!r} cannot be used: {why}.", reason=why)
        _require_enabled(row)
        return row, definition

    def _prepare(self, tool: store.Tool) -> _Prepared:
        found = self._prepared.get(tool.def_hash)
        if found is None:
            try:
                found = _Prepared(Checker(tool.input_schema), param_headers(tool.input_schema))
            except SchemaUnusableError as error:
                raise _schema_unusable(error) from None
            self._prepared[tool.def_hash] = found
            while len(self._prepared) > 2048:
                self._prepared.popitem(last=False)
        else:
            self._prepared.move_to_end(tool.def_hash)
        return found

    async def _ask(
        self, row: store.Server, question: Callable[[client.Server], Awaitable[client.Answer]]
    ) -> client.Answer:
        """Ask a server through its breaker, and say its failures in the words of the catalogue."""
        try:
            with self._breakers.attempt(row.id) as attempt:
                try:
                    answer = await question(endpoint(row))
                except UpstreamError as error:
                    if error.server_failed:
                        attempt.failed()
                    raise
                except RpcError:
                    attempt.ok()
                    raise
                attempt.ok()
                return answer
        except breaker.OpenError as error:
            raise ApiError(
                "tool_server_unavailable",
                f"The server {row.id!r} failed several times and is left alone for a while.",
                retry_after=error.retry_after,
                reason="its circuit breaker is open",
            ) from None
        except UpstreamError as error:
            raise as_api_error(error, row.id) from None


_CODES: dict[client.Kind, str] = {
    "unavailable": "tool_server_unavailable",
    "timeout": "tool_timeout",
    "too_large": "tool_result_too_large",
    "protocol": "tool_server_error",
    "refused": "tool_server_refused",
    "blocked": "tool_server_refused",
    "busy": "tool_server_busy",
}


def as_api_error(error: UpstreamError, server_id: str) -> ApiError:
    return ApiError(
        _CODES[error.kind], f"The server {server_id!r} cannot be used: {error.reason}.", reason=error.reason
    )


def refused(error: RpcError, server_id: str) -> ApiError:
    """A JSON-RPC error of a server, for callers that do not speak JSON-RPC. Its words are data: cleaned and short."""
    said = definitions.clean(error.message.replace("\n", " "), 300)
    if error.code == _INVALID_PARAMS:
        return ApiError("invalid_arguments", f"The server {server_id!r} refuses the arguments: {said}")
    return ApiError(
        "tool_server_error", f"The server {server_id!r} answered with an error: {said}", reason=str(error.code)
    )


def endpoint(row: store.Server) -> client.Server:
    """How a server is reached, from its row."""
    if row.url is None or row.transport != "streamable-http":
        raise UpstreamError("refused", "it has no URL that speaks streamable HTTP")
    headers = tuple(sorted(row.headers.items()))
    return client.Server(row.id, row.id, row.url, row.auth_ref, headers, row.call_timeout)


def param_headers(schema: Mapping[str, Any]) -> Mapping[tuple[str, ...], str]:
    """Which arguments go into headers as well (2026-07-28), by their place; SchemaUnusableError where it is wrong."""
    if '"x-mcp-header"' not in json.dumps(schema):
        return {}
    # Late: it brings all of the SDK, which the worker needs for a few tools only.
    from mcp.shared.inbound import find_invalid_x_mcp_header, x_mcp_header_map

    if find_invalid_x_mcp_header(schema) is not None:
        raise SchemaUnusableError("x-mcp-header is not used as the protocol says")
    return x_mcp_header_map(schema)


def _param_headers(prepared: _Prepared, arguments: Mapping[str, Any]) -> dict[str, str]:
    if not prepared.headers:
        return {}
    from mcp.shared.inbound import mcp_param_headers

    return {name.lower(): value for name, value in mcp_param_headers(prepared.headers, arguments).items()}


def _options(caller: Caller | None, headers: Mapping[str, str]) -> Options:
    options: Options = {"headers": headers}
    if caller is not None:
        options["meta"] = caller.meta
        options["capabilities"] = caller.capabilities
        options["on_message"] = _listener(caller)
    return options


def _listener(caller: Caller) -> client.OnMessage:
    async def heard(message: dict[str, Any]) -> dict[str, Any] | None:
        method, params = message.get("method"), message.get("params", {})
        if not isinstance(method, str) or not isinstance(params, dict):
            return None
        if "id" in message:
            return await caller.ask(method, params)
        await caller.notify(method, params)
        return None

    return heard


def _require_scope(who: Principal) -> None:
    if CALL not in who.scopes:
        raise ApiError("insufficient_scope", f"This needs the scope {CALL}.", param=CALL)


def _require_enabled(row: store.Server) -> None:
    if not row.enabled:
        raise ApiError("tool_disabled", f"The server {row.id!r} is switched off.", reason="the server is switched off")


def _schema_unusable(error: SchemaUnusableError) -> ApiError:
    return ApiError("tool_schema_unusable", f"The tool's inputSchema cannot be used: {error}.", reason=str(error))


def _recordable(text: str, limit: int) -> str:
    """A name a client made up, as Postgres can store it."""
    return definitions.visible(text[:limit]) or "-"


def _canonical(arguments: Mapping[str, Any]) -> bytes:
    """The arguments for the hash: the same for another order of names."""
    try:
        text = json.dumps(arguments, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        client.check_characters(text, arguments)
    except (ValueError, TypeError, RecursionError):
        raise ApiError("invalid_arguments", "The arguments are not a JSON object.") from None
    if not isinstance(arguments, Mapping):
        raise ApiError("invalid_arguments", "The arguments must be an object.")
    if len(text) > MAX_ARGUMENTS:
        raise ApiError("request_too_large", f"The arguments may have {MAX_ARGUMENTS} bytes.")
    return text


class CallLog:
    """Records of calls, written in batches: a call does not wait for its record. The queue has a bound."""

    def __init__(self, tools: Store, metrics: Metrics, *, capacity: int = 10_000, every: float = 0.25) -> None:
        self._store = tools
        self._metrics = metrics
        self._capacity = capacity
        self._every = every
        self._queue: deque[store.Call] = deque()
        self._something = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, call: store.Call) -> None:
        if len(self._queue) >= self._capacity:
            self._metrics.call_records_lost.inc()
            return
        self._queue.append(call)
        self._something.set()

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def stop(self, limit: float = 3.0) -> None:
        """Write what is left, for `limit` seconds at most."""
        self._stopping.set()
        self._something.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=limit)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._queue:
            self._metrics.call_records_lost.inc(len(self._queue))
            log.error("records of calls are lost", extra={"number": len(self._queue)})
            self._queue.clear()

    async def _work(self) -> None:
        pause = self._every
        while not (self._stopping.is_set() and not self._queue):
            await self._something.wait()
            self._something.clear()
            try:
                while self._queue:
                    batch = [self._queue[number] for number in range(min(200, len(self._queue)))]
                    await self._write(batch)
                    for _ in batch:
                        self._queue.popleft()
                pause = self._every
            except _TROUBLE as error:
                log.warning("calls cannot be recorded", extra={"reason": type(error).__name__})
                self._something.set()
                pause = min(pause * 2, 10.0)
            if not self._stopping.is_set():
                await _sleep(self._stopping, pause)

    async def _write(self, batch: list[store.Call]) -> None:
        try:
            await self._store.record_calls(batch)
        except _REFUSED:
            # One record that Postgres will not take must not hold up the others.
            for call in batch:
                try:
                    await self._store.record_calls([call])
                except _REFUSED as error:
                    self._metrics.call_records_lost.inc()
                    log.error("a record is refused", extra={"reason": type(error).__name__})  # noqa: TRY400


async def _sleep(until: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await until.wait()


class SharedBreakers:
    """Writes to the server's row when a breaker opens or closes, so that every replica can show it."""

    def __init__(self, tools: Store) -> None:
        self._store = tools
        self._tasks: set[asyncio.Task[None]] = set()

    def changed(self, server_id: str, view: breaker.View) -> None:
        until = datetime.now(UTC) + timedelta(seconds=view.retry_in) if view.state == "open" else None
        if view.state == "open":
            log.warning("a server is left alone", extra={"server": server_id, "seconds": round(view.retry_in, 1)})
        task = asyncio.create_task(self._write(server_id, until))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, server_id: str, until: datetime | None) -> None:
        try:
            await self._store.set_breaker(server_id, until)
        except _TROUBLE as error:
            log.warning("the state of a breaker is not saved", extra={"reason": type(error).__name__})

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
