# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One trace from whoever asks to model server, database and outside tool; and what a dead collector costs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import support
from support import Launch, Loop, Service, Stack, put_key

NewKey = Callable[..., str]
CANARY = "kanarienvogel"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Site:
    """An aiohttp application on a port of loopback."""

    def __init__(self, loop: Loop, path: str, handler: Any) -> None:
        self.port = support.free_port()
        self._loop = loop
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post(path, handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

        async def go() -> None:
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

        loop.run(go())

    def stop(self) -> None:
        self._loop.run(self._runner.cleanup())


class Collector:
    """Takes OTLP over HTTP and decodes it, as the real ones do."""

    def __init__(self, loop: Loop) -> None:
        self.raw = b""
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self._site = Site(loop, "/v1/traces", self._take)
        self.stop = self._site.stop
        self.endpoint = f"http://127.0.0.1:{self._site.port}"

    async def _take(self, request: web.Request) -> web.Response:
        assert request.headers["Content-Type"] == "application/x-protobuf"
        raw = await request.read()
        message = ExportTraceServiceRequest.FromString(raw)
        self.raw += raw
        for resource in message.resource_spans:
            names = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
            self.services.add(names["service.name"])
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return web.Response(content_type="application/x-protobuf")

    def trace(self, *names: str) -> dict[str, Any]:
        """The spans of TRACE by name, once all of these are there."""

        def found() -> dict[str, Any] | None:
            spans = {span.name: span for span in self.spans if span.trace_id.hex() == TRACE}
            return spans if set(names) <= set(spans) else None

        try:
            return dict(support.wait_for("the spans", found, 10))
        except AssertionError as error:
            raise AssertionError(f"{error}: {sorted(span.name for span in self.spans)}") from None


@pytest.fixture
def collector(stack: Stack) -> Iterator[Collector]:
    found = Collector(stack.loop)
    yield found
    found.stop()


def attributes(span: Any) -> dict[str, Any]:
    return {entry.key: entry.value.string_value or entry.value.int_value for entry in span.attributes}


@pytest.mark.parametrize("stream", [False, True])
def test_from_the_client_to_the_model_server(
    stack: Stack, launch: Launch, new_key: NewKey, collector: Collector, stream: bool
) -> None:
    gateway = launch(otlp_endpoint=collector.endpoint)
    key = new_key(gateway)
    assert gateway.chat(key, CANARY, stream=stream, headers=HEADERS).status == 200
    chat = "/v1/chat/completions"
    server, talk, post = f"POST {chat}", "chat/completions tiny", f"POST {chat}"
    spans = collector.trace("SELECT gateway.api_key", "EVALSHA limits", talk, server)
    both = [span for span in collector.spans if span.name == server and span.trace_id.hex() == TRACE]
    root = next(span for span in both if span.kind == 2)
    sent = next(span for span in both if span.kind == 3)
    assert root.parent_span_id.hex() == PARENT
    for name in ("SELECT gateway.api_key", "EVALSHA limits", talk):
        assert spans[name].parent_span_id == root.span_id, name
    assert sent.parent_span_id == spans[talk].span_id
    seen = next(headers for path, headers, body in reversed(stack.runner.seen) if path == chat)
    assert seen["traceparent"] == f"00-{TRACE}-{sent.span_id.hex()}-01"
    assert collector.services == {"mcpstack-gateway"}
    found = attributes(root)
    assert (found["http.route"], found["http.response.status_code"], found["mcpstack.key"]) == (
        chat,
        200,
        key.split("_")[2],
    )
    used = attributes(spans[talk])
    assert (used["gen_ai.usage.input_tokens"], used["gen_ai.request.model"]) == (3, "tiny")
    line = next(line for line in gateway.log_lines() if line.get("trace_id") == TRACE)
    assert line["event"] == "request"
    assert post == server
    assert CANARY.encode() not in collector.raw


def test_errors_have_names_and_no_messages(launch: Launch, new_key: NewKey, collector: Collector) -> None:
    gateway = launch(otlp_endpoint=collector.endpoint)
    key = new_key(gateway)
    assert gateway.chat(key, f"#status 500 {CANARY}", headers=HEADERS).status == 502
    assert "_upb" in Path(f"/proc/{gateway.process.pid}/maps").read_text()  # see test_off_costs_nothing
    root = collector.trace("chat/completions tiny", "EVALSHA limits")
    support.wait_for("the root", lambda: any(span.kind == 2 for span in collector.spans), 10)
    server = next(span for span in collector.spans if span.kind == 2)
    assert attributes(server)["error.type"] == "model_runner_error"
    assert server.status.code == 2
    assert root["EVALSHA limits"].status.code == 0
    assert gateway.post("/v1/chat/completions", b"{" + CANARY.encode(), key, headers=HEADERS).status == 400
    support.wait_for("another root", lambda: sum(span.kind == 2 for span in collector.spans) == 2, 10)
    refused = [span for span in collector.spans if span.kind == 2][-1]
    assert (attributes(refused)["error.type"], refused.status.code) == ("invalid_json", 0)
    gateway.get("/health")
    gateway.get("/metrics")
    assert gateway.stop() == 0
    assert not any("/health" in span.name or "/metrics" in span.name for span in collector.spans)
    assert CANARY.encode() not in collector.raw


@pytest.mark.parametrize(
    "given",
    [
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x" * 5000,
    ],
)
def test_a_bad_traceparent_begins_a_new_trace(
    stack: Stack, launch: Launch, new_key: NewKey, collector: Collector, given: str
) -> None:
    gateway = launch(otlp_endpoint=collector.endpoint)
    assert gateway.chat(new_key(gateway), headers={"traceparent": given}).status == 200
    support.wait_for("the root", lambda: any(span.kind == 2 for span in collector.spans), 10)
    root = next(span for span in collector.spans if span.kind == 2)
    assert root.parent_span_id == b""
    assert root.trace_id.hex() != TRACE


def test_what_is_not_sampled_is_not_sent(stack: Stack, launch: Launch, new_key: NewKey, collector: Collector) -> None:
    gateway = launch(otlp_endpoint=collector.endpoint, otlp_sample="0")
    key = new_key(gateway)
    assert gateway.chat(key).status == 200
    assert gateway.chat(key, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"}).status == 200
    sent = stack.runner.seen[-1][1]["traceparent"]
    assert sent.startswith(f"00-{TRACE}-")
    assert sent.endswith("-00")
    assert gateway.chat(key, headers=HEADERS).status == 200  # whoever asks has decided
    collector.trace("chat/completions tiny")
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


# The registry


class Tool:
    """An MCP server of 2026-07-28 with one tool, that remembers the `_meta` it was called with."""

    def __init__(self, loop: Loop) -> None:
        self.called: list[dict[str, Any]] = []
        self._site = Site(loop, "/mcp", self._answer)
        self.stop = self._site.stop
        self.url = f"http://127.0.0.1:{self._site.port}/mcp"

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        result: dict[str, Any] = {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "public"}
        if body["method"] == "tools/list":
            result["tools"] = [{"name": "echo", "description": "Says it again.", "inputSchema": {"type": "object"}}]
        elif body["method"] == "tools/call":
            self.called.append(body["params"]["_meta"])
            result = {"resultType": "complete", "content": [{"type": "text", "text": CANARY}]}
        else:
            result |= {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": result})


@pytest.fixture
def tool(stack: Stack) -> Iterator[Tool]:
    found = Tool(stack.loop)
    yield found
    found.stop()


@pytest.fixture
def registry(stack: Stack, tmp_path: Path, collector: Collector) -> Iterator[Service]:
    key = support.write_secrets(tmp_path, {"model-api-key": support.MODEL_KEY})["model-api-key"]
    env = support.service_environment(
        "registry", tmp_path, stack.tls, stack.postgres.new_database(), stack.postgres.port, stack.valkey.port,
        model_url=f"http://localhost:{stack.runner.port}", model_api_key_file=key, outbound_allow="127.0.0.1",
        otlp_endpoint=collector.endpoint, default_rpm="100000", server_names="127.0.0.1,localhost",
    )  # fmt: skip
    running = support.start_service("mcpstack.registry", env, tmp_path / "log", port="REGISTRY_PORT")
    yield running
    assert running.stop() == 0


def test_from_the_client_to_the_outside_tool(registry: Service, tool: Tool, collector: Collector) -> None:
    key = put_key(registry, scopes="tools:read,tools:call,tools:admin")
    made = registry.post("/v1/servers", {"id": "far", "url": tool.url, "trust": "trusted"}, key)
    assert made.status == 201, made
    assert registry.post("/v1/servers/far/sync", {}, key).status == 200
    called = registry.post("/v1/tools/far/echo/call", {"arguments": {"x": CANARY}}, key, headers=HEADERS)
    assert (called.status, len(tool.called)) == (200, 1), called
    root, out = "POST /v1/tools/{server}/{name}/call", "tools/call echo"
    spans = collector.trace(root, "registry database", "EVALSHA limits", out)
    assert spans[root].parent_span_id.hex() == PARENT
    for name in ("registry database", "EVALSHA limits", out):
        assert spans[name].parent_span_id == spans[root].span_id, name
    assert tool.called[0]["traceparent"] == f"00-{TRACE}-{spans[out].span_id.hex()}-01"
    # What the registry does by itself begins no trace.
    assert {span.name for span in collector.spans if not span.parent_span_id and span.kind != 2} == set()
    assert CANARY.encode() not in collector.raw


def test_through_the_mcp_endpoint(registry: Service, tool: Tool, collector: Collector) -> None:
    """Its clients say where they come from in `_meta`; the header is for those who only speak HTTP."""
    key = put_key(registry, scopes="tools:read,tools:call,tools:admin")
    assert registry.post("/v1/servers", {"id": "far", "url": tool.url, "trust": "trusted"}, key).status == 201
    assert registry.post("/v1/servers/far/sync", {}, key).status == 200
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
        **HEADERS,
    }
    params = {"name": "call_tool", "arguments": {"name": "far__echo", "arguments": {"x": CANARY}}, "_meta": meta}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "call_tool",
        **HEADERS,
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    called = registry.post("/mcp", body, key, headers=headers)
    assert (called.status, len(tool.called)) == (200, 1), called
    spans = collector.trace("POST /mcp", "tools/call call_tool", "tools/call echo")
    assert spans["POST /mcp"].parent_span_id.hex() == PARENT
    assert spans["tools/call call_tool"].parent_span_id.hex() == PARENT  # what its `_meta` says
    assert spans["tools/call echo"].parent_span_id == spans["tools/call call_tool"].span_id
    assert tool.called[0]["traceparent"] == f"00-{TRACE}-{spans['tools/call echo'].span_id.hex()}-01"
    assert CANARY.encode() not in collector.raw


# A collector that does not do its part


@pytest.mark.parametrize("state", ["frozen", "gone", "failing"])
def test_a_dead_collector_costs_spans_and_nothing_else(
    stack: Stack, launch: Launch, new_key: NewKey, state: str
) -> None:
    """Frozen: more spans than the queue has places for, while whoever should take them takes nothing."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=503)

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        if state == "frozen":
            sock.listen(100)  # connections are made, by the kernel, and nobody answers
        port = sock.getsockname()[1]
        site = Site(stack.loop, "/v1/traces", refuse) if state == "failing" else None
        gateway = launch(otlp_endpoint=f"http://127.0.0.1:{site.port if site else port}", default_rpm="1000000")
        key = new_key(gateway)
        with ThreadPoolExecutor(8) as pool:  # four spans each; the queue has 4096 places
            asked = [pool.submit(gateway.chat, key, limit=5) for _ in range(1200 if state == "frozen" else 100)]
            assert {done.result().status for done in asked} == {200}
        assert gateway.chat(key, stream=True, limit=2).events[-1] == "[DONE]"
        assert gateway.ready() == "ready"
        assert gateway.stop(10) == 0
        if site:
            site.stop()
    lines = gateway.log_lines()
    assert sum(line["logger"].startswith("opentelemetry") for line in lines) < 50


# Off


def test_off_costs_nothing(stack: Stack, launch: Launch, new_key: NewKey) -> None:
    gateway = launch()
    assert gateway.chat(new_key(gateway), headers=HEADERS).status == 200
    assert "Traceparent" not in {name.title() for name in stack.runner.seen[-1][1]}
    assert "_upb" not in Path(f"/proc/{gateway.process.pid}/maps").read_text()  # protobuf, which the exporter needs
    program = (
        "import json, sys, mcpstack.gateway.server, mcpstack.registry.server, mcpstack.common.tracing\n"
        "print(json.dumps([n for n in sys.modules if n.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=gateway.env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
