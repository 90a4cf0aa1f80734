# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An issuer of tokens that misbehaves on demand, a catalogue in memory, and the endpoint served on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import uvicorn
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import FastAPI
from mcp import MCPError
from mcp.shared.inbound import mcp_param_headers, x_mcp_header_map
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpstack.common import apikey, ssrf
from mcpstack.common.errors import ApiError
from mcpstack.registry import auth, client
from mcpstack.registry.catalogue import Caller, Members, Tool
from mcpstack.registry.mcp_endpoint import McpEndpoint, add_routes
from mcpstack.registry.mcp_exchange import current
from mcpstack.registry.mcp_settings import McpSettings
from mcpstack.registry.principal import Principal
from support import Loop, free_port, wait_for

FIXTURE = Path(__file__).resolve().parents[3] / "tests" / "judges" / "fixture_server.py"
ALL = frozenset(("tools:read", "tools:call", "tools:admin"))


# An issuer


def _new_keys() -> dict[str, Any]:
    return {
        "rs": rsa.generate_private_key(65537, 2048),
        "es": ec.generate_private_key(ec.SECP256R1()),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }


ALGORITHMS = {"rs": "RS256", "es": "ES256", "ed": "EdDSA"}
KEYS = _new_keys()  # made once: an RSA key takes a moment


def public(kid: str, key: Any, **more: Any) -> dict[str, Any]:
    kinds = {"RSAPrivateKey": jwt.algorithms.RSAAlgorithm, "EllipticCurvePrivateKey": jwt.algorithms.ECAlgorithm}
    kind = next((found for name, found in kinds.items() if name in type(key).__name__), jwt.algorithms.OKPAlgorithm)
    if "EllipticCurve" in type(key).__name__ or "ECPrivate" in type(key).__name__:
        kind = jwt.algorithms.ECAlgorithm
    if "RSA" in type(key).__name__:
        kind = jwt.algorithms.RSAAlgorithm
    found: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)  # type: ignore[attr-defined]
    return found | {"kid": kid, "use": "sig"} | more


@dataclass
class Issuer:
    """Serves metadata and keys; `broken` says how it fails."""

    loop: Loop
    port: int = field(default_factory=free_port)
    path: str = ""
    broken: str = ""
    keys: list[dict[str, Any]] = field(default_factory=lambda: [public(kid, key) for kid, key in KEYS.items()])
    seen: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    introspected: dict[str, dict[str, Any]] = field(default_factory=dict)
    _runner: web.AppRunner | None = None

    @property
    def name(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def start(self) -> Issuer:
        async def go() -> None:
            app = web.Application()
            app.router.add_route("*", "/{rest:.*}", self._answer)
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

        self.loop.run(go())
        return self

    def stop(self) -> None:
        if self._runner is not None:
            self.loop.run(self._runner.cleanup())
            self._runner = None

    def questions(self, part: str) -> int:
        return sum(part in path for path in self.seen)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.path)
        if self.broken == "slow":
            await asyncio.sleep(30)
        if self.broken == "error":
            return web.Response(status=500, text="internal detail 10.0.0.7")
        if self.broken == "redirect":
            raise web.HTTPFound("http://127.0.0.1:1/")
        if self.broken == "huge":
            return web.Response(body=b" " * (1 << 20), content_type="application/json")
        if self.broken == "garbage":
            return web.Response(text="<html>", content_type="text/html")
        if request.path == f"{self.path}/introspect":
            form = await request.post()
            login = request.headers.get("Authorization", "")
            if base64.b64decode(login.removeprefix("Basic ")) != b"registry:" + b"i" * 32:
                return web.json_response({"error": "invalid_client"}, status=401)
            return web.json_response(self.introspected.get(str(form["token"]), {"active": False}))
        if request.path == f"{self.path}/jwks":
            return web.json_response({"keys": self.keys})
        if request.path.startswith("/.well-known/oauth-authorization-server") and self.broken != "only-oidc":
            return web.json_response(self._metadata())
        if request.path == f"{self.path}/.well-known/openid-configuration" and self.broken == "only-oidc":
            return web.json_response(self._metadata())
        return web.Response(status=404)

    def _metadata(self) -> dict[str, Any]:
        return {"issuer": self.name, "jwks_uri": f"{self.name}/jwks"} | self.metadata

    def token(
        self,
        kid: str | None = "rs",
        *,
        key: Any = None,
        algorithm: str | None = None,
        header: Mapping[str, Any] | None = None,
        drop: tuple[str, ...] = (),
        audience: Any = None,
        **claims: Any,
    ) -> str:
        now = int(time.time())
        found = {
            "iss": self.name,
            "sub": "user-1",
            "aud": audience,
            "exp": 300,
            "iat": 0,
            "jti": "j1",
            "client_id": "client-1",
            "scope": "openid tools:read tools:call",
        } | claims
        for name in ("exp", "nbf", "iat"):
            if isinstance(found.get(name), int) and abs(found[name]) < 10**6:
                found[name] += now  # a small number is meant from now on
        for name in drop:
            found.pop(name, None)
        head = {"typ": "at+jwt", "kid": kid} | dict(header or {})
        if head["kid"] is None:
            del head["kid"]
        key = key if key is not None else KEYS[kid or "rs"]
        return jwt.encode(found, key, algorithm=algorithm or ALGORITHMS.get(kid or "rs", "RS256"), headers=head)


# A catalogue


@dataclass(frozen=True)
class StoredKey:
    kid: str
    scopes: frozenset[str]
    rpm: int | None = None
    concurrency: int | None = None


class MemoryKeys:
    """API keys, known by their text. What stands behind it in the registry has tests of its own (test_keys.py)."""

    def __init__(self) -> None:
        self.known: dict[str, StoredKey] = {}

    def new(self, *scopes: str) -> str:
        key = apikey.generate("dev")
        self.known[key.text] = StoredKey(key.kid, frozenset(scopes))
        return key.text

    async def verify(self, header: str | None) -> StoredKey:
        found = self.known.get((header or "").removeprefix("Bearer "))
        if found is None:
            raise ApiError("invalid_api_key", "The API key is not known here, or it was revoked.")
        return found


@dataclass
class MemoryCatalogue:
    """Outside servers reached by the registry's own client; the rest is in memory."""

    upstream: client.Upstream
    servers: dict[str, client.Server] = field(default_factory=dict)
    shown: dict[str, Members] = field(default_factory=dict)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    asked_as: list[str | None] = field(default_factory=list)
    fail: ApiError | None = None
    says: dict[str, dict[str, Any]] = field(default_factory=dict)  # what a tool answers, whatever its server would

    async def find_tools(self, who: Principal, query: str, limit: int, server: str | None) -> dict[str, Any]:
        self._fail()
        found = [
            {"name": tool.full_name, **tool.definition}
            for members in self.shown.values()
            if members.mirror is not None and server in (None, members.mirror)
            for tool in members.tools
            if query in tool.name
        ]
        return {"mode": "keyword", "tools": found[:limit]}

    async def list_servers(self, who: Principal) -> list[dict[str, Any]]:
        self._fail()
        return [{"name": name, "status": "ok"} for name in sorted(self.servers)]

    async def members(self, name: str) -> Members | None:
        self._fail()
        if name in self.servers and name not in self.shown:
            self.shown[name] = await self._mirror(name)
        return self.shown.get(name)

    async def call_tool(
        self,
        who: Principal,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        caller: Caller,
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        self._fail()
        self.calls.append((who.id, server, tool))
        exchange = current.get()
        self.asked_as.append(exchange.request_id if exchange else None)
        if tool in self.says:
            return self.says[tool]
        members = await self.members(server)
        known = next((found for found in members.tools if found.name == tool), None) if members else None
        if known is None:
            raise ApiError("tool_not_found", f"There is no tool {server}__{tool}.")
        headers = mcp_param_headers(x_mcp_header_map(known.definition["inputSchema"]), arguments)
        return await self._ask(
            server,
            lambda to, options: self.upstream.call_tool(to, tool, arguments, params=more, **options),
            caller,
            headers,
        )

    async def call_tool_summarized(
        self,
        who: Principal,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        caller: Caller,
        max_tokens: int | None,
        more: Mapping[str, Any],
    ) -> dict[str, Any]:
        result = await self.call_tool(who, server, tool, arguments, caller, more)
        return result | {"_meta": {"summarised": False, "max_tokens": max_tokens}}

    async def request(
        self, who: Principal, server: str, method: str, params: Mapping[str, Any], caller: Caller
    ) -> dict[str, Any]:
        self._fail()
        return await self._ask(
            server, lambda to, options: self.upstream.request(to, method, params, **options), caller, {}
        )

    async def _ask(self, server: str, question: Any, caller: Caller, headers: dict[str, str]) -> dict[str, Any]:
        async def heard(message: dict[str, Any]) -> dict[str, Any] | None:
            if "id" in message:
                return await caller.ask(message["method"], message.get("params") or {})
            await caller.notify(message["method"], message.get("params") or {})
            return None

        options = {"capabilities": caller.capabilities, "meta": caller.meta, "headers": headers, "on_message": heard}
        try:
            answer = await question(self.servers[server], options)
        except client.RpcError as error:
            raise MCPError(error.code, error.message, error.data) from None
        except client.UpstreamError as error:
            raise ApiError(
                "tool_server_unavailable", f"The server {server!r} cannot be used: {error.reason}."
            ) from None
        result: dict[str, Any] = answer.result
        return result

    async def _mirror(self, name: str) -> Members:
        answer = await self.upstream.list_tools(self.servers[name])
        tools = tuple(
            Tool(name, found["name"], {key: value for key, value in found.items() if key != "name"})
            for found in answer.result["tools"]
        )
        capabilities = {"tools": {}, "prompts": {}, "resources": {}, "completions": {}, "logging": {}}
        return Members(name, tools, mirror=name, capabilities=capabilities, instructions="For tests only.")

    def _fail(self) -> None:
        if self.fail is not None:
            raise self.fail


# The endpoint, served


class Noted:
    """What the registry's own outermost layer does for the endpoint: a request id, and fields for the log line."""

    def __init__(self, app: ASGIApp, lines: list[dict[str, Any]]) -> None:
        self._app = app
        self._lines = lines
        self._number = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            fields: dict[str, Any] = {}
            extra: list[tuple[bytes, bytes]] = []
            scope.setdefault("state", {}).update(request_id=f"req_{next(self._number):08d}", log=fields, headers=extra)
            self._lines.append(fields)

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message.get("headers", ()), *extra]
                await send(message)

            await self._app(scope, receive, noted)
        else:
            await self._app(scope, receive, send)


def settings(**more: Any) -> McpSettings:
    from mcpstack.common import settings as common

    environ = {f"REGISTRY_{name.upper()}": str(value) for name, value in more.items()}
    return common.load(McpSettings, environ, "REGISTRY_")


@dataclass
class Served:
    port: int
    keys: MemoryKeys
    catalogue: MemoryCatalogue
    endpoint: McpEndpoint
    authenticator: auth.Authenticator
    lines: list[dict[str, Any]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def resource(self) -> str:
        return self.authenticator.resource


@contextlib.contextmanager
def serve(loop: Loop, *, introspection: Any = None, admit: Any = None, **more: Any) -> Iterator[Served]:
    """The endpoint in a real server; names and public URL are those of loopback unless told otherwise."""
    port = free_port()
    chosen = settings(
        **{"server_names": "127.0.0.1,localhost,mcp.example.org", "public_url": f"http://127.0.0.1:{port}"} | more
    )
    keys = MemoryKeys()
    policy = ssrf.parse("127.0.0.1")

    async def start() -> tuple[Served, uvicorn.Server, Any]:
        upstream = client.Upstream(policy)
        await upstream.open()
        catalogue = MemoryCatalogue(upstream)
        authenticator = auth.authenticator(chosen, keys, introspection)
        endpoint = McpEndpoint(chosen, authenticator, catalogue, admit)
        lines: list[dict[str, Any]] = []

        @contextlib.asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with endpoint.run():
                yield
            await upstream.close()
            await authenticator.close()

        async def refused(request: Request, error: Exception) -> Response:
            assert isinstance(error, ApiError)
            request.state.log["code"] = error.code
            return JSONResponse(error.body(request.state.request_id), status_code=error.status, headers=error.headers)

        async def left(_: Request, __: Exception) -> Response:
            return Response(status_code=400)

        app = FastAPI(lifespan=lifespan, openapi_url=None)
        app.add_exception_handler(ApiError, refused)
        app.add_exception_handler(ClientDisconnect, left)
        add_routes(app, endpoint)
        config = uvicorn.Config(
            Noted(app, lines), host="127.0.0.1", port=port, log_config=None, access_log=False, lifespan="on",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        task = asyncio.get_running_loop().create_task(server.serve())
        return Served(port, keys, catalogue, endpoint, authenticator, lines), server, task

    served, server, task = loop.run(start())
    wait_for("the endpoint", lambda: server.started)
    try:
        yield served
    finally:
        server.should_exit = True

        async def ended() -> None:
            await task

        loop.run(ended())


@contextlib.contextmanager
def fixture_server(record: Path | None = None) -> Iterator[int]:
    """The outside server of the judges, as a process."""
    port = free_port()
    command = [sys.executable, str(FIXTURE), str(port), *(("--record", str(record)) if record else ())]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    try:

        def up() -> bool:
            import http.client

            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            try:
                connection.request("GET", "/")
                return connection.getresponse().status == 404
            finally:
                connection.close()

        wait_for("the fixture server", up)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def meta(**more: Any) -> dict[str, Any]:
    return {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    } | more


def message(method: str, number: int = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()
