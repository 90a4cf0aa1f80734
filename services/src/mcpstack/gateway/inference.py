# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the endpoints that a model server answers.

They stand in front of the framework, because it would take as long to find the route as everything else together.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from mcpstack.common.errors import ApiError
from mcpstack.gateway import bodies
from mcpstack.gateway.admission import entering, estimate
from mcpstack.gateway.cache import Again
from mcpstack.gateway.content import conversation
from mcpstack.gateway.endpoints import BY_PATH, Endpoint
from mcpstack.gateway.proxy import Answer, send_error
from mcpstack.gateway.service import Gateway


class Inference:
    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = BY_PATH.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        try:
            answer = await self._prepare(endpoint, Request(scope, receive))
        except ApiError as error:
            self._gateway.metrics.errors.labels(error.code).inc()
            state["log"]["code"] = error.code
            await send_error(send, error, endpoint.dialect, state["request_id"])
        except ClientDisconnect:  # while sending its body; nobody reads this answer
            self._gateway.metrics.disconnects.labels(state["route"]).inc()
            state["log"]["disconnected"] = True
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await answer(scope, receive, send)

    async def _prepare(self, endpoint: Endpoint, request: Request) -> ASGIApp:
        if request.method != "POST":
            message = f"{request.method[:16]} is not possible here."
            raise ApiError("method_not_allowed", message, headers={"Allow": "POST"})
        gateway, settings = self._gateway, self._gateway.settings
        async with await entering(gateway, request, endpoint.scope) as admission:
            raw = await bodies.read(request, settings.max_body_bytes, settings.body_timeout)
            payload = bodies.parse(raw, endpoint.request)
            # Only the bytes are kept while something is awaited: what they hold can take fifty times their space.
            name, stream = payload["model"], endpoint.streams and payload.get("stream") is True
            show_usage = not (stream and endpoint.dialect.asks_for_usage) or _asks_for_usage(payload)
            body = bodies.encode(payload)
            guess = estimate(endpoint.path, payload, len(body))
            cached = gateway.cache.name(admission.key, endpoint.path, payload)
            content = conversation(gateway.settings, payload)
            del raw, payload
            await gateway.pool.require_model(name)
            request.state.log["model"] = name
            if cached is not None:
                found = await gateway.cache.get(cached)
                result = "miss" if found is None else "hit"
                request.state.headers.append((b"x-mcpstack-cache", result.encode()))
                request.state.log["cache"] = result
                gateway.metrics.cache.labels(result).inc()
                if found is not None:
                    await admission.count()
                    if content is not None:
                        content.answered(found)
                        content.write(request.state.request_id, admission.key.kid, name)
                    return Again(found)
            return Answer(
                gateway,
                endpoint,
                model=name,
                body=body,
                stream=stream,
                show_usage=show_usage,
                reservation=await admission.reserve(name, guess),
                keep=partial(gateway.cache.put, cached) if cached is not None else None,
                content=content,
            )


def _asks_for_usage(payload: dict[str, Any]) -> bool:
    """Does the client want to see the usage of its stream? The gateway wants it in any case, and asks for it."""
    options = payload.get("stream_options") or {}
    payload["stream_options"] = {**options, "include_usage": True}
    return options.get("include_usage") is True
