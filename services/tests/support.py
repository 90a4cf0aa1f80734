# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests stand on: real Postgres and Valkey, a model server that fails on demand, our services as processes.

The database is made as on a host: a superuser makes roles, database and extensions, then the owner's login migrates.
A service's login acts as its group role and has what the migrations grant. `Postgres.new_database()` copies a
database that was migrated once, so that every test may have one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psycopg
import trustme
from aiohttp import web

from mcpstack.admin import keystore
from mcpstack.admin import settings as admin_settings
from mcpstack.admin.context import Context
from mcpstack.common import apikey, migrate

MODEL_KEY = "model-key-" + "m" * 32
PEPPER = "5a" * 32
ROOT = Path(__file__).resolve().parent.parent


def make_key(environment: str = "dev", kid: str | None = None) -> str:
    return apikey.generate(environment, kid).text


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(what: str, probe: Callable[[], Any], limit: float = 20.0) -> Any:
    """Poll until `probe` returns something true; the interval is short because the wait usually is."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        with contextlib.suppress(OSError, psycopg.Error, http.client.HTTPException):
            found = probe()
            if found:
                return found
        time.sleep(0.02)
    raise AssertionError(f"waited {limit:g} s in vain: {what}")


# Servers


class Tls(NamedTuple):
    ca: Path
    cert: Path
    key: Path


def make_tls(folder: Path, owner: str | None) -> Tls:
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    found = Tls(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
    authority.cert_pem.write_to_path(str(found.ca))
    leaf.cert_chain_pems[0].write_to_path(str(found.cert))
    leaf.private_key_pem.write_to_path(str(found.key))
    found.key.chmod(0o600)
    if owner:
        shutil.chown(found.key, owner)
    return found


def find_server(*names: str, folders: str = "") -> str:
    """A server binary of the machine's packages; a missing one is a failure, because a skipped proof is no proof."""
    candidates = [shutil.which(name) for name in names]
    if folders:
        candidates += sorted((str(path) for path in Path("/").glob(folders)), key=_version, reverse=True)
    found = next((candidate for candidate in candidates if candidate), None)
    if found is None:
        raise RuntimeError(
            f"None of {', '.join(names)} is installed. Install postgresql and valkey-server (or redis-server)."
        )
    return found


def _version(path: str) -> int:
    return int(re.sub(r"\D", "", path.split("/bin/")[0]) or 0)


VALKEY_USERS = ("gateway", "registry", "worker")
OWNER = "mcpstack_owner"
SERVICES = ("gateway", "registry", "worker")
LOGINS = {"admin_a": OWNER, "gateway_a": "gateway", "registry_a": "registry", "worker_a": "worker"}
DB_PASSWORD = "p" * 32
EXTENSIONS = ("vector",)


@dataclass
class Postgres:
    port: int
    folder: Path
    tls: Tls
    process: subprocess.Popen[bytes]
    templates: dict[bool, str] = field(default_factory=dict)

    def admin(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """As the superuser."""
        return psycopg.connect(
            host=str(self.folder), port=self.port, dbname=database, user="postgres", password="s" * 32, autocommit=True
        )

    def login(self, database: str, user: str = "admin_a") -> psycopg.Connection[Any]:
        """As one of LOGINS, which acts as its group role."""
        return psycopg.connect(
            host=str(self.folder), port=self.port, dbname=database, user=user, password=DB_PASSWORD, autocommit=True
        )

    def new_login(self, name: str, role: str, password: str) -> None:
        """The other login of a pair, as after a rotation."""
        with self.admin() as conn:
            conn.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE {role}".encode())
            conn.execute(f"ALTER ROLE {name} SET role = {role}".encode())

    def drop_login(self, name: str) -> None:
        with self.admin() as conn:
            conn.execute(f"DROP ROLE IF EXISTS {name}".encode())

    def new_database(self, migrated: bool = True) -> str:
        """`migrated=False`: roles and extensions are there, as on a host before the first `mcpstack-admin migrate`."""
        if migrated not in self.templates:
            self.templates[migrated] = self._template(migrated)
        return self._create(self.templates[migrated])

    def _template(self, migrated: bool) -> str:
        if migrated:
            name = self.new_database(migrated=False)
            with self.login(name) as conn:
                migrate.apply(conn)
            return name
        name = self._create("template1")
        with self.admin(name) as conn:
            there = {row[0] for row in conn.execute("SELECT name FROM pg_available_extensions").fetchall()}
            missing = sorted(set(EXTENSIONS) - there)
            if missing:
                raise RuntimeError(f"Postgres lacks {', '.join(missing)}: run tools/bootstrap.py services as root.")
            for extension in EXTENSIONS:
                conn.execute(f"CREATE EXTENSION {extension}".encode())
        return name

    def _create(self, template: str) -> str:
        name = "mcpstack_" + secrets.token_hex(4)
        with self.admin() as conn:
            conn.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER}".encode())
            conn.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC".encode())
            conn.execute(f"GRANT CONNECT ON DATABASE {name} TO {', '.join(SERVICES)}".encode())
        return name


@contextlib.contextmanager
def postgres(folder: Path, tls: Tls, owner: str | None) -> Iterator[Postgres]:
    binaries = Path(find_server("postgres", folders="usr/lib/postgresql/*/bin/postgres")).resolve().parent
    data, port = folder / "data", free_port()
    (folder / "pw").write_text("s" * 32)
    if owner:
        shutil.chown(folder, owner)
        shutil.chown(folder / "pw", owner)
    as_owner: dict[str, Any] = {"user": owner, "cwd": "/"} if owner else {}
    subprocess.run(
        [
            str(binaries / "initdb"),
            "-D",
            str(data),
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "-N",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            f"--pwfile={folder / 'pw'}",
        ],
        check=True,
        capture_output=True,
        timeout=60,
        **as_owner,
    )
    options = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "fsync": "off",
        "ssl": "on",
        "ssl_cert_file": tls.cert,
        "ssl_key_file": tls.key,
        "max_connections": 120,
        "shared_buffers": "16MB",
    }
    command = [str(binaries / "postgres"), "-D", str(data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **as_owner)
    server = Postgres(port, folder, tls, process)
    try:
        wait_for("postgres", lambda: server.admin().close() or True)
        with server.admin() as conn:
            for role in (OWNER, *SERVICES):
                conn.execute(f"CREATE ROLE {role} NOLOGIN".encode())
        for login, role in LOGINS.items():
            server.new_login(login, role, DB_PASSWORD)
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)  # nothing here is worth a checkpoint
        process.wait(20)


@dataclass
class Valkey:
    port: int
    process: subprocess.Popen[bytes]
    password: str = "v" * 32
    operator: str = "o" * 32


def valkey_acl() -> str:
    """The users of the role valkey, with passwords of ours, and an operator who may do everything.

    Redis 7.0, which stands in for Valkey on Debian 12, knows no CLIENT SETINFO, and nothing of ours sends it.
    """
    lines = ["user default off", f"user operator on >{'o' * 32} ~* &* +@all"]
    for line in (ROOT.parent / "roles/valkey/files/users.acl").read_text().splitlines():
        if (match := re.match(r"user (\w+) on #\{sha256:[\w-]+\} ", line)) and match[1] in VALKEY_USERS:
            lines.append(f"user {match[1]} on >{'v' * 32} {line[match.end() :].replace('+client|setinfo ', '')}")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def valkey(folder: Path, tls: Tls, owner: str | None) -> Iterator[Valkey]:
    binary = find_server("valkey-server", "redis-server")
    port = free_port()
    acl = folder / "users.acl"
    acl.write_text(valkey_acl())
    if owner:
        shutil.chown(folder, owner)
        shutil.chown(acl, owner)
    command = [
        binary,
        "--port",
        "0",
        "--tls-port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--tls-cert-file",
        str(tls.cert),
        "--tls-key-file",
        str(tls.key),
        "--tls-ca-cert-file",
        str(tls.ca),
        "--tls-auth-clients",
        "no",
        "--aclfile",
        str(acl),
        "--save",
        "",
        "--dir",
        str(folder),
        "--logfile",
        str(folder / "log"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **({"user": owner} if owner else {}))
    try:
        wait_for("valkey", lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True)
        yield Valkey(port, process)
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(20)


class Loop:
    """An event loop in a thread, for helpers that must go on while a test waits."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def close(self) -> None:
        async def cancel() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Cable:
    """A TCP connection between the gateway and a server that can be pulled out, or frozen with everything on it."""

    def __init__(self, loop: Loop, target: int) -> None:
        self._loop, self._target = loop, target
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self.plug()

    def plug(self) -> None:
        async def start() -> None:
            self._flowing.set()
            if self._server is None:
                self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

        self._loop.run(start())

    def freeze(self) -> None:
        async def stop() -> None:
            self._flowing.clear()

        self._loop.run(stop())

    def pull(self) -> None:
        async def stop() -> None:
            server, self._server = self._server, None
            if server is not None:
                server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0)

        self._loop.run(stop())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(other_writer)
        if self._server is None:  # pulled out while this connection was being made
            writer.transport.abort()
            other_writer.transport.abort()
        await asyncio.gather(self._pump(reader, other_writer), self._pump(other_reader, writer))
        self._writers -= {writer, other_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@dataclass
class Runner:
    """Answers like llama.cpp's server, and misbehaves when the last message asks it to (#die, #hang, ...)."""

    loop: Loop
    port: int = 0
    models: list[str] = field(default_factory=lambda: ["tiny", "org/tiny-embed"])
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    streaming: int = 0
    broken_off: int = 0
    loading: bool = False
    _runner: web.AppRunner | None = None

    def start(self) -> None:
        self.port = self.port or free_port()

        async def go() -> None:
            app = web.Application(client_max_size=1 << 28)
            app.router.add_get("/health", self._health)
            app.router.add_get("/v1/models", self._models)
            app.router.add_post("/v1/chat/completions", self._chat)
            app.router.add_post("/v1/embeddings", self._embeddings)
            self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

        self.loop.run(go())

    def stop(self) -> None:
        if self._runner is not None:
            self.loop.run(self._runner.cleanup())
            self._runner = None

    def _refuse(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {MODEL_KEY}":
            return web.json_response({"error": {"message": "Invalid API Key", "code": 401}}, status=401)
        if self.loading:
            return web.json_response({"error": {"message": "Loading model", "type": "unavailable_error"}}, status=503)
        return None

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"}, status=503 if self.loading else 200)

    async def _models(self, request: web.Request) -> web.Response:
        data = [
            {"id": name, "object": "model", "created": 1, "owned_by": "llamacpp", "meta": {"path": "/models/x"}}
            for name in self.models
        ]
        return self._refuse(request) or web.json_response({"object": "list", "data": data})

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.seen.append((request.path, dict(request.headers), body))
        usage = {"prompt_tokens": 2, "total_tokens": 2}
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        return self._refuse(request) or web.json_response(
            {"object": "list", "model": body["model"], "data": data, "usage": usage}
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append((request.path, dict(request.headers), body))
        if refused := self._refuse(request):
            return refused
        content = body["messages"][-1].get("content")
        word = content if isinstance(content, str) else ""
        if word.startswith("#status "):
            _, status, message = word.split(" ", 2)
            return web.json_response({"error": {"message": message, "type": "x"}}, status=int(status))
        if word == "#context":
            error = {"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}
            return web.json_response({"error": error}, status=400)
        if word == "#drop":
            request.transport.abort()
        if word == "#garbage":
            return web.Response(text="<html>oops</html>", content_type="text/html")
        if word.startswith("#wait "):
            try:
                await asyncio.sleep(float(word.split()[1]))
            except asyncio.CancelledError:
                self.broken_off += 1
                raise
        if not body.get("stream"):
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello there"}}
            return web.json_response(
                {
                    "id": "c1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": body["model"],
                    "choices": [choice],
                    "usage": usage,
                }
            )
        return await self._stream(request, word)

    async def _stream(self, request: web.Request, word: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        self.streaming += 1
        try:
            pieces = 200 if word == "#slow" else 8
            for number in range(pieces):
                await response.write(_event(number))
                await asyncio.sleep(0.05 if word == "#slow" else 0.002)
                if number == 2 and word == "#die":
                    await response.write(_event(3)[:20])  # half an event
                    await asyncio.sleep(0.05)
                    request.transport.abort()
                    return response
                if number == 2 and word == "#end":
                    await response.write_eof()
                    return response
                if number == 2 and word == "#hang":
                    await asyncio.sleep(60)
            usage = {"completion_tokens": 8, "prompt_tokens": 3, "total_tokens": 11}
            last = {
                "id": "c1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "tiny",
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "usage": usage,
            }
            await response.write(b"data: " + json.dumps(last).encode() + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionError):
            self.broken_off += 1
            raise
        finally:
            self.streaming -= 1
        return response


def _event(number: int) -> bytes:
    delta = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny",
        "choices": [{"index": 0, "delta": {"content": f"w{number} "}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(delta).encode() + b"\n\n"


# Our services


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def events(self) -> list[Any]:
        blocks = self.body.decode().split("\n\n")
        datas = [block.removeprefix("data: ") for block in blocks if block.startswith("data: ")]
        return [data if data == "[DONE]" else json.loads(data) for data in datas]


@dataclass
class Service:
    """A running process of ours, its log and the environment it was started with."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    env: dict[str, str]

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        limit: float = 15,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
        try:
            sent = dict(headers or {})
            if key is not None:
                sent["Authorization"] = f"Bearer {key}"
            if body is not None:
                sent.setdefault("Content-Type", "application/json")
            connection.request(method, path, body=body, headers=sent, encode_chunked=not isinstance(body, bytes))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path: str, key: str | None = None, **more: Any) -> Reply:
        return self.call("GET", path, None, key, **more)

    def post(self, path: str, payload: Any, key: str | None = None, **more: Any) -> Reply:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return self.call("POST", path, body, key, **more)

    def metric(self, name: str) -> float:
        """The sum of all series of a metric."""
        lines = self.get("/metrics").body.decode().splitlines()
        values = [line.rsplit(" ", 1)[1] for line in lines if re.match(re.escape(name) + r"(\{| )", line)]
        return sum(float(value) for value in values)

    def ready(self) -> str:
        return str(self.get("/ready").json["status"])

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def admin(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return run_admin(self.env, *arguments, stdin=stdin)

    def stop(self, limit: float = 15) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(limit)


@dataclass
class Gateway(Service):
    def chat(self, key: str, word: str = "hello", stream: bool = False, **more: Any) -> Reply:
        payload = {"model": "tiny", "messages": [{"role": "user", "content": word}], "stream": stream}
        return self.post("/v1/chat/completions", payload, key, **more)

    def open_stream(self, key: str, word: str) -> socket.socket:
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": word}], "stream": True}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        sock = socket.create_connection(("127.0.0.1", self.port), 10)
        sock.sendall(head.encode() + body)
        return sock


def run_admin(env: dict[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcpstack.admin", *arguments],
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def write_secrets(folder: Path, values: dict[str, str]) -> dict[str, str]:
    """Secret files, laid out as on a host: versions and a `current` link. Returns the path of each."""
    paths = {}
    for name, value in values.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "v1").write_text(value)
        if not (folder / name / "current").is_symlink():
            (folder / name / "current").symlink_to("v1")
        paths[name] = str(folder / name / "current")
    return paths


def swap_secret(path: str | Path, value: str) -> None:
    """A new version, and the link switched to it in one step."""
    folder = Path(path).parent
    version = f"v{len(list(folder.glob('v*'))) + 1}"
    (folder / version).write_text(value)
    (folder / "new").symlink_to(version)
    (folder / "new").replace(folder / "current")


def service_environment(
    service: str,
    folder: Path,
    tls: Tls,
    database: str,
    pg_port: int,
    valkey_port: int | None = None,
    **settings: str,
) -> dict[str, str]:
    """The environment of any service of ours: login, peppers, Postgres, Valkey where a port is given, an own port.

    `settings` are more of its settings, by their names without the prefix, in lower case. The admin command finds its
    own settings in it as well, so that `run_admin(service.env, ...)` works.
    """
    prefix = service.upper() + "_"
    files = write_secrets(
        folder,
        {
            f"{service}-db": f"{service}_a:{DB_PASSWORD}",
            "admin-db": f"admin_a:{DB_PASSWORD}",
            "gateway-pepper": f"1:{PEPPER}",
            f"valkey-{service}": "v" * 32,
        },
    )
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    env = kept | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    for names, login in ((prefix, f"{service}-db"), ("ADMIN_", "admin-db")):
        env |= {
            f"{names}ENVIRONMENT": "development",
            f"{names}DB_HOST": "localhost",
            f"{names}DB_PORT": str(pg_port),
            f"{names}DB_NAME": database,
            f"{names}DB_LOGIN_FILE": files[login],
            f"{names}TLS_CA_FILE": str(tls.ca),
        }
    env |= {"ADMIN_PEPPER_FILE": files["gateway-pepper"], "ADMIN_SERVICES": ""}
    if service != "admin":
        env |= {f"{prefix}HOST": "127.0.0.1", f"{prefix}PORT": str(free_port())}
    if service in ("gateway", "registry"):
        env[f"{prefix}PEPPER_FILE"] = files["gateway-pepper"]
    if valkey_port is not None:
        env |= {
            f"{prefix}VALKEY_HOST": "localhost",
            f"{prefix}VALKEY_PORT": str(valkey_port),
            f"{prefix}VALKEY_PASSWORD_FILE": files[f"valkey-{service}"],
        }
    return env | {prefix + name.upper(): value for name, value in settings.items()}


def environment(
    folder: Path, tls: Tls, pg_port: int, database: str, valkey_port: int, model_port: int
) -> dict[str, str]:
    """The environment of a gateway and its secret files."""
    return service_environment(
        "gateway",
        folder,
        tls,
        database,
        pg_port,
        valkey_port,
        model_url=f"http://localhost:{model_port}",
        model_api_key_file=write_secrets(folder, {"model-api-key": MODEL_KEY})["model-api-key"],
    )


S = TypeVar("S", bound=Service)


def start_service(
    module: str,
    env: dict[str, str],
    log: Path,
    *,
    port: str,
    until: tuple[str, ...] = ("ready",),
    kind: type[S] = Service,  # type: ignore[assignment]
    limit: float = 20,
) -> S:
    """Start `python -m MODULE` with its environment; `port` is the name of the setting that holds its port.

    `until`: the readiness to wait for; an empty tuple waits for /health only.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen([sys.executable, "-m", module], env=env, stderr=sink, stdout=sink)
    service = kind(int(env[port]), process, log, env)

    def up() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"{module} ended with {process.returncode}: {log.read_text()[-3000:]}")
        return service.get("/health").status == 200 and (not until or service.ready() in until)

    try:
        wait_for(f"{module} to be {until}", up, limit)
    except BaseException as error:
        process.kill()
        process.wait()
        if isinstance(error, AssertionError) and process.returncode == -signal.SIGKILL:
            raise AssertionError(f"{error}; its log ends with {log.read_text()[-3000:]}") from None
        raise
    return service


def start_gateway(env: dict[str, str], log: Path, until: tuple[str, ...] = ("ready",)) -> Gateway:
    return start_service("mcpstack.gateway", env, log, port="GATEWAY_PORT", until=until, kind=Gateway)


# What every test is given


@dataclass
class Stack:
    loop: Loop
    tls: Tls
    postgres: Postgres
    valkey: Valkey
    runner: Runner


Launch = Callable[..., Gateway]


def put_key(
    service: Service,
    *,
    name: str = "test",
    scopes: str = "chat,embeddings,models",
    expires_at: str | None = None,
    cache: bool = False,
    **limits: int | None,
) -> str:
    """What `mcpstack-admin keys put` does, without the start of a process; `limits`: rpm, concurrency, tpm, ..."""
    key = make_key()
    context = Context(*admin_settings.load(service.env))
    want = keystore.wanted(name, scopes, expires_at, cache, **limits)
    with context.connect() as conn, conn.transaction():
        parsed = apikey.parse(key)
        assert parsed is not None
        assert keystore.put(conn, parsed, want, context.secrets.pepper.read(), check=False)["changed"] is True
    return key
