# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP surface: routes, reading of bodies, error answers, the OpenAPI document."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from mcpstack import __version__
from mcpstack.common.errors import CATALOGUE, ApiError
from mcpstack.gateway import schemas
from mcpstack.common.keys import Key
from mcpstack.gateway.limits import refusal
from mcpstack.gateway.observe import Observe
from mcpstack.gateway.proxy import Answer
from mcpstack.gateway.service import Gateway

_MEMBER = re.compile(r"(str|int|list\[.*\]|dict\[.*\]|literal\[.*\]|constrained-\w+)\Z", re.DOTALL)
_MEMBERS = 1024
_BODIES: tuple[type[BaseModel], ...] = (schemas.ChatCompletionRequest, schemas.EmbeddingsRequest)


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
    if gateway.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(gateway.settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=[
                "Retry-After",
                "X-Request-ID",
                "X-RateLimit-Limit-Requests",
                "X-RateLimit-Remaining-Requests",
                "X-RateLimit-Reset-Requests",
            ],
            max_age=600,
        )
    _routes(app, gateway)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return Observe(app, gateway)


def _routes(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/health", responses={200: {"model": schemas.Health}}, response_model=None, tags=["operation"])
    async def health() -> Response:
        """The process answers. Says nothing about what it depends on."""
        return JSONResponse({"status": "ok"})

    @app.get(
        "/ready",
        responses={200: {"model": schemas.Readiness}, 503: {"model": schemas.Readiness}},
        response_model=None,
        tags=["operation"],
    )
    async def ready() -> Response:
        """Can requests be served, and what is missing."""
        status, body = gateway.readiness()
        return JSONResponse(body, status_code=status)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get(
        "/v1/models",
        responses=_answers(schemas.ModelList, 401, 403, 429, 502, 503, 504),
        response_model=None,
        openapi_extra=_SECURITY,
        tags=["openai"],
    )
    async def list_models(request: Request) -> Response:
        """The models that can be used."""
        await _admit(gateway, request, "models")
        return JSONResponse({"object": "list", "data": await gateway.runner.models()})

    @app.get(
        "/v1/models/{model:path}",
        responses=_answers(schemas.Model, 401, 403, 404, 429, 502, 503, 504),
        response_model=None,
        openapi_extra=_SECURITY,
        tags=["openai"],
    )
    async def get_model(request: Request, model: str) -> Response:
        """One model."""
        await _admit(gateway, request, "models")
        await gateway.runner.require_model(model)
        return JSONResponse(next(entry for entry in await gateway.runner.models() if entry["id"] == model))

    @app.post(
        "/v1/chat/completions",
        response_model=None,
        tags=["openai"],
        responses=_answers(schemas.ChatCompletion, *_INFERENCE, stream=True),
        openapi_extra=_SECURITY | _body(schemas.ChatCompletionRequest),
    )
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation, whole or as a stream of server-sent events."""
        return await _infer(gateway, request, "chat", schemas.ChatCompletionRequest)

    @app.post(
        "/v1/embeddings",
        response_model=None,
        tags=["openai"],
        responses=_answers(schemas.EmbeddingList, *_INFERENCE),
        openapi_extra=_SECURITY | _body(schemas.EmbeddingsRequest),
    )
    async def embeddings(request: Request) -> Response:
        """Turn text into vectors."""
        return await _infer(gateway, request, "embeddings", schemas.EmbeddingsRequest)


async def _admit(gateway: Gateway, request: Request, scope: str) -> Key:
    """Who is it, may they, are they within their limit."""
    key = await gateway.keys.verify(request.headers.get("authorization"))
    request.state.log["kid"] = key.kid
    if scope not in key.scopes:
        raise ApiError("insufficient_scope", f"This API key does not have the scope {scope!r}.", param=scope)
    verdict = await gateway.limiter.take(key.kid, key.rpm)
    request.state.headers.extend(verdict.headers())
    if verdict.degraded:
        request.state.log["ratelimit"] = "local"
        gateway.metrics.degraded.set(1)
    if not verdict.allowed:
        raise refusal(verdict)
    return key


async def _infer(gateway: Gateway, request: Request, scope: str, model: type[BaseModel]) -> Response:
    key = await _admit(gateway, request, scope)
    gateway.limiter.enter(key.kid, key.concurrency)
    try:
        payload = parse(await _read_body(gateway, request), model)
        # Only the bytes are kept while something is awaited: what they hold can take fifty times their space.
        name, stream, body = payload["model"], payload.get("stream") is True, encode(payload)
        del payload
        await gateway.runner.require_model(name)
        request.state.log["model"] = name
        return Answer(
            gateway,
            path=request.url.path,
            body=body,
            stream=stream,
            request_id=request.state.request_id,
            done=lambda: gateway.limiter.leave(key.kid),
        )
    except BaseException:
        gateway.limiter.leave(key.kid)
        raise


async def _read_body(gateway: Gateway, request: Request) -> bytes:
    media, _, parameters = request.headers.get("content-type", "").partition(";")
    if media.strip().lower() != "application/json" or parameters.strip().lower() not in ("", "charset=utf-8"):
        raise ApiError("unsupported_content_type", "The body must be sent as application/json.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError("unsupported_content_type", "The body must be sent without Content-Encoding.")
    limit = gateway.settings.max_body_bytes
    too_large = ApiError("request_too_large", f"The body is larger than {limit} bytes.")
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise too_large
    pieces, size = [], 0
    try:
        async with asyncio.timeout(gateway.settings.body_timeout):
            async for piece in request.stream():
                size += len(piece)
                if size > limit:
                    raise too_large
                pieces.append(piece)
    except TimeoutError:
        seconds = gateway.settings.body_timeout
        raise ApiError(
            "request_timeout", f"The body did not arrive within {seconds:g} s.", headers={"Connection": "close"}
        ) from None
    return b"".join(pieces)


def parse(raw: bytes, model: type[BaseModel]) -> dict[str, Any]:
    """Read and check a body. What is returned is what was checked, and what will be sent on."""
    try:
        payload = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError("invalid_json", f"The body is not valid JSON: {error}.") from None
    if not isinstance(payload, dict):
        raise ApiError("invalid_json", "The body must be a JSON object.")
    _check_members(payload)
    try:
        model.model_validate(payload)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        param = _param(problems[0]["loc"])
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ApiError(
            "invalid_request",
            f"{param}: {problems[0]['msg']}{more}.",
            param=param,
            suggestions=tuple(f"{_param(problem['loc'])}: {problem['msg']}" for problem in problems[:5]),
        ) from None
    return payload


def _check_members(payload: dict[str, Any]) -> None:
    """The model server keeps an object as a list of pairs: reading one with many members takes minutes."""
    waiting: list[Any] = [payload]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if len(value) > _MEMBERS:
                raise ApiError("invalid_request", f"The body holds an object with more than {_MEMBERS} members.")
            value = value.values()
        waiting.extend(item for item in value if isinstance(item, dict | list))


def encode(payload: dict[str, Any]) -> bytes:
    """The body for the model server. Numbers that JSON cannot carry (1e999) are refused like any other bad JSON."""
    try:
        return json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError("invalid_json", "The body holds a number that cannot be represented.") from error


def _param(location: tuple[int | str, ...]) -> str:
    """The path of a field, without the names pydantic gives to the members of a union."""
    return ".".join(str(part) for part in location if not _MEMBER.match(str(part)))[:200]


# Errors


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this class only
    gateway: Gateway = request.app.state.gateway
    gateway.metrics.errors.labels(error.code).inc()
    request.state.log["code"] = error.code
    return JSONResponse(error.body(request.state.request_id), status_code=error.status, headers=error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 405:
        headers = {"Allow": (error.headers or {}).get("Allow", "GET")}
        known = ApiError("method_not_allowed", f"{request.method[:16]} is not possible here.", headers=headers)
    else:
        known = ApiError("not_found", "There is nothing at this path.")
    return await _api_error(request, known)


async def _client_left(request: Request, _: Exception) -> Response:
    """The client went away while sending; nobody reads this answer."""
    gateway: Gateway = request.app.state.gateway
    gateway.metrics.disconnects.labels(request.state.route).inc()
    request.state.log["disconnected"] = True
    return Response(status_code=400)


# OpenAPI

_INFERENCE = (400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504)
_SECURITY: dict[str, Any] = {"security": [{"apiKey": []}]}


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _answers(model: type[BaseModel], *statuses: int, stream: bool = False) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {200: {"model": model}}
    if stream:
        found[200]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    for status in statuses:
        codes = sorted(code for code, kind in CATALOGUE.items() if kind.status == status)
        found[status] = {"model": schemas.ErrorBody, "description": ", ".join(codes)}
    return found


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        parts = document.setdefault("components", {}).setdefault("schemas", {})
        _, bodies = models_json_schema(
            [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
        )
        parts.update(bodies["$defs"])
        for unused in ("HTTPValidationError", "ValidationError"):
            parts.pop(unused, None)
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        document["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = document
    return app.openapi_schema
