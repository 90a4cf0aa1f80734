# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's routes for the outermost layer, which is common.observe."""

from __future__ import annotations

import json
import re

from starlette.types import ASGIApp, Send

from mcpstack.common.errors import ApiError
from mcpstack.common.observe import QUIET, Observe
from mcpstack.registry.service import Registry

_OPERATION = ("/health", "/live", "/ready", "/metrics", "/openapi.json")
_PLAIN = frozenset(("/v1/servers", "/v1/tools", "/v1/tools/find", "/v0.1/servers", "/mcp", *_OPERATION))
_SHAPES = tuple(
    (re.compile(pattern), label)
    for pattern, label in (
        (r"/mcp/[^/]*\Z", "/mcp/{name}"),
        (r"/\.well-known/oauth-protected-resource(/.*)?\Z", "/.well-known/oauth-protected-resource"),
        (r"/v1/tools/[^/]*/[^/]*\Z", "/v1/tools/{server}/{name}"),
        (r"/v1/tools/[^/]*/[^/]*/call\Z", "/v1/tools/{server}/{name}/call"),
        (r"/v1/servers/[^/]*\Z", "/v1/servers/{id}"),
        (r"/v1/servers/[^/]*/sync\Z", "/v1/servers/{id}/sync"),
        (r"/v1/servers/[^/]*/diff\Z", "/v1/servers/{id}/diff"),
        (r"/v1/servers/[^/]*/approve\Z", "/v1/servers/{id}/approve"),
        (r"/v0\.1/servers/.*/versions/[^/]*\Z", "/v0.1/servers/{name}/versions/{version}"),
        (r"/v0\.1/servers/.*/versions\Z", "/v0.1/servers/{name}/versions"),
    )
)


def route_of(path: str) -> str:
    if path in _PLAIN:
        return path
    return next((label for shape, label in _SHAPES if shape.match(path)), "other")


def observe(app: ASGIApp, registry: Registry) -> ASGIApp:
    return Observe(app, registry, name="registry", route_of=route_of, counted=_is_work, send_error=_send_error)


def _is_work(route: str) -> bool:
    return route not in QUIET


async def _send_error(send: Send, error: ApiError, _: str, request_id: str) -> None:
    await send_error(send, error, request_id)


async def send_error(send: Send, error: ApiError, request_id: str) -> None:
    payload = json.dumps(error.body(request_id), separators=(",", ":")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(payload))]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
