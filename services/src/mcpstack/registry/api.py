# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The REST interface: routes, error answers, the OpenAPI document. The MCP endpoint is mounted beside it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import AwareDatetime, BaseModel, BeforeValidator
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from mcpstack import __version__
from mcpstack.common import bodies, ssrf
from mcpstack.common.errors import CATALOGUE, ApiError
from mcpstack.registry import definitions, execute, mcp_endpoint, schemas, store, subregistry
from mcpstack.registry.client import RpcError
from mcpstack.registry.observe import observe
from mcpstack.registry.principal import ADMIN, CALL, READ, Principal
from mcpstack.registry.search import Hit
from mcpstack.registry.service import Places, Registry
from mcpstack.registry.store import ConflictError, NotFoundError

_BODIES: tuple[type[BaseModel], ...] = (
    schemas.ServerRequest,
    schemas.NewToolRequest,
    schemas.ToolRequest,
    schemas.FindRequest,
    schemas.CallRequest,
    schemas.ApproveRequest,
)

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)

ServerId = Annotated[str, Path(pattern=schemas.SERVER_ID_PATTERN, max_length=32)]
ToolName = Annotated[str, Path(pattern=schemas.TOOL_NAME_PATTERN, max_length=128)]
EntryName = Annotated[str, Path(pattern=r"^[a-zA-Z0-9./_-]{1,200}$", max_length=200)]
Limit = Annotated[int, Query(ge=1, le=200)]
Moment = Annotated[AwareDatetime, BeforeValidator(lambda text: _rfc3339(text))]


def create_app(registry: Registry) -> ASGIApp:
    """The whole application, ready to be served."""
    public = registry.settings.environment != "production"

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await registry.start()
        async with registry.mcp.run():
            yield
        await registry.stop()

    app = FastAPI(
        title="mcpstack registry",
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
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(NotFoundError, _store_error)
    app.add_exception_handler(ConflictError, _store_error)
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.add_exception_handler(Exception, _unexpected)
    app.state.registry = registry
    # Not include_router, which looks at every route twice for each request. What is asked most comes first.
    for routes in (tools(registry), servers(registry), catalogue(registry), operation(registry)):
        app.router.routes.extend(routes.routes)
    mcp_endpoint.add_routes(app, registry.mcp)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return observe(Places(app), registry)


async def _admit(registry: Registry, request: Request, scope: str) -> Principal:
    """Who is it, may they, are they within their limit."""
    who = await registry.auth.authenticate(request)
    request.state.log["principal"] = who.id
    registry.auth.require(who, (scope,))
    request.state.headers.extend(await registry.admit(who))
    return who


async def _body(registry: Registry, request: Request, model: type[bodies.M]) -> bodies.M:
    settings = registry.settings
    return bodies.parse(await bodies.read(request, settings.max_body_bytes, settings.body_timeout), model)


def _reply(model: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(model.model_dump_json(by_alias=True), status, headers, "application/json")


# OpenAPI

_SECURITY: dict[str, Any] = {"security": [{"apiKey": []}]}
_READS = (400, 401, 403, 429, 500, 503)
_BODY = (400, 401, 403, 408, 413, 429, 500, 503)


def _takes(model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return _SECURITY | {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _answers(model: type[BaseModel] | None, *statuses: int, ok: tuple[int, ...] = (200,)) -> dict[str, Any]:
    found: dict[int | str, dict[str, Any]] = {}
    for status in ok:
        found[status] = {"model": model} if model is not None else {"description": "Done"}
    for status in statuses:
        codes = sorted(code for code, kind in CATALOGUE.items() if kind.status == status)
        found[status] = {"model": schemas.ErrorBody, "description": ", ".join(codes)}
    return {"responses": found, "response_model": None, "status_code": ok[0]}


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        parts = document.setdefault("components", {}).setdefault("schemas", {})
        _, found = models_json_schema(
            [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
        )
        parts.update(found["$defs"])
        for unused in ("HTTPValidationError", "ValidationError"):
            parts.pop(unused, None)
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        document["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = document
    return app.openapi_schema


# Operation


def operation(registry: Registry) -> APIRouter:
    routes = APIRouter(tags=["operation"])

    @routes.get("/health", responses={200: {"model": schemas.Health}}, response_model=None)
    async def health() -> Response:
        """The process answers. Says nothing about what it depends on."""
        return JSONResponse({"status": "ok"})

    @routes.get("/live", responses={200: {"model": schemas.Health}}, response_model=None)
    async def live() -> Response:
        """The same, by the name that orchestrators ask for."""
        return JSONResponse({"status": "ok"})

    @routes.get(
        "/ready",
        responses={200: {"model": schemas.Readiness}, 503: {"model": schemas.Readiness}},
        response_model=None,
    )
    async def ready() -> Response:
        """Can requests be served, and what is missing."""
        status, body = registry.readiness()
        return JSONResponse(body, status_code=status)

    @routes.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return routes


# Servers


def servers(registry: Registry) -> APIRouter:
    routes = APIRouter(tags=["servers"])

    @routes.get("/v1/servers", openapi_extra=_SECURITY, **_answers(schemas.ServerList, *_READS))
    async def list_servers(
        request: Request, after: Annotated[str | None, Query(max_length=64)] = None, limit: Limit = 100
    ) -> Response:
        """Servers by id."""
        who = await _admit(registry, request, READ)
        rows = await registry.store.servers(after=definitions.visible(after or ""), limit=limit + 1)
        counts = await registry.store.tool_counts()
        data = [_server(row, counts, who) for row in rows[:limit]]
        return _reply(schemas.ServerList(data=data, next=data[-1].id if len(rows) > limit else None))

    @routes.post(
        "/v1/servers",
        openapi_extra=_takes(schemas.ServerRequest),
        **_answers(schemas.Server, *_BODY, 409, ok=(201, 200)),
    )
    async def put_server(request: Request) -> Response:
        """Register a server, or change the one with this id. Its tools are fetched soon afterwards."""
        who = await _admit(registry, request, ADMIN)
        spec, document = _spec(registry, await _body(registry, request, schemas.ServerRequest))
        row, created = await registry.store.put_server(spec, document)
        registry.breakers.reset(row.id)
        _audit(registry, request, who, "server.create" if created else "server.change", row.id)
        headers = {"Location": f"/v1/servers/{row.id}"}
        return _reply(_server(row, await registry.store.tool_counts(), who), 201 if created else 200, headers)

    @routes.get("/v1/servers/{id}", openapi_extra=_SECURITY, **_answers(schemas.Server, *_READS, 404))
    async def get_server(request: Request, id: ServerId) -> Response:  # noqa: A002 - the name in the path
        """One server. Where it is and how it is reached is shown to administrators."""
        who = await _admit(registry, request, READ)
        row = await registry.store.server(id)
        if row is None:
            raise NotFoundError(f"There is no server {id!r}.")
        return _reply(_server(row, await registry.store.tool_counts(), who))

    @routes.delete("/v1/servers/{id}", openapi_extra=_SECURITY, **_answers(None, *_READS, 404, ok=(204,)))
    async def delete_server(request: Request, id: ServerId) -> Response:  # noqa: A002
        """Remove a server and its tools."""
        who = await _admit(registry, request, ADMIN)
        if not await registry.store.delete_server(id):
            raise NotFoundError(f"There is no server {id!r}.")
        registry.breakers.reset(id)
        _audit(registry, request, who, "server.delete", id)
        return Response(status_code=204)

    @routes.post("/v1/servers/{id}/sync", openapi_extra=_SECURITY, **_answers(schemas.SyncReport, *_READS, 404))
    async def sync_server(request: Request, id: ServerId) -> Response:  # noqa: A002
        """Fetch the server's tools now. `result` says how it went."""
        who = await _admit(registry, request, ADMIN)
        report = await registry.syncer.sync_server(id, who=who.id, request_id=request.state.request_id)
        if report.changes:
            await registry.index_soon()
        return JSONResponse({"object": "sync", **report.summary()})

    @routes.get("/v1/servers/{id}/diff", openapi_extra=_SECURITY, **_answers(schemas.DifferenceList, *_READS, 404))
    async def diff(request: Request, id: ServerId) -> Response:  # noqa: A002
        """What waits for approval, as differences from what was approved; a new tool is all difference."""
        await _admit(registry, request, ADMIN)
        if await registry.store.server(id) is None:
            raise NotFoundError(f"There is no server {id!r}.")
        rows = await registry.store.tools(server_id=id, status="quarantined", limit=store.TOOLS_PER_SERVER)
        found = [
            schemas.Difference(
                name=row.name, def_hash=row.def_hash, approved_hash=row.approved_hash, diff=store.diff(row)
            )
            for row in rows
        ]
        return _reply(schemas.DifferenceList(data=found))

    @routes.post(
        "/v1/servers/{id}/approve",
        openapi_extra=_takes(schemas.ApproveRequest),
        **_answers(schemas.ApprovedList, *_BODY, 404, 409),
    )
    async def approve(request: Request, id: ServerId) -> Response:  # noqa: A002
        """Let tools be used as their server defines them now. All of them are approved, or none."""
        who = await _admit(registry, request, ADMIN)
        body = await _body(registry, request, schemas.ApproveRequest)
        if await registry.store.server(id) is None:
            raise NotFoundError(f"There is no server {id!r}.")
        hashes = {tool.name: tool.def_hash for tool in body.tools if tool.def_hash is not None}
        done = await registry.store.approve(id, [tool.name for tool in body.tools], hashes)
        for tool in done:
            if tool.changed:
                target = f"{definitions.public_name(id, tool.name)} {tool.def_hash[:16]}"
                _audit(registry, request, who, "tool.approve", target)
        await registry.index_soon()
        return _reply(schemas.ApprovedList(data=[schemas.ApprovedTool(**tool._asdict()) for tool in done]))

    return routes


def _spec(registry: Registry, body: schemas.ServerRequest) -> tuple[store.ServerSpec, dict[str, Any]]:
    document: subregistry.Document | None = None
    if body.server is not None:
        try:
            document = subregistry.read(body.server)
        except definitions.DefinitionError as error:
            raise ApiError("invalid_request", f"{error}.", param="server") from None
    url = body.url or (document.url if document else None)
    if url is not None:
        try:
            registry.settings.outbound_allow.check_url(url)
        except ssrf.Blocked as error:
            raise ApiError("url_not_allowed", f"The URL cannot be used: {error}.", param="url") from None

    def chosen(name: str, default: str) -> str:
        given = getattr(body, name)
        return given if given is not None else getattr(document, name) if document else default

    spec = store.ServerSpec(
        id=body.id,
        name=chosen("name", f"{registry.settings.namespace}/{body.id}"),
        title=chosen("title", ""),
        description=chosen("description", ""),
        version=chosen("version", "0.0.0"),
        url=url,
        auth_ref=body.auth_ref,
        headers=body.headers,
        trust=body.trust,
        enabled=body.enabled,
        call_timeout=body.call_timeout,
        sync_interval=body.sync_interval,
    )
    described = document.document if document else subregistry.make(spec)
    return spec, described | {"name": spec.name, "version": spec.version}


def _server(row: store.Server, counts: dict[str, dict[str, int]], who: Principal) -> schemas.Server:
    found = counts.get(row.id, {})
    tools = schemas.Counts(**{name: found.get(name, 0) for name in schemas.Counts.model_fields})
    values = {name: getattr(row, name) for name in schemas.Server.model_fields if name not in ("object", "tools")}
    if ADMIN not in who.scopes:
        values |= {"url": None, "auth_ref": None, "headers": {}, "last_error": None}
    return schemas.Server(**values, tools=tools)


# Tools


def tools(registry: Registry) -> APIRouter:
    routes = APIRouter(tags=["tools"])

    @routes.get("/v1/tools", openapi_extra=_SECURITY, **_answers(schemas.ToolList, *_READS))
    async def list_tools(
        request: Request,
        server: Annotated[str | None, Query(pattern=schemas.SERVER_ID_PATTERN, max_length=32)] = None,
        status: Annotated[str, Query(pattern="^(active|quarantined|disabled)$")] = "active",
        after: Annotated[str | None, Query(max_length=256)] = None,
        limit: Limit = 100,
    ) -> Response:
        """Tools by name. Those that may not be used, whose text nobody has approved, are for administrators."""
        await _admit(registry, request, READ if status == "active" else ADMIN)
        place = _after(after)
        rows = await registry.store.tools(server_id=server, status=status, after=place, limit=limit + 1)  # type: ignore[arg-type]
        data = [_tool(row) for row in rows[:limit]]
        return _reply(schemas.ToolList(data=data, next=data[-1].public_name if len(rows) > limit else None))

    @routes.post(
        "/v1/tools",
        openapi_extra=_takes(schemas.NewToolRequest),
        **_answers(schemas.Tool, *_BODY, 404, 409, ok=(201,)),
    )
    async def create_tool(request: Request) -> Response:
        """Register a tool by hand that its server does not list."""
        who = await _admit(registry, request, ADMIN)
        body = await _body(registry, request, schemas.NewToolRequest)
        row = await registry.store.create_tool(body.server, _definition(body.name, body))
        _audit(registry, request, who, "tool.create", row.public_name)
        await registry.index_soon()
        return _reply(_tool(row), 201, {"Location": f"/v1/tools/{row.server_id}/{row.name}"})

    @routes.post("/v1/tools/find", openapi_extra=_takes(schemas.FindRequest), **_answers(schemas.Found, *_BODY))
    async def find_tools(request: Request) -> Response:
        """Search for tools by what they do, best first. `mode` says whether vectors were used."""
        await _admit(registry, request, READ)
        body = await _body(registry, request, schemas.FindRequest)
        result = await registry.tools.find(body.query, body.limit, body.server)
        found = {
            "object": "list",
            "mode": result.mode,
            "reason": result.reason,
            "data": [_hit(hit) for hit in result.hits],
        }
        return Response(to_json(found), media_type="application/json")

    @routes.get("/v1/tools/{server}/{name}", openapi_extra=_SECURITY, **_answers(schemas.Tool, *_READS, 404))
    async def get_tool(request: Request, server: ServerId, name: ToolName) -> Response:
        """One tool. Administrators see those that may not be used as well."""
        who = await _admit(registry, request, READ)
        row = await registry.store.tool(server, name)
        if row is None or (row.status != "active" and ADMIN not in who.scopes):
            raise _no_tool(server, name)
        return _reply(_tool(row))

    @routes.put(
        "/v1/tools/{server}/{name}",
        openapi_extra=_takes(schemas.ToolRequest),
        **_answers(schemas.Tool, *_BODY, 404, 409, ok=(200, 201)),
    )
    async def put_tool(request: Request, server: ServerId, name: ToolName) -> Response:
        """Register a tool by hand, or change one that was."""
        who = await _admit(registry, request, ADMIN)
        body = await _body(registry, request, schemas.ToolRequest)
        row, created = await registry.store.put_tool(server, _definition(name, body))
        _audit(registry, request, who, "tool.create" if created else "tool.change", row.public_name)
        await registry.index_soon()
        return _reply(_tool(row), 201 if created else 200)

    @routes.delete("/v1/tools/{server}/{name}", openapi_extra=_SECURITY, **_answers(None, *_READS, 404, ok=(204,)))
    async def delete_tool(request: Request, server: ServerId, name: ToolName) -> Response:
        """Remove a tool; one that its server lists is switched off until somebody approves it again."""
        who = await _admit(registry, request, ADMIN)
        if not await registry.store.delete_tool(server, name):
            raise _no_tool(server, name)
        _audit(registry, request, who, "tool.delete", definitions.public_name(server, name))
        return Response(status_code=204)

    @routes.post(
        "/v1/tools/{server}/{name}/call",
        openapi_extra=_takes(schemas.CallRequest),
        **_answers(schemas.CallReply, *_BODY, 404, 502, 504),
    )
    async def call_tool(request: Request, server: ServerId, name: ToolName) -> Response:
        """Call a tool. `is_error` is the tool's own word; an error status means that there is no result."""
        who = await _admit(registry, request, CALL)
        body = await _body(registry, request, schemas.CallRequest)
        options: dict[str, Any] = {"request_id": request.state.request_id, "via": "rest", "timeout": body.timeout}
        try:
            if body.summarise:
                outcome = await registry.executor.call_summarised(
                    who, server, name, body.arguments, max_tokens=body.max_tokens, **options
                )
            else:
                outcome = await registry.executor.call(who, server, name, body.arguments, **options)
        except RpcError as error:
            raise execute.refused(error, server) from None
        reply = schemas.CallReply(
            server=server,
            name=name,
            is_error=outcome.result.get("isError") is True,
            result=outcome.result,
            duration_ms=round(outcome.duration_ms, 2),
            bytes=outcome.size,
            summary=outcome.summary.flags() if outcome.summary else None,
        )
        return _reply(reply)

    return routes


def _hit(hit: Hit) -> dict[str, Any]:
    """As schemas.FoundTool has it; built by hand, because this is the route that is asked most."""
    return {
        "server": hit.server,
        "name": hit.name,
        "public_name": hit.public_name,
        "title": hit.title,
        "description": hit.description,
        "inputSchema": hit.input_schema,
        "outputSchema": hit.output_schema,
        "annotations": hit.annotations,
        "score": round(hit.score, 6),
    }


def _definition(name: str, body: schemas.ToolRequest) -> definitions.Definition:
    try:
        return definitions.read({"name": name} | body.model_dump(exclude={"server", "name"}, exclude_none=True))
    except definitions.DefinitionError as error:
        raise ApiError("invalid_request", f"{error}.", param=str(error).partition(" ")[0]) from None


def _tool(row: store.Tool) -> schemas.Tool:
    """What waits is shown by the difference only: here is what is in force."""
    return schemas.Tool(
        server=row.server_id,
        name=row.name,
        public_name=row.public_name,
        title=row.title,
        description=row.description,
        inputSchema=row.input_schema,
        outputSchema=row.output_schema,
        annotations=row.annotations,
        status=row.status,
        disabled_by=row.disabled_by,
        source=row.source,
        def_hash=row.def_hash,
        approved_hash=row.approved_hash,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _after(text: str | None) -> tuple[str, str]:
    server, _, name = definitions.visible(text or "").partition(definitions.SEPARATOR)
    return server, name


def _no_tool(server: str, name: str) -> ApiError:
    return ApiError("tool_not_found", f"There is no tool {definitions.public_name(server, name)!r}.", param="name")


# The registry API, v0.1


def catalogue(registry: Registry) -> APIRouter:
    routes = APIRouter(tags=["registry API v0.1"])
    settings = registry.settings
    source = subregistry.Subregistry(registry.database, settings.origin, settings.namespace)
    extra = {} if settings.catalogue_public else _SECURITY

    async def admit(request: Request) -> None:
        if settings.catalogue_public and "authorization" not in request.headers:
            return
        await _admit(registry, request, READ)

    @routes.get("/v0.1/servers", openapi_extra=extra, **_answers(schemas.EntryList, *_READS))
    async def list_entries(
        request: Request,
        cursor: Annotated[str | None, Query(max_length=2048)] = None,
        limit: Annotated[int, Query(ge=1, le=subregistry.LIMIT)] = 30,
        search: Annotated[str | None, Query(max_length=200)] = None,
        updated_since: Annotated[Moment | None, Query()] = None,
        version: Annotated[str | None, Query(max_length=255)] = None,
        include_deleted: Annotated[bool | None, Query()] = None,
    ) -> Response:
        """Servers, page by page."""
        await admit(request)
        page = await source.page(
            cursor=cursor,
            limit=limit,
            search=search,
            updated_since=_moment(updated_since),
            version=version,
            include_deleted=include_deleted,
        )
        return JSONResponse(page)

    @routes.get(
        "/v0.1/servers/{name:path}/versions",
        openapi_extra=extra,
        **_answers(schemas.EntryList, *_READS, 404),
    )
    async def list_versions(request: Request, name: EntryName) -> Response:
        """All versions of one server."""
        await admit(request)
        found = await source.versions(name)
        if found is None:
            raise NotFoundError("There is no server of this name.")
        return JSONResponse(found)

    @routes.get(
        "/v0.1/servers/{name:path}/versions/{version}",
        openapi_extra=extra,
        **_answers(schemas.Entry, *_READS, 404),
    )
    async def get_version(request: Request, name: EntryName, version: Annotated[str, Path(max_length=255)]) -> Response:
        """One version of a server, or its latest one."""
        await admit(request)
        found = await source.version(name, version)
        if found is None:
            raise NotFoundError("There is no server of this name and version.")
        return JSONResponse(found)

    return routes


def _rfc3339(text: object) -> object:
    """Pydantic reads numbers as times as well."""
    if isinstance(text, str) and not _MOMENT.fullmatch(text):
        raise ValueError("it must be a time such as 2026-07-28T00:00:00Z")
    return text


def _moment(given: datetime | None) -> datetime | None:
    """Postgres knows fewer years than ISO 8601; nothing here is that old or that new."""
    if given is None:
        return None
    low, high = datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
    return min(max(given, low), high)


# Errors


def _audit(registry: Registry, request: Request, who: Principal, action: str, target: str) -> None:
    registry.audit.record(who.id, action, target, "ok", request.state.request_id)


_CHECK = ("Check the path.",)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - registered for this class only
    registry: Registry = request.app.state.registry
    registry.metrics.errors.labels(error.code).inc()
    request.state.log["code"] = error.code
    return JSONResponse(error.body(request.state.request_id), status_code=error.status, headers=error.headers)


async def _store_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotFoundError | ConflictError)  # noqa: S101
    return await _api_error(request, ApiError(error.code, str(error)))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    problems = error.errors()
    if any(problem["loc"][0] == "path" for problem in problems):  # nothing can be there
        return await _api_error(request, ApiError("not_found", "There is nothing of this name.", suggestions=_CHECK))
    return await _api_error(request, bodies.invalid([problem | {"loc": problem["loc"][1:]} for problem in problems]))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 405:
        headers = {"Allow": ", ".join(_methods(request))}
        known = ApiError("method_not_allowed", f"{request.method[:16]} is not possible here.", headers=headers)
    else:
        known = ApiError("not_found", "There is nothing at this path.", suggestions=_CHECK)
    return await _api_error(request, known)


def _methods(request: Request) -> list[str]:
    """What is possible at this path; Starlette says what the first of its routes takes, and there may be several."""
    scope = {"type": "http", "path": request.scope["path"], "method": "", "path_params": {}}
    found: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE:
            found |= route.methods or set()
    return sorted(found)


async def _unexpected(request: Request, _: Exception) -> Response:
    """The layer around the application logs it."""
    error = ApiError("internal_error", "Something went wrong inside the registry.")
    return await _api_error(request, error)


async def _client_left(request: Request, _: Exception) -> Response:
    """The client went away while sending; nobody reads this answer."""
    registry: Registry = request.app.state.registry
    registry.metrics.disconnects.labels(request.state.route).inc()
    request.state.log["disconnected"] = True
    return Response(status_code=400)
