# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge the services of a deployed platform through its edge: clients of other people, and every part stopped and frozen.

usage: services.py HOST --port PORT --name NAME --ca FILE --model MODEL --first-byte SECONDS

As trouble.py, whose options and environment it shares. It runs on the interpreter of the services' tests, which has the
clients: `openai` and the Python SDK of MCP. Every part that is stopped is started again, also when a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2
import openai
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from trouble import Platform, error_of

Answer = tuple[int, dict, dict, float]

# The status pages are not public: each service is asked from inside its own container.
READY = """
import http.client, sys
c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=10)
c.request('GET', '/ready')
print(c.getresponse().status)
"""
PORTS = {"gateway": 8000, "registry": 8000, "worker": 9000}


class Stack(Platform):
    """A platform with its registry, its worker and keys of every kind."""

    def command(self, *words: str) -> dict[str, Any]:
        """One command of mcpstack-admin, as its playbook runs it."""
        files = [f"--file=/etc/mcpstack/compose/{name}.yml" for name in ("project", "admin")]
        line = ["compose", "--progress", "quiet", *files, "--profile", "admin", "run", "--rm", "--no-deps", "-T"]
        answer: dict[str, Any] = json.loads(self.docker(*line, "admin", *words))
        return answer

    @contextlib.contextmanager
    def a_key(self, scopes: str, *more: str) -> Iterator[str]:
        """A key for a while."""
        made = self.command("keys", "create", "--name", f"judge-{time.time_ns()}", "--scopes", scopes, *more)
        try:
            yield made["key"]
        finally:
            self.command("keys", "revoke", made["kid"])

    def ask(self, method: str, path: str, body: object = None, key: str | None = None) -> Answer:
        """As a client that waits when it is told to: what is judged here is not the limits."""
        for _attempt in range(5):
            answer = super().ask(method, path, body, key)
            if answer[0] != 429:
                break
            time.sleep(int(answer[1].get("retry-after", "1")))  # as the answer asks
        return answer

    def impatient(self, method: str, path: str, key: str) -> Answer:
        return super().ask(method, path, None, key)

    def ready(self, service: str) -> str:
        """The status of a service's own readiness."""
        inside = ["exec", self.container(service), "/usr/bin/python3.13", "-c", READY, str(PORTS[service])]
        return self.docker(*inside)

    def until(self, text: str, look: Callable[[], object], wanted: object, limit: float = 60) -> None:
        """Promise that something becomes so without anybody doing anything."""
        started = time.monotonic()
        while (seen := look()) != wanted and time.monotonic() - started < limit:
            time.sleep(0.3)  # between two looks
        self.promise(text, seen == wanted, seen)

    def refused(self, text: str, answer: Answer, code: str, limit: float, status: int = 503) -> None:
        """Promise an error with everything that a client needs."""
        seen, headers, body, seconds = answer
        error = error_of(body)
        well = seen == status and error.get("code") == code and bool(error.get("message") and error.get("suggestions"))
        self.promise(f"{text}: {status} {code}", well, (seen, body))
        self.promise(f"... within {limit:g} s", seconds < limit, f"{seconds:.1f} s")
        if status == 503:
            self.promise("... and when to come back", headers.get("retry-after", "").isdigit(), headers)
        inside = [word for word in (":5432", ":6379", ":8080", ":8000", "postgres", "Traceback") if word in str(body)]
        self.promise("... and nothing from inside", not inside, inside)

    def task(self, kind: str = "health_check") -> tuple[int, str]:
        """Start a task: (status, id)."""
        status, _headers, body, _seconds = self.ask("POST", "/v1/tasks", {"type": kind})
        return status, body.get("id", "")

    def state(self, task: str) -> object:
        return self.ask("GET", f"/v1/tasks/{task}")[2].get("status")

    def mcp(self, key: str | None = None) -> Answer:
        """A call of a stateless MCP client."""
        info = {"name": "judge", "version": "1"}
        prefix = "io.modelcontextprotocol"
        meta = {
            f"{prefix}/protocolVersion": "2026-07-28",
            f"{prefix}/clientInfo": info,
            f"{prefix}/clientCapabilities": {},
        }
        params = {"name": "list_servers", "arguments": {}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {
            "Host": self.options.name,
            "Authorization": f"Bearer {key or self.key}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "list_servers",
        }
        connection = self.connect()
        started = time.monotonic()
        connection.request("POST", "/mcp", json.dumps(body), headers)
        answer = connection.getresponse()
        raw = answer.read().decode()
        seconds = time.monotonic() - started
        connection.close()
        for line in raw.splitlines():
            if line.startswith("data: {"):
                raw = line.removeprefix("data: ")
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(raw), seconds


# Clients of other people


def openai_client(s: Stack) -> None:
    """The most used client: what works, and which of its exceptions each refusal becomes."""

    def client(key: str) -> openai.OpenAI:
        transport = openai.DefaultHttpxClient(verify=s.context)
        url = f"https://{s.options.name}:{s.options.port}/v1"
        return openai.OpenAI(api_key=key, base_url=url, http_client=transport, max_retries=0, timeout=60)

    def chat(who: openai.OpenAI, **more: Any) -> Any:
        fields: dict[str, Any] = {"model": s.options.model, "max_tokens": 8}
        fields |= {"messages": [{"role": "user", "content": "hello"}]} | more
        return who.chat.completions.create(**fields)

    def raised(text: str, kind: type[openai.APIStatusError], code: str, call: Callable[[], object]) -> None:
        try:
            seen: object = call()
        except openai.APIStatusError as error:
            seen = (type(error).__name__, error.code)
        s.promise(f"openai: {text} is {kind.__name__}, {code}", seen == (kind.__name__, code), seen)

    s.until("before: the model server is there", lambda: s.chat()[0], 200)  # whatever was broken before this
    o = client(s.key)
    s.promise("openai: models", s.options.model in [model.id for model in o.models.list()], "not listed")
    s.promise("openai: chat", chat(o).choices[0].finish_reason in ("stop", "length"), "no end")
    chunks = list(chat(o, stream=True, stream_options={"include_usage": True}))
    s.promise("openai: stream, with its usage", len(chunks) > 2 and chunks[-1].usage is not None, chunks[-1:])
    tool = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string", "maxLength": 4}}}}
    tool["parameters"] |= {"required": ["at"]}  # type: ignore[operator]
    called = chat(o, tools=[{"type": "function", "function": tool}], tool_choice="required", max_tokens=200)
    calls = called.choices[0].message.tool_calls or []
    s.promise("openai: tools", [call.function.name for call in calls[:1]] == ["look"], called)
    vector = o.embeddings.create(model=s.options.model, input=["hello", "world"]).data
    s.promise("openai: embeddings", len(vector) == 2 and len(vector[0].embedding) > 1, len(vector))
    s.promise(
        "openai: completions",
        bool(o.completions.create(model=s.options.model, prompt="a", max_tokens=4).choices),
        "no choice",
    )
    raised("no known key", openai.AuthenticationError, "invalid_api_key", lambda: chat(client(s.unknown_key("a" * 12))))
    raised("a model nobody has", openai.NotFoundError, "model_not_found", lambda: chat(o, model="nothing"))
    raised("a wrong field", openai.BadRequestError, "invalid_request", lambda: chat(o, temperature="hot"))
    raised(
        "a prompt that is too long",
        openai.BadRequestError,
        "context_length_exceeded",
        lambda: chat(o, messages=[{"role": "user", "content": "word " * 20000}]),
    )
    with s.a_key("models", "--rpm", "2") as few:
        raised("a key without the scope", openai.PermissionDeniedError, "insufficient_scope", lambda: chat(client(few)))

        def too_often() -> object:
            return [client(few).models.list() for _ in range(4)]

        raised("too often", openai.RateLimitError, "rate_limit_exceeded", too_often)


def mcp_client(s: Stack) -> None:
    """The Python SDK in both eras of the protocol."""

    async def talk(era: str) -> tuple[str, list[str], object, object]:
        headers = {"Authorization": f"Bearer {s.key}"}
        async with httpx2.AsyncClient(headers=headers, timeout=30, verify=s.context) as http:
            transport = streamable_http_client(f"https://{s.options.name}:{s.options.port}/mcp", http_client=http)
            async with Client(transport, mode=era) as client:
                tools = [tool.name for tool in (await client.list_tools()).tools]
                found = await client.call_tool("find_tools", {"query": "what time is it"})
                none = await client.call_tool("call_tool", {"name": "nobody__nothing", "arguments": {}})
                return client.protocol_version, tools, (found.structured_content or {}).get("mode"), none.is_error

    names = ["call_tool", "call_tool_summarized", "find_tools", "list_servers"]
    for era, version in (("auto", "2026-07-28"), ("legacy", "2025-11-25")):
        seen = asyncio.run(talk(era))
        s.promise(f"MCP SDK, {version}: lists, finds, and is told what is not there",
                  seen[:2] == (version, names) and seen[2] in ("keyword", "hybrid") and seen[3] is True, seen)  # fmt: skip
    status, headers, body, _seconds = s.mcp(s.unknown_key("aaaaaaaaaaac"))
    s.promise("MCP: an unknown key is 401 with WWW-Authenticate", status == 401 and "www-authenticate" in headers, body)


# What a client sees while a part is away


def database_stopped(s: Stack) -> None:
    s.promise("before: everything answers", [s.task()[0], s.mcp()[0]] == [202, 200], "not everything")
    for stop, start in (("stop -t 20", "start"), ("pause", "unpause")):
        name = f"database, {stop.split()[0]}"
        with s.without("postgres", stop, start):
            s.refused(f"{name}: tasks", s.ask("GET", "/v1/tasks"), "task_queue_unavailable", 12)
            s.refused(f"{name}: tools", s.ask("GET", "/registry/v1/tools"), "registry_unavailable", 12)
            found = s.ask("POST", "/registry/v1/tools/find", {"query": "time"})
            s.refused(f"{name}: search", found, "registry_unavailable", 12)
            s.refused(f"{name}: catalogue", s.ask("GET", "/registry/v0.1/servers"), "registry_unavailable", 12)
            s.refused(f"{name}: an unknown key", s.ask("GET", "/v1/models", key=s.unknown_key("aaaaaaaaaaad")),
                      "auth_unavailable", 12)  # fmt: skip
            status, _headers, body, seconds = s.mcp()
            told = status == 200 and (body.get("error") or body.get("result", {}).get("isError")) or status == 503
            s.promise(f"{name}: a tool of MCP fails and says so", bool(told) and seconds < 12, (status, body, seconds))
            status, _headers, body, seconds = s.chat()
            s.promise(f"{name}: a known key goes on at once", status == 200 and seconds < 4, (status, body, seconds))
            s.until(f"{name}: the registry is not ready", lambda: s.ready("registry"), "503", 20)
            s.until(f"{name}: the worker is not ready", lambda: s.ready("worker"), "503", 20)
            s.promise(f"{name}: the gateway stays ready", s.ready("gateway") == "200", "it is not")
        s.until(f"{name}, over: tasks", lambda: s.ask("GET", "/v1/tasks")[0], 200)
        s.until(f"{name}, over: tools", lambda: s.ask("GET", "/registry/v1/tools")[0], 200)
        s.until(f"{name}, over: the worker is ready", lambda: s.ready("worker"), "200")
        s.until(f"{name}, over: a task is done", partial(s.state, s.task()[1]), "succeeded")


def limiter_stopped(s: Stack) -> None:
    with s.a_key("models,tools:read", "--rpm", "3") as few:
        for stop, start in (("stop -t 5", "start"), ("pause", "unpause")):
            name = f"limiter, {stop.split()[0]}"
            with s.without("valkey", stop, start):
                for path in ("/v1/models", "/registry/v1/tools"):
                    status, headers, body, seconds = s.ask("GET", path)
                    s.promise(f"{name}: {path} goes on", status == 200 and seconds < 3, (status, body, seconds))
                    local = headers.get("x-ratelimit-degraded")
                    s.promise("... and says that it counts alone", local == "local", headers)
                statuses = [s.impatient("GET", "/v1/models", few)[0] for _ in range(6)]
                s.promise(f"{name}: nothing is unlimited", 429 in statuses and max(statuses) == 429, statuses)
            s.until(f"{name}, over: counted together again",
                    lambda: "x-ratelimit-degraded" in s.ask("GET", "/v1/models")[1], False, 20)  # fmt: skip


def model_stopped(s: Stack) -> None:
    first = s.options.first_byte
    embed = {"model": s.options.model, "input": "hello"}
    complete = {"model": s.options.model, "prompt": "a", "max_tokens": 4}
    with s.without("model-runner", "stop -t 2", "start"):
        for path, body in (("/v1/embeddings", embed), ("/v1/completions", complete)):
            s.refused(f"model server, stop: {path}", s.ask("POST", path, body), "model_runner_unavailable", 3)
        status, _headers, body, _seconds = s.ask("POST", "/registry/v1/tools/find", {"query": "time"})
        s.promise("model server, stop: tools are found by words", (status, body.get("mode")) == (200, "keyword"), body)
        _status, task = s.task()
        s.until("model server, stop: tasks go on", lambda: s.state(task), "succeeded")
        result = s.ask("GET", f"/v1/tasks/{task}")[2].get("result") or {}
        s.promise("... and the health check names it", result.get("model_runner") not in (None, "up"), result)
    s.until("model server, stop, over: embeddings", lambda: s.ask("POST", "/v1/embeddings", embed)[0], 200)
    if first < 20:
        with s.without("model-runner", "pause", "unpause"):
            frozen = s.ask("POST", "/v1/embeddings", embed)
            s.refused("model server, pause: embeddings", frozen, "model_runner_timeout", first + 3, 504)
        s.until("model server, pause, over: embeddings", lambda: s.ask("POST", "/v1/embeddings", embed)[0], 200)


def worker_stopped(s: Stack) -> None:
    for stop, start in (("stop -t 25", "start"), ("pause", "unpause"), ("kill", "start")):
        name = f"worker, {stop.split()[0]}"
        with s.without("worker", stop, start):
            status, task = s.task("model_cache")
            s.promise(f"{name}: tasks are taken", status == 202, status)
            s.promise("... and wait", s.state(task) == "queued", s.state(task))
            s.promise(f"{name}: the rest goes on", [s.chat()[0], s.mcp()[0]] == [200, 200], "not all")
        s.until(f"{name}, over: what waited is done", partial(s.state, task), "succeeded")


def registry_stopped(s: Stack) -> None:
    with s.without("registry", "stop -t 20", "start"):
        s.refused("registry, stop: REST", s.ask("GET", "/registry/v1/tools"), "service_unavailable", 3)
        s.refused("registry, stop: MCP", s.mcp(), "service_unavailable", 3)
        s.promise("registry, stop: the gateway goes on", s.chat()[0] == 200, "it does not")
    s.until("registry, stop, over: MCP", lambda: s.mcp()[0], 200)


def gateway_stopped(s: Stack) -> None:
    with s.without("gateway", "stop -t 20", "start"):
        s.refused("gateway, stop: models", s.ask("GET", "/v1/models"), "service_unavailable", 3)
        s.promise("gateway, stop: the registry goes on", s.mcp()[0] == 200, "it does not")
    s.until("gateway, stop, over: tasks", lambda: s.ask("GET", "/v1/tasks")[0], 200)


def both_frozen(s: Stack) -> None:
    """Together, because the edge waits a minute for each."""
    with s.without("registry", "pause", "unpause"), s.without("gateway", "pause", "unpause"):
        with ThreadPoolExecutor(2) as pool:
            paths = {"gateway": "/v1/models", "registry": "/registry/v1/tools"}
            waiting = {name: pool.submit(s.ask, "GET", path) for name, path in paths.items()}
            for name, answer in waiting.items():
                s.refused(f"{name}, pause", answer.result(), "service_timeout", 63, 504)
    s.until("gateway, pause, over", lambda: s.chat()[0], 200)
    s.until("registry, pause, over", lambda: s.mcp()[0], 200)


def main() -> int:
    """All of it, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--model", default="mcpstack-demo")
    parser.add_argument("--first-byte", type=float, default=120)
    parser.add_argument("--only", help="one part of it, by its function's name")
    s = Stack(parser.parse_args())
    # The public name is nobody's outside this test: every client is sent to loopback.
    resolve = socket.getaddrinfo

    def here(host: Any, *rest: Any, **named: Any) -> Any:
        return resolve("127.0.0.1" if host in (s.options.name, s.options.name.encode()) else host, *rest, **named)

    socket.getaddrinfo = here  # type: ignore[assignment]
    for part in (
        openai_client,
        mcp_client,
        database_stopped,
        limiter_stopped,
        model_stopped,
        worker_stopped,
        registry_stopped,
        gateway_stopped,
        both_frozen,
    ):
        if s.options.only in (None, part.__name__):
            started = time.monotonic()
            part(s)
            print(f"       {part.__name__}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"{s.kept} passed, {len(s.broken)} failed")
    return 1 if s.broken else 0


if __name__ == "__main__":
    sys.exit(main())
