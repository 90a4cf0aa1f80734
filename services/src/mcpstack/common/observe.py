# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outermost layer, plain ASGI: request ids, one log line and the metrics of each request, the last safety net."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from prometheus_client import Gauge
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpstack.common import tracing
from mcpstack.common.errors import ApiError
from mcpstack.common.metrics import HttpMetrics

if TYPE_CHECKING:
    from opentelemetry.trace import Span

QUIET = frozenset(("/health", "/live", "/ready", "/metrics"))
_METHODS = frozenset(("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"))
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}\Z")


class Service(Protocol):
    """What is needed of a service: it knows its requests, so that it can let them end before it stops."""

    @property
    def metrics(self) -> HttpMetrics: ...
    @property
    def draining(self) -> bool: ...
    def enter(self) -> None: ...
    def leave(self) -> None: ...


# (send, error, path, request id): an error as a whole answer, in the form that clients of that path read
SendError = Callable[[Send, ApiError, str, str], Awaitable[None]]


class Observe:
    """Puts into the scope's state: request_id, route, began, headers (more for the answer), log (more for its line)."""

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        *,
        name: str,
        route_of: Callable[[str], str],
        counted: Callable[[str], bool],
        send_error: SendError,
    ) -> None:
        """`counted`: whether a request to this route is work that is refused while the service stops."""
        self._app = app
        self._service = service
        self._name = name
        self._route_of = route_of
        self._counted = counted
        self._send_error = send_error
        self._in_flight: dict[str, Gauge] = {}
        self._log = logging.getLogger(f"mcpstack.{name}.request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = self._route_of(scope["path"])
        method = scope["method"] if scope["method"] in _METHODS else "other"
        if route in QUIET or not tracing.on():
            await self._serve(scope, receive, send, route, method, None)
            return
        with tracing.server(scope["headers"], f"{method} {route}") as span:
            await self._serve(scope, receive, send, route, method, span)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, route: str, method: str, span: Span | None
    ) -> None:
        began = time.monotonic()
        service, metrics, log = self._service, self._service.metrics, self._log
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode("ascii") if _REQUEST_ID.match(given) else "req_" + secrets.token_hex(12)
        path = scope["path"]
        state = scope.setdefault("state", {})
        extra: list[tuple[bytes, bytes]] = []
        fields: dict[str, object] = {}
        state.update(request_id=request_id, route=route, began=began, headers=extra, log=fields)
        status = 0
        if span is not None:
            fields["trace_id"] = tracing.trace_id(span)

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

        counted = self._counted(route)
        in_flight = self._in_flight.get(route)
        if in_flight is None:
            in_flight = self._in_flight[route] = metrics.in_flight.labels(route)
        in_flight.inc()
        if counted:
            service.enter()
        try:
            if counted and service.draining:
                extra.append((b"connection", b"close"))
                error = ApiError("shutting_down", f"The {self._name} is being restarted.")
                await self._send_error(observed, error, path, request_id)
            else:
                await self._app(scope, receive, observed)
        except Exception:
            log.exception("unexpected error", extra={"request_id": request_id, "route": route})
            if not status:
                metrics.errors.labels("internal_error").inc()
                error = ApiError("internal_error", f"Something went wrong inside the {self._name}.")
                await self._send_error(observed, error, path, request_id)
        finally:
            if counted:
                service.leave()
            in_flight.dec()
            took = time.monotonic() - began
            label = str(status or 499)
            metrics.answered(route, method, label, took, fields)
            if span is not None:
                _describe(span, route, method, status, request_id, fields)
            level = logging.DEBUG if route in QUIET and status < 500 else logging.INFO
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


def _describe(span: Span, route: str, method: str, status: int, request_id: str, fields: dict[str, object]) -> None:
    span.set_attributes(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status or 499,
            "mcpstack.request_id": request_id,
        }
    )
    if "kid" in fields:
        span.set_attribute("mcpstack.key", str(fields["kid"]))
    if status >= 500 or "code" in fields:
        tracing.failed(span, fields.get("code", status), status >= 500)
