# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's routes for the outermost layer, which is common.observe."""

from __future__ import annotations

from starlette.types import ASGIApp, Send

from mcpstack.common.errors import ApiError
from mcpstack.common.observe import Observe
from mcpstack.gateway import dialects
from mcpstack.gateway.endpoints import BY_PATH
from mcpstack.gateway.proxy import send_error
from mcpstack.gateway.service import Gateway

_ROUTES = frozenset(
    (*BY_PATH, "/v1/models", "/v1/usage", "/v1/tasks", "/health", "/ready", "/metrics", "/openapi.json")
)


def route_of(path: str) -> str:
    if path in _ROUTES:
        return path
    if path.startswith("/v1/tasks/"):
        return "/v1/tasks/{id}"
    return "/v1/models/{model}" if path.startswith("/v1/models/") else "other"


def observe(app: ASGIApp, gateway: Gateway) -> ASGIApp:
    return Observe(app, gateway, name="gateway", route_of=route_of, counted=_is_work, send_error=_send_error)


def _is_work(route: str) -> bool:
    return route.startswith("/v1") or route == "other"


async def _send_error(send: Send, error: ApiError, path: str, request_id: str) -> None:
    await send_error(send, error, dialects.of(path), request_id)
