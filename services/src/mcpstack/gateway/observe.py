# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outermost layer, plain ASGI: request ids, one log line and the metrics of each request, the last safety net."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpstack.common.errors import ApiError
from mcpstack.gateway import dialects
from mcpstack.gateway.endpoints import BY_PATH
from mcpstack.gateway.proxy import send_error
from mcpstack.gateway.service import Gateway

log = logging.getLogger("mcpstack.gateway.request")

_ROUTES = frozenset(
    (*BY_PATH, "/v1/models", "/v1/usage", "/v1/tasks", "/health", "/ready", "/metrics", "/openapi.json")
)
_QUIET = frozenset(("/health", "/ready", "/metrics"))
_METHODS = frozenset(("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"))
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}\Z")


def route_of(path: str) -> str:
    if path in _ROUTES:
        return path
    if path.startswith("/v1/tasks/"):
        return "/v1/tasks/{id}"
    return "/v1/models/{model}" if path.startswith("/v1/models/") else "other"


class Observe:
    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        gateway, metrics = self._gateway, self._gateway.metrics
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

        api = route.startswith("/v1") or route == "other"
        in_flight = metrics.in_flight.labels(route)
        in_flight.inc()
        if api:
            gateway.enter()
        try:
            if api and gateway.draining:
                extra.append((b"connection", b"close"))
                error = ApiError("shutting_down", "The gateway is being restarted.")
                await send_error(observed, error, dialects.of(scope["path"]), request_id)
            else:
                await self._app(scope, receive, observed)
        except Exception:
            log.exception("unexpected error", extra={"request_id": request_id, "route": route})
            if not status:
                metrics.errors.labels("internal_error").inc()
                error = ApiError("internal_error", "Something went wrong inside the gateway.")
                await send_error(observed, error, dialects.of(scope["path"]), request_id)
        finally:
            if api:
                gateway.leave()
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
