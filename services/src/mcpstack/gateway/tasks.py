# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Background tasks for the holders of keys: start one, look at it, take it back. A key sees its own tasks only.

The row that says whose task it is and the job are made by one function of the database, in one transaction; this
service may call that function and read that view, and nothing else of the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import psycopg
from fastapi import APIRouter, Request
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from pydantic import BaseModel, Field, RootModel
from starlette.responses import JSONResponse, Response

from mcpstack.common import bodies, database
from mcpstack.common.errors import CATALOGUE, ApiError
from mcpstack.common.secretfile import SecretError
from mcpstack.gateway import schemas
from mcpstack.gateway.admission import admit
from mcpstack.worker import payloads

if TYPE_CHECKING:
    from mcpstack.gateway.service import Gateway

SCOPE = "tasks"
OPEN_LIMIT = 20  # tasks of one key that wait or run

_BODY_LIMIT = 65536
_PATIENCE = 5.5  # seconds: a little more than the waits for a connection and a statement together
_PAGE_LIMIT = 100

_T = TypeVar("_T")
_ID = re.compile(r"task_[0-9a-f]{32}", re.ASCII)
_STATUS = {
    "todo": "queued",
    "doing": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "aborted": "cancelled",
}
_FIELDS = """id, kind, payload, created_at, status, attempts, abort_requested, scheduled_at, reason, message, result,
    started_at, finished_at"""
_ONE = f"SELECT {_FIELDS} FROM jobs.task_status WHERE kid = %s AND id = %s"  # noqa: S608 - no input in it
_PAGE = f"""
SELECT {_FIELDS} FROM jobs.task_status WHERE kid = %(kid)s AND (%(after)s::text IS NULL OR (created_at, id) <
    (SELECT created_at, id FROM jobs.task_status WHERE kid = %(kid)s AND id = %(after)s))
 ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""  # noqa: S608 - no input in it


class _Body(BaseModel, extra="forbid", strict=True):
    pass


class HealthCheckTask(_Body):
    type: Literal["health_check"]
    payload: payloads.HealthCheck = payloads.HealthCheck()


class ModelCacheTask(_Body):
    type: Literal["model_cache"]
    payload: payloads.ModelCache = payloads.ModelCache(files=None, full=False, warm_up=True)


class RegistrySyncTask(_Body):
    type: Literal["registry_sync"]
    payload: payloads.RegistrySync = payloads.RegistrySync(server=None)


class VectorIndexTask(_Body):
    type: Literal["vector_index"]
    payload: payloads.VectorIndex = payloads.VectorIndex()


class TaskRequest(
    RootModel[
        Annotated[HealthCheckTask | ModelCacheTask | RegistrySyncTask | VectorIndexTask, Field(discriminator="type")]
    ]
):
    """A task to start."""


class TaskFailure(BaseModel):
    code: str
    message: str


class Task(BaseModel):
    id: str
    object: Literal["task"]
    type: str
    payload: dict[str, Any]
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    stopping: bool = Field(description="It was asked to stop and has not ended yet")
    attempts: int = Field(description="Runs that have ended")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    next_attempt_at: datetime | None = Field(description="When a task that waits for another run may start")
    result: dict[str, Any] | None
    error: TaskFailure | None = Field(description="Why the last run failed; a queued task is tried again")


class TaskList(BaseModel):
    object: Literal["list"]
    data: list[Task]
    has_more: bool


class TaskStore:
    def __init__(self, gateway: Gateway) -> None:
        settings, secrets = gateway.settings, gateway.secrets
        self._given_up: set[asyncio.Task[None]] = set()
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
            kwargs=lambda: database.parameters(
                settings.db_host,
                settings.db_port,
                settings.db_name,
                settings.tls_ca_file,
                secrets.db_login,
                "mcpstack-gateway-tasks",
            ),
            check=AsyncConnectionPool.check_connection,
            min_size=0,
            max_size=2,
            timeout=2.0,
            max_lifetime=600,
            reconnect_timeout=5,
            open=False,
        )

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        await self._pool.open(wait=False)
        try:
            yield
        finally:
            await self._pool.close(timeout=1.0)

    async def submit(
        self, kid: str, kind: str, payload: dict[str, Any], key: str | None
    ) -> tuple[str, dict[str, Any] | None]:
        """What came of it (see jobs.submit) and the task."""
        server = payload.get("server")
        lock = f"{kind} {server}" if server else None
        return await self._bounded(self._submit(kid, (kid, kind, Jsonb(payload), key, lock, OPEN_LIMIT)))

    async def get(self, kid: str, task_id: str) -> dict[str, Any] | None:
        return await self._bounded(self._get(kid, task_id))

    async def page(self, kid: str, limit: int, after: str | None) -> list[dict[str, Any]]:
        return await self._bounded(self._page({"kid": kid, "limit": limit, "after": after}))

    async def cancel(self, kid: str, task_id: str) -> tuple[str, dict[str, Any] | None]:
        return await self._bounded(self._cancel(kid, task_id))

    async def _bounded(self, work: Coroutine[Any, Any, _T]) -> _T:
        """A server that is frozen ends no statement and answers no cancellation: whoever asks does not wait for it."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task}, timeout=_PATIENCE)
            if task.done():
                return task.result()
        finally:
            if not task.done():
                leaving = asyncio.create_task(database.give_up(task))
                self._given_up.add(leaving)
                leaving.add_done_callback(self._given_up.discard)
        raise _unavailable("it does not answer in time")

    async def _submit(self, kid: str, values: tuple[Any, ...]) -> tuple[str, dict[str, Any] | None]:
        async with self._connection() as conn:
            row = await (await conn.execute("SELECT * FROM jobs.submit(%s, %s, %s, %s, %s, %s)", values)).fetchone()
            assert row is not None  # noqa: S101 - a function with OUT parameters
            outcome, task_id = row
            return outcome, await self._read(conn, kid, task_id) if outcome in ("created", "repeated") else None

    async def _get(self, kid: str, task_id: str) -> dict[str, Any] | None:
        async with self._connection() as conn:
            return await self._read(conn, kid, task_id)

    async def _page(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        async with self._connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_PAGE, values)
            return await cursor.fetchall()

    async def _cancel(self, kid: str, task_id: str) -> tuple[str, dict[str, Any] | None]:
        async with self._connection() as conn:
            row = await (await conn.execute("SELECT jobs.cancel(%s, %s)", (kid, task_id))).fetchone()
            return row[0] if row else "not_found", await self._read(conn, kid, task_id)

    @staticmethod
    async def _read(conn: psycopg.AsyncConnection[Any], kid: str, task_id: str) -> dict[str, Any] | None:
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_ONE, (kid, task_id))
            return await cursor.fetchone()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        try:
            async with self._pool.connection() as conn:
                yield conn
        except (psycopg.Error, PoolTimeout, SecretError, OSError) as error:
            reason = database.reason(error) if isinstance(error, psycopg.Error) else "no connection"
            raise _unavailable(reason) from error


def wire(row: dict[str, Any]) -> dict[str, Any]:
    """A task as clients see it."""
    status = _STATUS[row["status"]]
    failed = row["reason"] is not None and status != "succeeded"
    error = {"code": row["reason"], "message": row["message"] or ""} if failed else None
    waits = status == "queued" and row["scheduled_at"] is not None
    return {
        "id": row["id"],
        "object": "task",
        "type": row["kind"],
        "payload": row["payload"],
        "status": status,
        "stopping": status == "running" and row["abort_requested"],
        "attempts": max(0, row["attempts"]),
        "created_at": row["created_at"].isoformat(),
        "started_at": row["started_at"].isoformat() if row["started_at"] else None,
        "finished_at": row["finished_at"].isoformat() if row["finished_at"] else None,
        "next_attempt_at": row["scheduled_at"].isoformat() if waits else None,
        "result": row["result"] if status == "succeeded" else None,
        "error": error,
    }


def router(gateway: Gateway) -> APIRouter:
    """All of /v1/tasks. The connections open and close with the application that includes it."""
    store = TaskStore(gateway)
    routes = APIRouter(tags=["tasks"], lifespan=lambda _: store.life())

    @routes.post(
        "/v1/tasks",
        status_code=202,
        responses=_answers(202, Task, "It was started.")
        | _answers(200, Task, "It had been started before, with the same Idempotency-Key.")
        | _errors(400, 408, 409, 413, 429),
        response_model=None,
        openapi_extra=_SECURITY | {"requestBody": _request_body(), "parameters": [_IDEMPOTENCY_KEY]},
    )
    async def start(request: Request) -> Response:
        """Start a background task. It is run at least once, later, by a worker."""
        admission = await admit(gateway, request, SCOPE)
        key = _idempotency_key(request)
        raw = await bodies.read(request, _BODY_LIMIT, gateway.settings.body_timeout)
        wanted = bodies.parse(raw, TaskRequest).root
        payload = wanted.payload.model_dump(mode="json", exclude_defaults=True)
        outcome, row = await store.submit(admission.key.kid, wanted.type, payload, key)
        target, arguments = row["id"] if row else None, {"type": wanted.type, "payload": payload}
        gateway.audit.record(admission.key.kid, "task start", target, outcome, request.state.request_id, arguments)
        if outcome == "conflict":
            raise ApiError(
                "idempotency_conflict",
                "Another request was sent with this Idempotency-Key before.",
                param="Idempotency-Key",
            )
        if outcome == "full":
            raise ApiError("task_limit_exceeded", f"{OPEN_LIMIT} tasks of this API key wait or run.")
        if row is None:
            raise ApiError("internal_error", "The task is not there.")
        request.state.log["task"] = row["id"]
        if outcome == "repeated":
            return JSONResponse(wire(row), headers={"Idempotency-Replayed": "true"})
        return JSONResponse(wire(row), status_code=202, headers={"Location": f"/v1/tasks/{row['id']}"})

    @routes.get(
        "/v1/tasks",
        responses=_answers(200, TaskList, "The newest first.") | _errors(400, 429),
        response_model=None,
        openapi_extra=_SECURITY | {"parameters": [_LIMIT, _AFTER]},
    )
    async def listing(request: Request) -> Response:
        """The tasks of this API key. What ended some days ago (the worker's setting) is gone."""
        admission = await admit(gateway, request, SCOPE)
        limit, after = request.query_params.get("limit", "20"), request.query_params.get("after")
        if not re.fullmatch(r"[1-9][0-9]{0,2}", limit, re.ASCII) or int(limit) > _PAGE_LIMIT:
            message = f"limit: a whole number from 1 to {_PAGE_LIMIT} is needed."
            raise ApiError("invalid_request", message, param="limit")
        if after is not None and not _ID.fullmatch(after):
            raise ApiError("invalid_request", "after: the id of a task is needed.", param="after")
        rows = await store.page(admission.key.kid, int(limit) + 1, after)
        data = [wire(row) for row in rows[: int(limit)]]
        return JSONResponse({"object": "list", "data": data, "has_more": len(rows) > int(limit)})

    @routes.get(
        "/v1/tasks/{task_id}",
        responses=_answers(200, Task, "The task.") | _errors(404, 429),
        response_model=None,
        openapi_extra=_SECURITY,
    )
    async def look(request: Request, task_id: str) -> Response:
        """One task of this API key."""
        admission = await admit(gateway, request, SCOPE)
        row = await store.get(admission.key.kid, task_id) if _ID.fullmatch(task_id) else None
        if row is None:
            raise _not_found()
        return JSONResponse(wire(row))

    @routes.delete(
        "/v1/tasks/{task_id}",
        responses=_answers(200, Task, "It will not start, or it was asked to stop.") | _errors(404, 409, 429),
        response_model=None,
        openapi_extra=_SECURITY,
    )
    async def cancel(request: Request, task_id: str) -> Response:
        """Take a task back: one that waits never starts, one that runs is asked to stop and may still succeed."""
        admission = await admit(gateway, request, SCOPE)
        outcome, row = await store.cancel(admission.key.kid, task_id) if _ID.fullmatch(task_id) else ("not_found", None)
        gateway.audit.record(admission.key.kid, "task cancel", task_id, outcome, request.state.request_id)
        if row is None or outcome == "not_found":
            raise _not_found()
        if outcome == "finished":
            raise ApiError("task_finished", f"The task has ended: {_STATUS[row['status']]}.")
        return JSONResponse(wire(row))

    return routes


def _unavailable(reason: str) -> ApiError:
    return ApiError("task_queue_unavailable", "Tasks cannot be used at the moment.", reason=reason)


def _not_found() -> ApiError:
    return ApiError("task_not_found", "This API key has no such task.")


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,255}", key):
        message = "Idempotency-Key: 1 to 255 printable characters without blanks are needed."
        raise ApiError("invalid_request", message, param="Idempotency-Key")
    return key


# OpenAPI

_SECURITY: dict[str, Any] = {"security": [{"apiKey": []}]}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A request that is sent again with the same key starts nothing new",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_LIMIT = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": _PAGE_LIMIT, "default": 20},
}
_AFTER = {
    "name": "after",
    "in": "query",
    "description": "The last id of the page before",
    "schema": {"type": "string", "pattern": "^task_[0-9a-f]{32}$"},
}


def _answers(status: int, model: type[BaseModel], about: str) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": model, "description": about}}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for status in (401, 403, 500, 503, *statuses):
        codes = sorted(code for code, kind in CATALOGUE.items() if kind.status == status)
        found[status] = {"model": schemas.ErrorBody, "description": ", ".join(codes)}
    return found


def _request_body() -> dict[str, Any]:
    """The schema with its parts in place: the framework collects only the models of answers."""
    schema = TaskRequest.model_json_schema()
    parts = schema.pop("$defs")

    def inline(value: Any) -> Any:
        if isinstance(value, list):
            return [inline(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return inline(parts[value["$ref"].rpartition("/")[2]] | {k: v for k, v in value.items() if k != "$ref"})
        return {name: inline(item) for name, item in value.items() if name != "discriminator"}

    return {"required": True, "content": {"application/json": {"schema": inline(schema)}}}
