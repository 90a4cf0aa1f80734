# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known about an HTTP request before the protocol is looked at: who asks, for what, under which number."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from mcp import MCPError
from mcp.server.context import ServerRequestContext

from mcpstack.registry.catalogue import Members
from mcpstack.registry.principal import Principal

KEY = "mcpstack.exchange"


@dataclass(slots=True)
class Exchange:
    who: Principal
    request_id: str
    members: Members | None = None  # of /mcp/NAME
    log: dict[str, Any] = field(default_factory=dict)  # joins the line the request gets in the log


# For the one question the SDK asks without its context: which input schema a tool has.
current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def exchange_of(context: ServerRequestContext[Any, Any]) -> Exchange:
    """Of the very HTTP request that is being answered, in a session as well."""
    assert context.request is not None  # noqa: S101 - there is no other way in than HTTP
    found: Exchange = context.request.scope[KEY]
    return found


def require(exchange: Exchange, scope: str) -> None:
    if scope not in exchange.who.scopes:
        raise MCPError(types.INVALID_REQUEST, f"This needs the scope {scope}.", {"code": "insufficient_scope"})
