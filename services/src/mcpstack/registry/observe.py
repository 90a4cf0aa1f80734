# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outermost layer, plain ASGI: request ids, one log line and the metrics of each request, the last safety net."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpstack.common.errors import ApiError
from mcpstack.registry.service import Registry

log = logging.getLogger("mcpstack.registry.request")

_OPERATION = ("/health", "/live", "/ready", "/metrics", "/openapi.json")
_PLAIN = frozenset(("/v1/servers", "/v1/tools", "/v1/tools/find", "/v0.1/servers", "/mcp", *_OPERATION))
_QUIET = frozenset(("/health", "/live", "/ready", "/metrics"))
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
_METHODS = frozenset(("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"))
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}\Z")


def route_of(path: str) -> str:
    if path in _PLAIN:
        return path
    return next((label for shape, label in _SHAPES if shape.match(path)), "other")


class Observe:
    def __init__(self, app: ASGIApp, registry: Registry) -> None:
        self._app = app
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        registry, metrics = self._registry, self._registry.metrics
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode("ascii") if _REQUEST_ID.match(given) else "req_" + secrets.token_hex(12)
        route = route_of(scope["path"])
        method = scope["method"] if scope["method"] in _METHODS else "other"
        state = scope.setdefault("state", {})
        extra: list[tuple[bytes, bytes]] = []
        fields: dict[str, object] = {}
        state.update(request_id=request_id, route=route, began=began, headers=extra, log=fields)
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *extra,
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        counted = route not in _QUIET
        in_flight = metrics.in_flight.labels(route)
        in_flight.inc()
        if counted:
            registry.enter()
        try:
            if counted and registry.draining:
                extra.append((b"connection", b"close"))
                await send_error(observed, ApiError("shutting_down", "The registry is being restarted."), request_id)
            else:
                await self._app(scope, receive, observed)
        except Exception:
            log.exception("unexpected error", extra={"request_id": request_id, "route": route})
            if not status:
                metrics.errors.labels("internal_error").inc()
                error = ApiError("internal_error", "Something went wrong inside the registry.")
                await send_error(observed, error, request_id)
        finally:
            if counted:
                registry.leave()
            in_flight.dec()
            took = time.monotonic() - began
            label = str(status or 499)
            metrics.requests.labels(route, method, label).inc()
            metrics.duration.labels(route, label).observe(took)
            level = logging.DEBUG if route in _QUIET and status < 500 else logging.INFO
            if log.isEnabledFor(level):
                log.log(
                    level,
                    "request",
                    extra={
                        "request_id": request_id,
                        "method": method,
                        "route": route,
                        "status": int(label),
                        "duration_ms": round(took * 1000, 2),
                        **fields,
                    },
                )


async def send_error(send: Send, error: ApiError, request_id: str) -> None:
    payload = json.dumps(error.body(request_id), separators=(",", ":")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(payload))]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
