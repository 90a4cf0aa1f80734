# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Break one part of a deployed platform after the other and hold what a client sees against what was promised.

usage: trouble.py HOST --port PORT --name NAME --ca FILE --model MODEL --first-byte SECONDS

The API key comes from the environment as OUTSIDE_KEY. HOST is a test host of tools/testhost. Every part that is stopped is started again, also when a promise is broken.
Prints each promise, and fails with all that are broken.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator

# Asked from inside the gateway, the only service that reaches the model server.
BUSY = """
import urllib.request as u
key = open('/run/secrets/model-api-key/current').read()
text = u.urlopen(u.Request('http://model-runner:8080/metrics', headers={'Authorization': 'Bearer ' + key}), timeout=5).read().decode()
print(next(line.split()[1] for line in text.splitlines() if line.startswith('llamacpp:requests_processing ')))
"""


MCP_VERSION = "2026-07-28"


class Platform:
    """A deployed platform, as a client and as whoever holds its plug."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.key = os.environ["OUTSIDE_KEY"].strip()
        self.context = ssl.create_default_context(cafile=options.ca)
        self.broken: list[str] = []
        self.kept = 0

    def promise(self, text: str, kept: bool, seen: object) -> None:
        """Note one promise."""
        print(f"{'kept  ' if kept else 'BROKEN'} {text}" + ("" if kept else f" (seen: {seen})"), flush=True)
        self.kept += kept
        if not kept:
            self.broken.append(text)

    def docker(self, *argv: str) -> str:
        """Run the engine's client on the host."""
        done = subprocess.run(
            ["docker", "exec", self.options.host, "docker", *argv],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout.strip()

    def unknown_key(self, kid: str) -> str:
        """A key of the right form for this environment that nobody was given."""
        head = "_".join([*self.key.split("_")[:2], kid, "b" * 43])
        return f"{head}_{zlib.crc32(head.encode()):08x}"

    @staticmethod
    def container(service: str) -> str:
        return f"mcpstack-{service}-1"

    def wait_healthy(self, service: str, limit: float = 120) -> float:
        """Seconds until the service is healthy."""
        started = time.monotonic()
        while time.monotonic() - started < limit:
            if self.docker("inspect", "-f", "{{.State.Health.Status}}", self.container(service)) == "healthy":
                return time.monotonic() - started
            time.sleep(0.5)  # between two looks
        raise SystemExit(f"{service} did not become healthy again within {limit:.0f} s.")

    @contextlib.contextmanager
    def without(self, service: str, stop: str, start: str) -> Iterator[None]:
        """Take a service away, and bring it back whatever happens."""
        self.docker(*stop.split(), self.container(service))
        try:
            yield
        finally:
            self.docker(start, self.container(service))
            self.wait_healthy(service)

    def connect(self) -> http.client.HTTPSConnection:
        """A connection to the edge under its public name."""
        connection = http.client.HTTPSConnection(self.options.name, self.options.port, timeout=200)
        raw = socket.create_connection(("127.0.0.1", self.options.port), timeout=200)
        connection.sock = self.context.wrap_socket(raw, server_hostname=self.options.name)
        return connection

    def ask(
        self, method: str, path: str, body: object = None, key: str | None = None, more: dict[str, str] | None = None
    ) -> tuple[int, dict, dict, float]:
        """(status, headers, JSON body, seconds) of one request."""
        connection = self.connect()
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        headers = {
            "Host": self.options.name,
            "Content-Type": "application/json",
            "Authorization": f"Bearer {key or self.key}",
            **(more or {}),
        }
        started = time.monotonic()
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError, ssl.SSLEOFError
        ):  # an early refusal is still answered
            connection.request(method, path, data, headers)
        answer = connection.getresponse()
        raw = answer.read()
        seconds = time.monotonic() - started
        connection.close()
        try:
            parsed = json.loads(raw)
        except ValueError:
            parsed = {"not JSON": raw[:200].decode(errors="replace")}
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, parsed, seconds

    def chat(self, **more: object) -> tuple[int, dict, dict, float]:
        """A short completion."""
        body = {
            "model": self.options.model,
            "max_tokens": 8,
            "messages": [{"role": "user", "content": "hello"}],
            **more,
        }
        return self.ask("POST", "/v1/chat/completions", body)

    def tools(self) -> tuple[int, dict]:
        """The list of MCP tools, in the stateless protocol."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": MCP_VERSION,
            "io.modelcontextprotocol/clientInfo": {"name": "trouble", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": MCP_VERSION,
            "Mcp-Method": "tools/list",
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
        status, _headers, answer, _seconds = self.ask("POST", "/mcp", body, more=headers)
        return status, answer

    def task(self, body: dict) -> str:
        """The id of a new task."""
        status, _headers, answer, _seconds = self.ask("POST", "/v1/tasks", body)
        self.promise(f"a task {body['type']} is taken: 202", status == 202 and bool(answer.get("id")), (status, answer))
        return str(answer.get("id"))

    def task_ends(self, number: str, limit: float = 60) -> str:
        """How a task ended, or what it is doing after so many seconds."""
        started = time.monotonic()
        state = "unknown"
        while time.monotonic() - started < limit:
            state = str(self.ask("GET", f"/v1/tasks/{number}")[2].get("status"))
            if state in ("succeeded", "failed", "cancelled"):
                break
            time.sleep(0.2)  # between two looks
        return state

    def busy_slots(self) -> float:
        """Requests the model server is working on."""
        return float(self.docker("exec", self.container("gateway"), "/usr/bin/python3.13", "-c", BUSY))


def error_of(body: dict) -> dict:
    error = body.get("error")
    return error if isinstance(error, dict) else {}


def model_away(p: Platform) -> None:
    with p.without("model-runner", "stop -t 2", "start"):
        status, headers, body, seconds = p.chat()
        error = error_of(body)
        p.promise("model server down: 503", status == 503, (status, body))
        p.promise("... within 2 s", seconds < 2, f"{seconds:.2f} s")
        p.promise("... with a stable code", error.get("code") == "model_runner_unavailable", error)
        p.promise("... a reason and a suggestion", bool(error.get("message") and error.get("suggestions")), error)
        p.promise("... and when to come back", headers.get("retry-after", "").isdigit(), headers)
        p.promise("... and no address from inside", "model-runner:" not in json.dumps(body), body)
        state = p.docker("inspect", "-f", "{{.State.Health.Status}}", p.container("gateway"))
        p.promise("... while the gateway itself stays healthy", state == "healthy", state)
        status, body = p.tools()
        p.promise("... and tools are listed all the same", status == 200, (status, body))
    status, _headers, body, _seconds = p.chat()
    p.promise("model server back: answers again, nobody did anything", status == 200, (status, body))


def model_slow(p: Platform) -> None:
    limit = p.options.first_byte
    with p.without("model-runner", "pause", "unpause"):
        status, _headers, body, seconds = p.chat()
    p.promise("model server hangs: 504", status == 504, (status, body))
    p.promise(f"... after the configured {limit} s", limit - 0.5 <= seconds <= limit + 3, f"{seconds:.1f} s")


def client_leaves(p: Platform) -> None:
    connection = p.connect()
    body = {
        "model": p.options.model,
        "max_tokens": 1900,
        "stream": True,
        "logit_bias": [[2, -100]],  # never the end of the answer, so that only the client can end it
        "messages": [{"role": "user", "content": "Tell me everything."}],
    }
    headers = {"Host": p.options.name, "Content-Type": "application/json", "Authorization": f"Bearer {p.key}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    answer.read(200)
    sock = connection.sock
    busy = p.busy_slots()
    p.promise("a running stream occupies a slot", answer.status == 200 and busy >= 1, (answer.status, busy))
    answer.close()
    connection.close()
    if sock is not None:
        sock.close()
    started = time.monotonic()
    while p.busy_slots() > 0 and time.monotonic() - started < 10:
        time.sleep(0.1)  # between two looks
    p.promise("the client leaves: its slot is free within a second", time.monotonic() - started < 1.5, "still busy")


def database_away(p: Platform) -> None:
    status, *_rest = p.ask("GET", "/v1/models", key=p.unknown_key("aaaaaaaaaaaa"))
    p.promise("a well-formed unknown key: 401", status == 401, status)
    with p.without("postgres", "stop -t 20", "start"):
        status, _headers, body, _seconds = p.chat()
        p.promise("database down: a known key goes on", status == 200, (status, body))
        status, _headers, body, seconds = p.ask("GET", "/v1/models", key=p.unknown_key("aaaaaaaaaaab"))
        p.promise("... an unknown key is told 503, not 401", status == 503, (status, body))
        p.promise("... without a long wait", seconds < 5, f"{seconds:.1f} s")


def limiter_away(p: Platform) -> None:
    with p.without("valkey", "pause", "unpause"):
        status, _headers, body, seconds = p.chat()
        p.promise("rate limiter frozen: requests go on", status == 200, (status, body))
        p.promise("... without a long wait", seconds < 2, f"{seconds:.1f} s")
        status, body = p.tools()
        p.promise("... at the registry, too", status == 200, (status, body))


def gateway_away(p: Platform) -> None:
    with p.without("gateway", "stop -t 20", "start"):
        status, headers, body, seconds = p.chat()
        p.promise("gateway down: the edge says 503 within 2 s", status == 503 and seconds < 2, (status, seconds, body))
        p.promise("... in the API's own shape", bool(error_of(body).get("code")), body)
        p.promise("... with the security headers", headers.get("x-content-type-options") == "nosniff", headers)
    p.promise("gateway back: answers again", p.chat()[0] == 200, "no answer")
    p.docker("kill", "--signal", "KILL", p.container("gateway"))
    # docker kill counts as a stop by hand, so the restart policy leaves it to us: the crash is simulated from inside below.
    p.docker("start", p.container("gateway"))
    p.wait_healthy("gateway")


def registry_away(p: Platform) -> None:
    with p.without("registry", "stop -t 20", "start"):
        status, body = p.tools()
        p.promise("registry down: 503 at /mcp", status == 503, (status, body))
        p.promise("... in the API's own shape", bool(error_of(body).get("code")), body)
        p.promise("... while completions go on", p.chat()[0] == 200, "refused")
    status, body = p.tools()
    p.promise("registry back: tools are listed again", status == 200 and "result" in body, (status, body))


def worker_away(p: Platform) -> None:
    with p.without("worker", "stop -t 30", "start"):
        number = p.task({"type": "model_cache", "payload": {"full": True}})
        state = str(p.ask("GET", f"/v1/tasks/{number}")[2].get("status"))
        p.promise("worker down: the task waits", state == "queued", state)
    state = p.task_ends(number)
    p.promise("worker back: the task is done, nobody did anything", state == "succeeded", state)


def worker_dies(p: Platform) -> None:
    """Killed by the kernel, as when it uses too much memory; the engine starts it again."""
    pid = p.docker("inspect", "-f", "{{.State.Pid}}", p.container("worker"))
    numbers = [p.task({"type": "model_cache", "payload": {"full": True, "warm_up": False}}) for _unused in range(3)]
    subprocess.run(["docker", "exec", p.options.host, "kill", "-9", pid], check=True)
    states = [p.task_ends(number, 120) for number in numbers]
    p.promise("worker killed with work in hand: all of it is done", states == ["succeeded"] * 3, states)
    p.wait_healthy("worker")


def process_dies(p: Platform) -> None:
    before = int(p.docker("inspect", "-f", "{{.RestartCount}}", p.container("model-runner")))
    pid = p.docker("inspect", "-f", "{{.State.Pid}}", p.container("model-runner"))
    subprocess.run(["docker", "exec", p.options.host, "kill", "-9", pid], check=True)
    started = time.monotonic()
    count = before
    while count == before and time.monotonic() - started < 60:
        count = int(p.docker("inspect", "-f", "{{.RestartCount}}", p.container("model-runner")))
    p.promise("a service that dies is started again by the engine", count == before + 1, count)
    p.wait_healthy("model-runner")


def too_much(p: Platform) -> None:
    status, _headers, body, _seconds = p.ask("POST", "/v1/chat/completions", b'{"x": "' + b"a" * (12 << 20) + b'"}')
    p.promise("a 12 MiB body: 413 with a code", status == 413 and bool(error_of(body).get("code")), (status, body))
    connection = p.connect()
    seen: dict[int, dict] = {}
    for _number in range(400):  # bounded; the limits are far lower
        connection.request("GET", "/v1/models", headers={"Host": p.options.name, "Authorization": f"Bearer {p.key}"})
        answer = connection.getresponse()
        answer.read()
        seen.setdefault(answer.status, {k.lower(): v for k, v in answer.getheaders()})
        if answer.status == 429:
            break
        if answer.will_close:
            connection = p.connect()
    p.promise("too many requests: 429", 429 in seen, sorted(seen))
    p.promise("... with Retry-After", seen.get(429, {}).get("retry-after", "").isdigit(), seen.get(429))
    time.sleep(int(seen.get(429, {}).get("retry-after", "0") or 0))  # as the answer asks
    p.promise("... and after that it goes on", p.chat()[0] == 200, "refused")


def main() -> int:
    """All troubles, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--model", default="mcpstack-demo")
    parser.add_argument("--first-byte", type=float, default=120)
    platform = Platform(parser.parse_args())
    for trouble in (
        model_away,
        client_leaves,
        database_away,
        limiter_away,
        gateway_away,
        registry_away,
        worker_away,
        worker_dies,
        process_dies,
        too_much,
        model_slow,
    ):
        trouble(platform)
    print(f"{platform.kept} passed, {len(platform.broken)} failed")
    return 1 if platform.broken else 0


if __name__ == "__main__":
    sys.exit(main())
