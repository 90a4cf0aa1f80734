# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the MCP endpoint needs from the rest of the registry, and nothing more.

The endpoint speaks both protocol eras to callers; what tools there are, and how an outside server is reached, is
behind `Catalogue`. Values that go to or come from an outside server are plain dictionaries as they are on the wire,
so that nothing is lost or added between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mcpstack.registry.principal import Principal

SEPARATOR = "__"


@dataclass(frozen=True, slots=True)
class Tool:
    """One approved tool. `definition` is what the outside server said: inputSchema, description, annotations, ..."""

    server: str
    name: str
    definition: Mapping[str, Any]

    @property
    def full_name(self) -> str:
        return f"{self.server}{SEPARATOR}{self.name}"


@dataclass(frozen=True, slots=True)
class Members:
    """What /mcp/NAME shows.

    NAME is an outside server: `mirror` is that server, its tools keep their own names, and `capabilities` (as the
    server declared them) say which of prompts, resources, completions and logging may be passed through.
    NAME is a named set: `mirror` is None, tools are called server__tool, and there are only tools.
    """

    name: str
    tools: tuple[Tool, ...]
    mirror: str | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    instructions: str | None = None


class Caller(Protocol):
    """Whoever asked, as far as an outside server may talk to him while it works on his request."""

    @property
    def version(self) -> str:
        """Protocol version the caller speaks."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """clientCapabilities the caller declared."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """`_meta` of his request that is meant for the outside server: log level, progress token, trace context."""

    async def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Pass on notifications/progress or notifications/message that belong to the request."""

    async def ask(self, method: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Ask the caller: elicitation/create, sampling/createMessage or roots/list. None when he cannot be asked."""


class Catalogue(Protocol):
    async def find_tools(self, who: Principal, query: str, limit: int, server: str | None) -> dict[str, Any]:
        """{"mode": "hybrid" | "keyword", "tools": [{"name": "server__tool", "description", "inputSchema", ...}]}"""

    async def list_servers(self, who: Principal) -> list[dict[str, Any]]:
        """[{"name", "title", "description", "status", "tools"}], ordered by name."""

    async def call_tool(
        self,
        who: Principal,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        caller: Caller,
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        """A CallToolResult of an approved tool, as it came: checked for its form, counted, recorded.

        `more` is added to the request's parameters: inputResponses and requestState of a call that goes on. The
        result of an outside server that speaks the newer era may be `input_required`.
        mcp.MCPError for an error the outside server gave, ApiError for every other one (tool_not_found, ...).
        """

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
        """A CallToolResult whose text was shortened, with the flags of what was done in `_meta`."""

    async def members(self, name: str) -> Members | None:
        """What /mcp/NAME shows, or None when there is no such server or set."""

    async def request(
        self, who: Principal, server: str, method: str, params: Mapping[str, Any], caller: Caller
    ) -> dict[str, Any]:
        """Any other request of a mirror (prompts/get, resources/read, completion/complete, ...), passed through.

        `params` are the caller's without what belongs to his connection. mcp.MCPError for an error the outside
        server gave, ApiError for every other one.
        """
