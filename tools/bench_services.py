# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure gateway and registry with everything on: keys, limits, usage, log lines, metrics, audit log and records of calls.

usage: bench_services.py [gateway] [registry] [litellm]     (default: all)

gateway   wrk with 16 connections against the model server alone and through the gateway, in turns: whole answers and
          unpaced streams of 64 chunks, then the time to the first chunk, one request after the other
registry  1,000 tools: searches and tool calls, 16 connections
litellm   LiteLLM's proxy, one worker, with one key and without a database, before the same model server and in turns with the
          gateway; left out where tools/bootstrap.py litellm has not installed it

The model server and the MCP server are one C program (bench_upstream.c), Postgres and Valkey the ones of the tests, all
on loopback with TLS where production has it. Rates and processor times are medians of rounds. wrk, the servers and the
service share this machine: on a busy one the rates fall, and the processor time of a request is the figure to trust.
BENCH_ROUNDS (3) and BENCH_SECONDS (5, of a round) change the effort.

A benchmark, not a test: a figure over its limit is marked, and the exit status says so.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".cache" / "venv-services"
PEER = ROOT / ".cache" / "venv-litellm"
CONNECTIONS = 16
TOOLS = 1000
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "5"))
WARM_UP = 2
TTFT = 150
QUESTIONS = (
    "list the files of a folder",
    "create an invoice",
    "search my messages",
    "merge a branch",
    "read the calendar",
)

CHAT = {"model": "bench", "messages": [{"role": "user", "content": "Say something about the quick brown fox, please."}]}


# What runs in the services' own environment


class Wrk:
    """One run of wrk, and what it said."""

    def __init__(self, url: str, key: str, bodies: list[bytes], seconds: float = SECONDS) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            table = ",\n".join(json.dumps(body.decode()) for body in bodies)
            script.write(
                f"local bodies = {{{table}}}\nlocal n = 0\nwrk.method = 'POST'\n"
                f"wrk.headers['Content-Type'] = 'application/json'\nwrk.headers['Authorization'] = 'Bearer {key}'\n"
                "request = function() n = n + 1 return wrk.format(nil, nil, nil, bodies[n % #bodies + 1]) end\n"
                "done = function(s, l, r) io.write('FIGURES ', s.requests, ' ', s.duration, ' ', s.errors.status, ' ',"
                " s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout, ' ', l:percentile(50), ' ',"
                " l:percentile(95), '\\n') end\n"
            )
            script.flush()
            argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script.name, url]
            out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        found = re.search(r"FIGURES (.*)", out)
        if found is None:
            raise RuntimeError(out)
        self.requests, took, refused, broken, p50, p95 = (float(word) for word in found[1].split())
        if refused or broken or not self.requests:
            raise RuntimeError(f"{url}: {refused:.0f} answers were errors, {broken:.0f} connections failed\n{out}")
        self.rate = self.requests / (took / 1e6)
        self.p50, self.p95 = p50 / 1000, p95 / 1000


def cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise RuntimeError(f"process {pid} is gone")
    return int(found[1]) * 1024 / 1e6


class Bench:
    """Servers, keys and processes of one session."""

    def __init__(self, folder: Path) -> None:
        sys.path[:0] = [str(ROOT / "services" / "tests"), str(ROOT / "services" / "src")]
        import support

        self.support = support
        self.folder = folder
        self.stack = contextlib.ExitStack()
        owner = "postgres" if os.geteuid() == 0 else None
        folder.chmod(0o755)
        for part in ("tls", "pg", "vk"):
            (folder / part).mkdir()
        self.tls = support.make_tls(folder / "tls", owner)
        self.postgres = self.stack.enter_context(support.postgres(folder / "pg", self.tls, owner))
        self.valkey = self.stack.enter_context(support.valkey(folder / "vk", self.tls, owner))
        self.upstream = self._upstream()
        self.number = 0

    def _upstream(self) -> int:
        binary = self.folder / "upstream"
        source = ROOT / "tools" / "bench_upstream.c"
        subprocess.run(["gcc", "-O2", "-pthread", "-o", str(binary), str(source)], check=True)
        port = self.support.free_port()
        process = subprocess.Popen([str(binary), str(port), str(TOOLS)])
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        self.support.wait_for("the upstream", lambda: self._get(port, "/health") == 200)
        return port

    def _get(self, port: int, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def service(self, name: str, **settings: str) -> tuple[Any, float]:
        """A running service, and how long it took until it was ready."""
        self.number += 1
        support, folder = self.support, self.folder / f"{name}{self.number}"
        env = support.service_environment(
            name, folder, self.tls, self.postgres.new_database(), self.postgres.port, self.valkey.port,
            model_url=f"http://localhost:{self.upstream}",
            model_api_key_file=support.write_secrets(folder, {"model-api-key": support.MODEL_KEY})["model-api-key"],
            environment="production", **settings,
        )  # fmt: skip
        env.pop("PYTHONUNBUFFERED")
        began = time.monotonic()
        found = support.start_service(
            f"mcpstack.{name}", env, self.folder / f"{name}{self.number}.log", port=f"{name.upper()}_PORT"
        )
        ready = time.monotonic() - began
        self.stack.callback(found.stop)
        return found, ready

    def key(self, service: Any, scopes: str) -> str:
        """Every limit is set, and none is met."""
        from mcpstack.admin import keystore, settings
        from mcpstack.admin.context import Context
        from mcpstack.common import apikey

        key = apikey.generate("prod", None).text
        parsed = apikey.parse(key)
        most = {"rpm": 1_000_000, "concurrency": 1000, "tpm": 10**9, "tokens_day": 10**12, "tokens_month": 10**12}
        want = keystore.wanted("bench", scopes, None, False, **most)
        context = Context(*settings.load(service.env | {"ADMIN_ENVIRONMENT": "production"}))
        with context.connect() as conn, conn.transaction():
            keystore.put(conn, parsed, want, context.secrets.pepper.read(), check=False)
        return str(key)


@contextlib.contextmanager
def session() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="mcpstack-bench-") as name:
        bench = Bench(Path(name))
        with bench.stack:
            yield bench


def body(**more: Any) -> bytes:
    return json.dumps(CHAT | more, separators=(",", ":")).encode()


def load(url: str, key: str, bodies: list[bytes], pid: int | None = None) -> tuple[Wrk, float]:
    """A run, and the processor time of each request in the process `pid`."""
    before = cpu_ms(pid) if pid else 0.0
    run = Wrk(url, key, bodies)
    return run, ((cpu_ms(pid) - before) / run.requests if pid else 0.0)


def first_chunk(port: int, key: str, limit: float = 10) -> float:
    """ms until the first chunk of one stream, on a connection that is there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit)
    connection.connect()
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        began = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body(stream=True), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}")
        answer.read(1)
        took = time.perf_counter() - began
        answer.read()
        return took * 1000
    finally:
        connection.close()


def middle(values: list[float]) -> float:
    return statistics.median(values)


def gateway(bench: Bench) -> dict[str, float]:
    service, ready = bench.service("gateway")
    key = bench.key(service, "chat")
    through, alone = (f"http://127.0.0.1:{port}/v1/chat/completions" for port in (service.port, bench.upstream))
    bodies = {"json": [body()], "stream": [body(stream=True)]}
    for sent in bodies.values():
        Wrk(through, key, sent, WARM_UP)
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for kind, sent in bodies.items():
            direct, _ = load(alone, key, sent)
            run, cpu = load(through, key, sent, service.process.pid)
            for name, value in (("rate", run.rate), ("cpu", cpu), ("p50", run.p50), ("direct", direct.rate)):
                found.setdefault(f"{kind} {name}", []).append(value)
    first: dict[str, list[float]] = {"through": [], "alone": []}
    for number in range(TTFT):
        for name, port in (("through", service.port), ("alone", bench.upstream)):
            took = first_chunk(port, key)
            if number >= 10:
                first[name].append(took)
    medians = {name: middle(values) for name, values in found.items()}
    return medians | {
        "ttft": middle(first["through"]) - middle(first["alone"]),
        "ready": ready,
        "rss": resident_mb(service.process.pid),
    }


def registry(bench: Bench) -> dict[str, float]:
    service, ready = bench.service("registry", outbound_allow="127.0.0.1,localhost")
    key = bench.key(service, "tools:read,tools:call,tools:admin")
    url = f"http://127.0.0.1:{service.port}"
    made = service.post(
        "/v1/servers",
        {"id": "bench", "url": f"http://127.0.0.1:{bench.upstream}/mcp", "trust": "trusted"},
        key,
    )
    if made.status != 201:
        raise RuntimeError(made)
    synced = service.post("/v1/servers/bench/sync", {}, key, limit=120)
    if synced.status != 200:
        raise RuntimeError(synced)
    with bench.postgres.admin(service.env["REGISTRY_DB_NAME"]) as conn:
        row = conn.execute("SELECT count(*) FROM registry.tool WHERE status = 'active'").fetchone()
        if row is None or row[0] != TOOLS:
            raise RuntimeError(f"{row} tools are there instead of {TOOLS}")
    asked = {
        "search": (f"{url}/v1/tools/find", [json.dumps({"query": text}).encode() for text in QUESTIONS]),
        "call": (f"{url}/v1/tools/bench/list_file_0/call", [b'{"arguments":{"name":"x"}}']),
    }
    for target, bodies in asked.values():
        Wrk(target, key, bodies, WARM_UP)
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for kind, (target, bodies) in asked.items():
            run, cpu = load(target, key, bodies, service.process.pid)
            for name, value in (("rate", run.rate), ("cpu", cpu), ("p50", run.p50), ("p95", run.p95)):
                found.setdefault(f"{kind} {name}", []).append(value)
    return {name: middle(values) for name, values in found.items()} | {
        "ready": ready,
        "rss": resident_mb(service.process.pid),
    }


def litellm(bench: Bench) -> dict[str, float]:
    config = bench.folder / "litellm.yaml"
    model = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{bench.upstream}/v1", "api_key": "none"}
    master = "sk-" + secrets.token_hex(24)  # it does not start without one
    settings = {"master_key": master}
    entry = {"model_name": "bench", "litellm_params": model}
    config.write_text(json.dumps({"model_list": [entry], "general_settings": settings}))  # JSON is YAML
    port = bench.support.free_port()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    peer = subprocess.Popen(
        [str(PEER / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)],
        env=kept | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        cwd=bench.folder, stdout=(bench.folder / "litellm.log").open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    bench.stack.callback(peer.wait)
    bench.stack.callback(peer.terminate)

    def up() -> bool:
        if peer.poll() is not None:
            raise RuntimeError((bench.folder / "litellm.log").read_text()[-2000:])
        return bench._get(port, "/health/liveliness") == 200

    bench.support.wait_for("litellm", up, 120)
    first_chunk(port, master, limit=60)  # it loads much of itself with its first request
    service, _ = bench.service("gateway")
    key = bench.key(service, "chat")
    sides = {"ours": (service.port, service.process.pid, key), "theirs": (port, peer.pid, master)}
    found: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        for name, (at, pid, credential) in sides.items():
            run, cpu = load(f"http://127.0.0.1:{at}/v1/chat/completions", credential, [body()], pid)
            if number:  # the first round warms up
                found.setdefault(f"{name} rate", []).append(run.rate)
                found.setdefault(f"{name} cpu", []).append(cpu)
    found["ratio"] = [ours / theirs for ours, theirs in zip(found["ours rate"], found["theirs rate"], strict=True)]
    return {name: middle(values) for name, values in found.items()}


DRIVERS: dict[str, Callable[[Bench], dict[str, float]]] = {"gateway": gateway, "registry": registry, "litellm": litellm}


def drive(part: str) -> None:
    with session() as bench:
        print(json.dumps(DRIVERS[part](bench)))


# What runs where the other benchmarks run


def _measure(part: str) -> dict[str, float]:
    from figures import BenchError, say

    for program, package in (("wrk", "wrk"), ("gcc", "gcc")):
        if shutil.which(program) is None:
            raise BenchError(f"{package} is missing: run `tools/bootstrap.py bench` as root.")
    if not (VENV / "bin" / "python").exists():
        raise BenchError("The services' libraries are missing: run `tools/bootstrap.py services` as root.")
    argv = [str(VENV / "bin" / "python"), str(Path(__file__).resolve()), "--drive", part]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"The measurement failed:\n{(done.stdout + done.stderr)[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    say(", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    return found


def gateway_figures() -> list[Any]:
    from figures import Figure

    found = _measure("gateway")
    return [
        Figure("gateway: whole answers a second", found["json rate"], 2000, "/s", least=True),
        Figure("gateway: streams of 64 chunks a second", found["stream rate"], 700, "/s", least=True),
        Figure("gateway: processor time of a whole answer", found["json cpu"], 1, "ms"),
        Figure("gateway: added to the first chunk, p50", found["ttft"], 3, "ms"),
        Figure("gateway: resident after that", found["rss"], 120, "MB"),
        Figure("gateway: ready after", found["ready"], 3, "s"),
    ]


def registry_figures() -> list[Any]:
    from figures import Figure

    found = _measure("registry")
    return [
        Figure("registry: tool calls a second", found["call rate"], 150, "/s", least=True),
        Figure("registry: searches over 1,000 tools a second", found["search rate"], 300, "/s", least=True),
        Figure("registry: a search at 16 connections, p95", found["search p95"], 20, "ms"),
        Figure("registry: resident after that", found["rss"], 120, "MB"),
        Figure("registry: ready after", found["ready"], 3, "s"),
    ]


def litellm_figures() -> list[Any]:
    from figures import Figure, say

    if not (PEER / "bin" / "litellm").exists():
        say("LiteLLM is not installed (tools/bootstrap.py litellm): left out")
        return []
    found = _measure("litellm")
    return [Figure("gateway: answers a second, times LiteLLM's", found["ratio"], 20, "x", least=True)]


PARTS = {"gateway": gateway_figures, "registry": registry_figures, "litellm": litellm_figures}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        drive(sys.argv[2])
        raise SystemExit(0)
    from figures import run

    raise SystemExit(run(PARTS, sys.argv[1:]))
