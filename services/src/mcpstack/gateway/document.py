# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAPI document: what the framework knows of its routes, and the endpoints of the model servers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from mcpstack.common.errors import CATALOGUE
from mcpstack.gateway import dialects, schemas
from mcpstack.gateway.endpoints import ENDPOINTS, Endpoint

SECURITY: dict[str, Any] = {"security": [{"apiKey": []}]}
_ANTHROPIC_SECURITY: dict[str, Any] = {"security": [{"anthropicKey": []}, {"apiKey": []}]}
_INFERENCE = (400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504)
_REF = "#/components/schemas/{model}"
_EVENT = {  # of a stream, each one
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
_SCHEMES = {
    "apiKey": {"type": "http", "scheme": "bearer"},
    "anthropicKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def answers(model: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route of the framework: its answer, and the errors it can give."""
    found: dict[int | str, dict[str, Any]] = {200: {"model": model}}
    for status in statuses:
        found[status] = {"model": schemas.ErrorBody, "description": _codes(status)}
    return found


def _codes(status: int) -> str:
    return ", ".join(sorted(code for code, kind in CATALOGUE.items() if kind.status == status))


def write(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        for endpoint in ENDPOINTS:
            document["paths"].setdefault(endpoint.path, {})["post"] = _operation(endpoint)
        parts = document.setdefault("components", {}).setdefault("schemas", {})
        models: list[tuple[type[BaseModel], Any]] = [(endpoint.request, "validation") for endpoint in ENDPOINTS]
        models += [(endpoint.answer, "serialization") for endpoint in ENDPOINTS]
        models += [(schemas.ErrorBody, "serialization"), (schemas.AnthropicErrorBody, "serialization")]
        _, found = models_json_schema(models, ref_template=_REF)
        parts.update(found["$defs"])
        for unused in ("HTTPValidationError", "ValidationError"):
            parts.pop(unused, None)
        document["components"]["securitySchemes"] = _SCHEMES
        app.openapi_schema = document
    return app.openapi_schema


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    anthropic = endpoint.dialect is dialects.ANTHROPIC
    error = schemas.AnthropicErrorBody if anthropic else schemas.ErrorBody
    found: dict[str, Any] = {"200": {"description": "The answer", "content": _content(endpoint.answer)}}
    if endpoint.streams:
        found["200"]["content"]["text/event-stream"] = {"schema": _EVENT}
    for status in _INFERENCE:
        found[str(status)] = {"description": _codes(status), "content": _content(error)}
    return {
        "tags": ["anthropic" if anthropic else "openai"],
        "summary": endpoint.about,
        "operationId": endpoint.path.strip("/").replace("/", "_") + "_post",
        "requestBody": {"required": True, "content": _content(endpoint.request)},
        "responses": found,
        **(_ANTHROPIC_SECURITY if anthropic else SECURITY),
    }


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}
