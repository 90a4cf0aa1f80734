# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The MCP endpoint: /mcp and /mcp/NAME, both protocol eras, behind host names, credentials, scopes and a body limit.

What is checked before the SDK sees a request: Host and Origin, who asks, whether he may, how large the body is. What
the SDK does: the protocol, including that Mcp-Method, Mcp-Name and the version say the same as the body.

/mcp keeps nothing between requests in either era, so that any replica can answer any of them. /mcp/NAME keeps a
session for clients of the older era: an outside server may have to ask them something.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from mcp.server import Server
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, AuthorizationContext
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http import StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from mcpstack.common.errors import ApiError
from mcpstack.registry import mcp_front, mcp_sets
from mcpstack.registry.auth import WELL_KNOWN, Authenticator
from mcpstack.registry.catalogue import Catalogue, Members, Tool
from mcpstack.registry.mcp_exchange import KEY, Exchange, current
from mcpstack.registry.mcp_settings import LOOPBACK, McpSettings
from mcpstack.registry.principal import CALL, READ, SCOPES, Principal

log = logging.getLogger(__name__)

# Called with everybody who was let in: rate limits. Raises ApiError, or returns headers for the answer.
Admit = Callable[[Principal], Awaitable[list[tuple[bytes, bytes]]]]

_EXPOSED = [
    (
        b"access-control-expose-headers",
        b"Mcp-Session-Id, WWW-Authenticate, Retry-After, X-Request-ID, X-RateLimit-Limit-Requests, "
        b"X-RateLimit-Remaining-Requests, X-RateLimit-Reset-Requests",
    )
]
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "POST, GET, DELETE",
    # Parameters of tools travel in headers whose names are theirs to choose, so all but the credential go by "*".
    "Access-Control-Allow-Headers": "Authorization, *",
    "Access-Control-Max-Age": "600",
}
_MOMENT, _KEPT = 1.0, 256
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)
_METHODS = re.compile(r"[A-Za-z0-9_/]{1,64}", re.ASCII)
_TOOL = re.compile(r"[\x21-\x7e]{1,192}", re.ASCII)


class _Sessions(StreamableHTTPSessionManager):
    """Sessions of the older era, with a share for each caller of its own: nobody can take all of them."""

    def __init__(self, app: Server[Any], each: int, **options: Any) -> None:
        super().__init__(app, **options)
        self._each = each

    def _admit_session(self, requestor: AuthorizationContext | None) -> StreamableHTTPServerTransport | None:
        if sum(owner == requestor for owner in self._session_owners.values()) >= self._each:
            return None
        return super()._admit_session(requestor)


class McpEndpoint:
    def __init__(
        self,
        settings: McpSettings,
        authenticator: Authenticator,
        catalogue: Catalogue,
        admit: Admit | None = None,
    ) -> None:
        self._settings = settings
        self._auth = authenticator
        self._catalogue = catalogue
        self._admit = admit
        self._drained = asyncio.Event()
        self._kept: dict[str, tuple[float, Members]] = {}
        for library in ("mcp", "sse_starlette"):
            # They say what the request's own line says, and session ids with it.
            logging.getLogger(library).setLevel(logging.ERROR)
        self._names = frozenset(settings.server_names)
        self._origins = frozenset(origin.lower() for origin in (*settings.mcp_origins, settings.origin))
        self._front = StreamableHTTPSessionManager(
            mcp_front.Front(catalogue).server, stateless=True, max_request_body_size=settings.mcp_max_body_bytes
        )
        self._sets = _Sessions(
            mcp_sets.Sets(catalogue).server,
            settings.mcp_max_sessions_each,
            max_sessions=settings.mcp_max_sessions,
            session_idle_timeout=settings.mcp_session_idle,
            max_request_body_size=settings.mcp_max_body_bytes,
        )

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Around the life of the application; once for each endpoint."""
        async with self._front.run(), self._sets.run():
            yield

    def drain(self) -> None:
        """The process is about to stop: let go of who only listens."""
        self._drained.set()

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # RFC 9110: blanks around a value are no part of it. One parser cuts them off, the other does not.
        scope = {**scope, "headers": [(name, value.strip(b" \t")) for name, value in scope["headers"]]}
        request = Request(scope, receive)
        await self._serve(request, receive, send)

    async def _serve(self, request: Request, receive: Receive, send: Send) -> None:
        scope = request.scope
        fields = scope.get("state", {}).get("log", {})
        answer = scope.setdefault("state", {}).setdefault("headers", [])  # what every answer to this request carries
        origin = self.check_host(request)
        if origin is not None:
            answer += [(b"access-control-allow-origin", origin.encode()), (b"vary", b"Origin"), *_EXPOSED]
            if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
                # A browser asks whether it may, without a credential.
                await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, send)
                return
        path = scope["path"]
        name = path.removeprefix("/mcp").removeprefix("/")
        if name and not NAME.fullmatch(name):
            raise ApiError("not_found", "There is nothing at this path.")
        modern = request.headers.get("mcp-protocol-version") in MODERN_PROTOCOL_VERSIONS
        allowed = ("POST", "GET", "DELETE") if name and not modern else ("POST",)
        if request.method not in allowed:
            headers = {"Allow": ", ".join(allowed)}
            raise ApiError("method_not_allowed", f"{request.method[:16]} is not possible here.", headers=headers)
        who = await self._auth.authenticate(request, path)
        fields["principal"] = who.id
        if not who.scopes.intersection((READ, CALL)):
            self._auth.require(who, (READ,), path)
        if self._admit is not None:
            answer += await self._admit(who)
        members = await self._members(name) if name else None
        if request.method == "POST":
            body = await self._body(request)
            self._check_scope(who, path, *_asked(body, fields))
            receive = _replay(body, receive)
        exchange = Exchange(who, _request_id(scope), members, fields)
        # The credential goes no further than this: neither the SDK nor anybody behind it gets to see it.
        inner = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"authorization"], KEY: exchange}
        inner["user"] = _user(who)
        manager = self._sets if name else self._front
        token = current.set(exchange)
        try:
            await self._until_drained(request, manager.handle_request(inner, receive, send))
        finally:
            current.reset(token)

    async def _until_drained(self, request: Request, answer: Coroutine[Any, Any, None]) -> None:
        """A stream that a client of the older era keeps open to listen has no end of its own."""
        if request.method != "GET":
            await answer
            return
        task, drained = asyncio.create_task(answer), asyncio.create_task(self._drained.wait())
        try:
            await asyncio.wait((task, drained), return_when=asyncio.FIRST_COMPLETED)
        finally:
            drained.cancel()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _members(self, name: str) -> Members:
        chosen = self._settings.mcp_sets.get(name)
        if chosen is None:
            members = await self._shown(name)
        else:
            parts = {server: await self._shown(server) for server in chosen}
            members = _chosen(name, chosen, parts) if any(parts.values()) else None
        if members is None:
            suggestions = ("Use /mcp, which finds tools of all servers.", "list_servers names the servers.")
            raise ApiError("not_found", "There is no server and no set of this name.", suggestions=suggestions)
        return members

    async def _shown(self, server: str) -> Members | None:
        """What a server shows, kept for a moment. Whether a tool may be called is asked anew with each call."""
        known = self._kept.get(server)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        members = await self._catalogue.members(server)
        if members is None:
            self._kept.pop(server, None)
            return None
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[server] = (time.monotonic() + _MOMENT, members)
        return members

    def check_host(self, request: Request) -> str | None:
        """Against web sites that had their own name resolve to this server (DNS rebinding); the origin, if any."""
        self._check_name(request)
        given = request.headers.getlist("origin")
        if given and not (len(given) == 1 and self._own(given[0].lower())):
            raise ApiError("origin_not_allowed", "This web site may not use the tools.")
        return given[0] if given else None

    def _check_name(self, request: Request) -> None:
        if _hostname(request.headers.getlist("host")) not in self._names:
            raise ApiError("misdirected_request", "This server is not known by the name in the Host header.")

    def _own(self, origin: str) -> bool:
        if origin in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        plain = parts.scheme == "http" and parts.hostname in LOOPBACK
        shape = re.fullmatch(r"https?://[a-z0-9.\[\]:-]+", origin, re.ASCII)
        return shape is not None and (parts.scheme == "https" or plain) and parts.hostname in self._names

    async def _body(self, request: Request) -> bytes:
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media != "application/json":
            raise ApiError("unsupported_content_type", "The body must be sent as application/json.")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError("unsupported_content_type", "The body must be sent without Content-Encoding.")
        limit = self._settings.mcp_max_body_bytes
        too_large = ApiError("request_too_large", f"The body is larger than {limit} bytes.")
        length = request.headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > limit):
            raise too_large
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._settings.mcp_body_timeout):
                async for piece in request.stream():
                    size += len(piece)
                    if size > limit:
                        raise too_large
                    pieces.append(piece)
        except TimeoutError:
            seconds = self._settings.mcp_body_timeout
            raise ApiError(
                "request_timeout", f"The body did not arrive within {seconds:g} s.", headers={"Connection": "close"}
            ) from None
        return b"".join(pieces)

    def _check_scope(self, who: Principal, path: str, method: str, tool: str) -> None:
        scope = mcp_sets.scope_for(method)
        if method == "tools/call" and path == "/mcp":
            scope = mcp_front.SCOPE_OF.get(tool, READ)
        if scope is not None:
            self._auth.require(who, (scope,), path)

    # What a client reads before it has a token (RFC 9728)

    async def metadata(self, request: Request) -> Response:
        path = self._metadata_path(request)
        # Public, and read by clients in browsers from everywhere.
        open_to_all = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*"}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=open_to_all | {"Access-Control-Allow-Methods": "GET"})
        return JSONResponse(
            {
                "resource": f"{self._settings.origin}{path}",
                "authorization_servers": list(self._auth.issuers),
                "scopes_supported": list(SCOPES),
                "bearer_methods_supported": ["header"],
                "resource_name": "mcpstack tool registry",
            },
            headers=open_to_all | {"Cache-Control": "public, max-age=300"},
        )

    def _metadata_path(self, request: Request) -> str:
        self._check_name(request)
        path = str(request.scope["path"]).removeprefix(WELL_KNOWN) or "/mcp"
        if path != "/mcp" and not NAME.fullmatch(path.removeprefix("/mcp/")):
            raise ApiError("not_found", "There is nothing at this path.")
        if not self._auth.issuers:
            message = "There is no authorization server: this server takes API keys only."
            raise ApiError("not_found", message, suggestions=("Ask the operator for an API key.",))
        return path


def add_routes(app: FastAPI, endpoint: McpEndpoint) -> None:
    """/mcp, /mcp/NAME and the metadata of both.

    The application enters `endpoint.run()` in its lifespan and answers ApiError and ClientDisconnect.
    """
    for path in ("/mcp", "/mcp/{name}"):
        app.router.routes.append(Route(path, endpoint, include_in_schema=False))
    for path in (WELL_KNOWN, f"{WELL_KNOWN}/mcp", f"{WELL_KNOWN}/mcp/{{name}}"):
        methods = ["GET", "OPTIONS"]
        app.router.routes.append(Route(path, endpoint.metadata, methods=methods, include_in_schema=False))


def _hostname(given: list[str]) -> str | None:
    """The host of exactly one well-formed Host header, without its port."""
    match = re.fullmatch(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", given[0]) if len(given) == 1 else None
    return match[1].strip("[]").lower() if match else None


def _asked(body: bytes, fields: dict[str, Any]) -> tuple[str, str]:
    """(method, tool name) of a request; empty where there is none, which is for the SDK to refuse."""
    try:
        message = from_json(body, allow_inf_nan=False)
    except ValueError:
        return "", ""
    if not isinstance(message, dict):
        return "", ""
    number = message.get("id", "")
    if isinstance(number, bool) or not isinstance(number, str | int):
        # The SDK would take it for a notification in one era and refuse it in the other.
        raise ApiError("invalid_request", "The id of a request is a string or a whole number.", param="id")
    method, params = message.get("method"), message.get("params")
    name = params.get("name") if isinstance(params, dict) else None
    method = method if isinstance(method, str) else ""
    name = name if isinstance(name, str) and method == "tools/call" else ""
    if _METHODS.fullmatch(method):
        fields["mcp_method"] = method
    if _TOOL.fullmatch(name):
        fields["tool"] = name
    return method, name


def _chosen(name: str, chosen: dict[str, frozenset[str] | None], parts: dict[str, Members | None]) -> Members:
    """The tools of a declared set that there are, of the servers that there are."""
    tools: list[Tool] = []
    for server, wanted in chosen.items():
        found = parts[server]
        if found is not None:
            tools += [tool for tool in found.tools if wanted is None or tool.name in wanted]
    return Members(name, tuple(tools))


def _user(who: Principal) -> AuthenticatedUser:
    """Whose session it is, for the SDK: another one's session does not exist for him."""
    claims = {"iss": who.issuer} if who.issuer else None
    return AuthenticatedUser(
        AccessToken(token="-", client_id=who.client or who.id, scopes=[], subject=who.id, claims=claims)  # noqa: S106
    )


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _request_id(scope: Scope) -> str:
    found = scope.get("state", {}).get("request_id")
    return found if isinstance(found, str) else "req_" + secrets.token_hex(12)
