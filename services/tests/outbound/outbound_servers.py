# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers to call: the SDK's own in both eras, and raw ones that do what no server should."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

from mcpstack.common import ssrf
from mcpstack.registry.client import Server, Upstream

LOOPBACK = ssrf.parse("127.0.0.1")


@dataclass
class Request:
    """A request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def rpc(self) -> dict[str, Any]:
        return json.loads(self.body) if self.body else {}


Script = Callable[[Request, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Raw:
    """A server that answers with whatever its script writes. Requests are kept."""

    script: Script
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def called(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.rpc.get("method") == method]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while (request := await read_request(reader)) is not None:
                self.requests.append(request)
                await self.script(request, reader, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


def answer(status: int, body: bytes = b"", kind: str = "application/json", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", f"Content-Type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def result(request: Request, value: Any, **headers: str) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": request.rpc["id"], "result": value}).encode()
    return answer(200, body, **headers)


def error(request: Request, code: int, message: str = "no", status: int = 200, data: Any = None) -> bytes:
    value: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        value["data"] = data
    body = json.dumps({"jsonrpc": "2.0", "id": request.rpc["id"], "error": value}).encode()
    return answer(status, body)


def stream(*pieces: bytes) -> bytes:
    """The head of an event stream that ends with the connection, and its first pieces."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return head + b"".join(pieces)


def event(message: dict[str, Any], number: str | None = None) -> bytes:
    marked = f"id: {number}\n".encode() if number is not None else b""
    return marked + b"data: " + json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n\n"


DISCOVERED = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"}
TEXT = {"content": [{"type": "text", "text": "hello"}]}


def modern(script: Script) -> Script:
    """A server of the stateless era whose answers to everything but server/discover come from `script`."""

    async def scripted(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.rpc.get("method") == "server/discover":
            writer.write(result(request, DISCOVERED))
        else:
            await script(request, reader, writer)

    return scripted


def legacy(script: Script, session: str = "s1") -> Script:
    """A server with sessions."""

    async def scripted(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = request.rpc.get("method")
        if method == "server/discover":
            writer.write(error(request, -32000, "Bad Request: no valid session ID provided", 400))
        elif method == "initialize":
            info = {"name": "old", "version": "1"}
            value = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
            writer.write(result(request, value, Mcp_Session_Id=session))
        elif method == "notifications/initialized" or request.method == "DELETE":
            writer.write(answer(202))
        else:
            await script(request, reader, writer)

    return scripted


def says(make: Callable[[Request], bytes], close: bool = False) -> Script:
    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(make(request))
        if close:
            await writer.drain()
            writer.close()

    return script


class OnlyOldEra:
    """An SDK server that does not know the newer header, like the servers of the years before."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(k, v) for k, v in scope["headers"] if (k, v) != (b"mcp-protocol-version", b"2026-07-28")]
            scope = {**scope, "headers": headers}
        await self.app(scope, receive, send)


def sdk_server(**more: Any) -> MCPServer:
    server = MCPServer("fixture", instructions="A server for tests.", **more)

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    def say(text: str) -> str:
        """Say it again."""
        return text

    @server.tool()
    def big(size: int) -> str:
        """So many characters."""
        return "x" * size

    @server.tool()
    def fail() -> str:
        """Always fails."""
        raise ValueError("it failed")

    @server.tool()
    async def slow(seconds: float) -> str:
        """Takes its time."""
        await asyncio.sleep(seconds)
        return "done"

    @server.tool()
    async def progress(context: Context) -> str:
        """Reports how far it is."""
        await context.report_progress(1, 2, "half")
        return "done"

    return server


class Farm:
    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Farm:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def raw(self, script: Script, tls: ssl.SSLContext | None = None) -> Raw:
        raw = Raw(script)
        server = await asyncio.start_server(raw.handle, "127.0.0.1", 0, limit=1 << 20, ssl=tls)
        raw.port = server.sockets[0].getsockname()[1]
        self._stack.callback(server.close)
        return raw

    async def asgi(self, app: Any) -> str:
        """Serve an application; the URL of its MCP endpoint."""
        return await self._stack.enter_async_context(_serving(app))

    async def sdk(self, server: MCPServer | None = None, *, old: bool = False, **options: Any) -> str:
        app: Any = (server or sdk_server()).streamable_http_app(**options)
        return await self.asgi(OnlyOldEra(app) if old else app)

    async def upstream(self, policy: ssrf.Policy = LOOPBACK, **options: Any) -> Upstream:
        upstream = Upstream(policy, **options)
        await upstream.open()
        self._stack.push_async_callback(upstream.close)
        return upstream


async def until(probe: Callable[[], Any], limit: float = 5.0) -> None:
    """Wait for something that another task does."""
    async with asyncio.timeout(limit):
        while not probe():  # noqa: ASYNC110 - what is waited for is a state of a socket, which has no event
            await asyncio.sleep(0.005)


def at(url: str, **more: Any) -> Server:
    return Server(**{"id": "s", "name": "s", "url": url, "timeout": 5.0, **more})


@contextlib.asynccontextmanager
async def _serving(app: Any) -> AsyncIterator[str]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1, ws="none")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve(sockets=[sock]))
    async with asyncio.timeout(10):
        while not server.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        sock.close()
