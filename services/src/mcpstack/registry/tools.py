# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the MCP endpoint sees of the registry (catalogue.Catalogue): search, servers, calls, mirrors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp import MCPError

from mcpstack.common.errors import ApiError
from mcpstack.registry.catalogue import Caller, Members, Tool
from mcpstack.registry.client import RpcError
from mcpstack.registry.definitions import SERVER_ID
from mcpstack.registry.execute import Executor, Outcome
from mcpstack.registry.mcp_exchange import current
from mcpstack.registry.metrics import Metrics
from mcpstack.registry.principal import Principal
from mcpstack.registry.search import Result, Searcher
from mcpstack.registry.store import TOOLS_PER_SERVER, Store

_META = "mcpstack/summary"
_SERVERS = 1000


class Tools:
    def __init__(self, store: Store, searcher: Searcher, executor: Executor, metrics: Metrics) -> None:
        self._store = store
        self._searcher = searcher
        self._executor = executor
        self._metrics = metrics

    async def find(self, query: str, limit: int, server: str | None) -> Result:
        result = await self._searcher.find(query, limit=limit, server=server)
        self._metrics.searches.labels(result.mode).inc()
        return result

    async def find_tools(self, who: Principal, query: str, limit: int, server: str | None) -> dict[str, Any]:
        del who  # everybody who may read sees the same tools
        result = await self.find(query, limit, server)
        found: dict[str, Any] = {"mode": result.mode, "tools": [hit.wire for hit in result.hits]}
        return found | ({"reason": result.reason} if result.reason else {})

    async def list_servers(self, who: Principal) -> list[dict[str, Any]]:
        del who
        counts = await self._store.tool_counts()
        return [
            {
                "name": server.id,
                "title": server.title or server.id,
                "description": server.description,
                "status": server.status if server.enabled else "disabled",
                "tools": counts.get(server.id, {}).get("active", 0),
            }
            for server in await self._store.servers(limit=_SERVERS)
        ]

    async def call_tool(
        self,
        who: Principal,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        caller: Caller,
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        try:
            outcome = await self._executor.call(
                who, server, tool, arguments, request_id=_request_id(), via="mcp", caller=caller, more=more
            )
        except RpcError as error:
            raise MCPError(error.code, error.message, error.data) from None
        return outcome.result

    async def call_tool_summarized(
        self,
        who: Principal,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        caller: Caller,
        max_tokens: int | None,
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        try:
            outcome = await self._executor.call_summarised(
                who,
                server,
                tool,
                arguments,
                request_id=_request_id(),
                max_tokens=max_tokens,
                via="mcp",
                caller=caller,
                more=more,
            )
        except RpcError as error:
            raise MCPError(error.code, error.message, error.data) from None
        return with_flags(outcome)

    async def members(self, name: str) -> Members | None:
        if not SERVER_ID.match(name):
            return None
        server = await self._store.server(name)
        if server is None or not server.enabled:
            return None
        rows = await self._store.tools(server_id=name, status="active", limit=TOOLS_PER_SERVER)
        info = server.server_info or {}
        capabilities, instructions = info.get("capabilities"), info.get("instructions")
        return Members(
            name=name,
            tools=tuple(Tool(name, row.name, row.wire) for row in rows),
            mirror=name,
            capabilities=capabilities if isinstance(capabilities, dict) else {},
            # Nobody approves instructions, and a model reads them like any other text of a server.
            instructions=instructions if isinstance(instructions, str) and server.trust == "trusted" else None,
        )

    async def request(
        self, who: Principal, server: str, method: str, params: Mapping[str, Any], caller: Caller
    ) -> dict[str, Any]:
        try:
            return await self._executor.request(who, server, method, params, request_id=_request_id(), caller=caller)
        except RpcError as error:
            raise MCPError(error.code, error.message, error.data) from None


def with_flags(outcome: Outcome) -> dict[str, Any]:
    """The result with what was done to it in its `_meta`."""
    if outcome.summary is None:
        return outcome.result
    meta = outcome.result.get("_meta")
    flags = {_META: outcome.summary.flags()}
    return outcome.result | {"_meta": (meta if isinstance(meta, dict) else {}) | flags}


def _request_id() -> str:
    exchange = current.get()
    if exchange is None:
        raise ApiError("internal_error", "A call came from nowhere.")
    return exchange.request_id
