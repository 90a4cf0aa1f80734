# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP surface, put together: every part brings its own routes, and this is the list of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp

from mcpstack import __version__
from mcpstack.common.errors import ApiError
from mcpstack.gateway import dialects, document, schemas, tasks, usage
from mcpstack.gateway.admission import admit
from mcpstack.gateway.inference import Inference
from mcpstack.gateway.observe import observe
from mcpstack.gateway.service import Gateway

_EXPOSED = [
    "Retry-After",
    "X-Request-ID",
    "X-RateLimit-Degraded",
    "X-Mcpstack-Cache",
    *(f"X-RateLimit-{what}-{of}" for what in ("Limit", "Remaining", "Reset") for of in ("Requests", "Tokens")),
]


def create_app(gateway: Gateway) -> ASGIApp:
    """The whole application, ready to be served."""
    public = gateway.settings.environment != "production"

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        yield
        await gateway.stop()

    app = FastAPI(
        title="mcpstack gateway",
        version=__version__,
        openapi_url="/openapi.json" if public else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.state.gateway = gateway
    app.include_router(_operation(gateway))
    app.include_router(_models(gateway))
    app.include_router(usage.router(gateway))
    app.include_router(tasks.router(gateway))
    app.openapi = lambda: document.write(app)  # type: ignore[method-assign]
    served: ASGIApp = Inference(app, gateway)
    if gateway.settings.cors_origins:
        served = CORSMiddleware(
            served,
            allow_origins=list(gateway.settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            # The clients of OpenAI and Anthropic send a dozen headers of their own. No cookie is ever read here, so
            # an origin that is allowed to call may send what it likes.
            allow_headers=["*"],
            expose_headers=_EXPOSED,
            max_age=600,
        )
    return observe(served, gateway)


def _operation(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/health", responses={200: {"model": schemas.Health}}, response_model=None)
    async def health() -> Response:
        """The process answers. Says nothing about what it depends on."""
        return JSONResponse({"status": "ok"})

    @router.get(
        "/ready", responses={200: {"model": schemas.Readiness}, 503: {"model": schemas.Readiness}}, response_model=None
    )
    async def ready() -> Response:
        """Can requests be served, and what is missing."""
        status, body = gateway.readiness()
        return JSONResponse(body, status_code=status)

    @router.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _models(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["openai"])

    @router.get(
        "/v1/models",
        responses=document.answers(schemas.ModelList, 401, 403, 429, 500, 502, 503, 504),
        response_model=None,
        openapi_extra=document.SECURITY,
    )
    async def list_models(request: Request) -> Response:
        """The models that can be used."""
        await admit(gateway, request, "models")
        return JSONResponse({"object": "list", "data": await gateway.pool.models()})

    @router.get(
        "/v1/models/{model:path}",
        responses=document.answers(schemas.Model, 401, 403, 404, 429, 500, 502, 503, 504),
        response_model=None,
        openapi_extra=document.SECURITY,
    )
    async def get_model(request: Request, model: str) -> Response:
        """One model."""
        await admit(gateway, request, "models")
        await gateway.pool.require_model(model)
        return JSONResponse(gateway.pool.model(model))

    return router


# Errors


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this class only
    gateway: Gateway = request.app.state.gateway
    gateway.metrics.errors.labels(error.code).inc()
    request.state.log["code"] = error.code
    body = dialects.of(request.url.path).body(error, request.state.request_id)
    return JSONResponse(body, status_code=error.status, headers=error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 405:
        headers = {"Allow": ", ".join(_possible(request))}
        known = ApiError("method_not_allowed", f"{request.method[:16]} is not possible here.", headers=headers)
    else:
        known = ApiError("not_found", "There is nothing at this path.")
    return await _api_error(request, known)


def _possible(request: Request) -> list[str]:
    """The methods of a path: its routes may be several, of different parts."""
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE")
    scopes = {method: {**request.scope, "method": method} for method in methods}
    return [
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    ]


async def _client_left(request: Request, _: Exception) -> Response:
    """The client went away while sending; nobody reads this answer."""
    gateway: Gateway = request.app.state.gateway
    gateway.metrics.disconnects.labels(request.state.route).inc()
    request.state.log["disconnected"] = True
    return Response(status_code=400)
