# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry without what it depends on: no Postgres, no Valkey, no schema, no time left."""

from __future__ import annotations

import socket
from collections.abc import Callable

import psycopg
import pytest
from registry_support import Registry, put_key

import support
from mcpstack.common import migrate
from mcpstack.common.errors import ApiError
from mcpstack.registry.service import DatabaseError
from support import Reply, Stack

pytest_plugins = ("registry_fixtures",)


def error(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.code


def test_limits(launch_registry: Callable[..., Registry]) -> None:
    registry = launch_registry()
    key = put_key(registry, "tools:read", rpm=2)
    replies = [registry.get("/v1/servers", key) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[2].code == "rate_limit_exceeded"
    assert int(replies[2].headers["retry-after"]) >= 1
    assert replies[0].headers["x-ratelimit-remaining-requests"] == "1"


def test_places(launch_registry: Callable[..., Registry]) -> None:
    registry = launch_registry()
    key = put_key(registry, "tools:read", concurrency=1)
    assert registry.get("/v1/servers", key).status == 200  # known from here on: what is sent first is admitted first
    head = f"POST /v1/tools/find HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{"
    for ended_by in ("answer", "client"):
        with socket.create_connection(("127.0.0.1", registry.port), 10) as sock:
            sock.sendall(head.encode())
            support.wait_for("the only place is taken", lambda: registry.get("/v1/servers", key).status == 429)
            assert error(registry.get("/v1/servers", key)) == (429, "concurrency_limit_exceeded")
            if ended_by == "answer":
                sock.sendall(b'"query": "x"}')
                assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        support.wait_for("the place is free", lambda: registry.get("/v1/servers", key).status == 200)
        assert registry.get("/v1/servers", key).status == 200  # and was given back by the one before


def test_without_postgres(
    launch_registry: Callable[..., Registry], stack: Stack, cable: Callable[[int], support.Cable]
) -> None:
    line = cable(stack.postgres.port)
    registry = launch_registry(pg_port=line.port, key_cache_seconds="0.5")
    key = put_key(registry, "tools:read,tools:admin")
    assert registry.get("/v1/servers", key).status == 200
    for break_it in (line.pull, line.freeze):
        break_it()
        reply = registry.get("/v1/servers", key)  # within the client's 15 s
        assert error(reply) == (503, "registry_unavailable")
        assert int(reply.headers["retry-after"]) >= 1
        assert error(registry.post("/v1/tools/find", {"query": "x"}, key)) == (503, "registry_unavailable")
        support.wait_for("not ready", lambda: registry.get("/ready").status == 503)
        assert registry.get("/live").status == 200
        assert registry.get("/health").status == 200
        line.plug()
        support.wait_for("working again", lambda: registry.get("/v1/servers", key).status == 200)
        support.wait_for("ready again", lambda: registry.ready() == "ready")
    assert "Traceback" not in registry.log.read_text()


def test_without_valkey(
    launch_registry: Callable[..., Registry], stack: Stack, cable: Callable[[int], support.Cable]
) -> None:
    line = cable(stack.valkey.port)
    registry = launch_registry(valkey_port=line.port)
    key = put_key(registry, "tools:read")
    line.pull()
    support.wait_for("degraded", lambda: registry.ready() == "degraded")
    reply = registry.get("/v1/servers", key)
    assert (reply.status, reply.headers["x-ratelimit-degraded"]) == (200, "local")
    line.plug()
    support.wait_for("ready", lambda: registry.ready() == "ready")


def test_it_waits_for_the_schema_and_refuses_a_newer_one(
    launch_registry: Callable[..., Registry], stack: Stack
) -> None:
    database = stack.postgres.new_database(migrated=False)
    registry = launch_registry(database=database, until=())
    support.wait_for("a reason", lambda: "migrate" in str(registry.get("/ready").json))
    assert registry.get("/ready").status == 503
    with stack.postgres.login(database) as owner:
        migrate.apply(owner)
    support.wait_for("ready", lambda: registry.ready() == "ready")
    with stack.postgres.login(database) as owner:
        owner.execute(
            "INSERT INTO public.schema_version (component, version, name, sha256) VALUES ('registry', 99, 'x', 'y')"
        )
    with pytest.raises(AssertionError, match="ended with 3"):
        launch_registry(database=database)


def test_it_stops_within_its_time(launch_registry: Callable[..., Registry]) -> None:
    registry = launch_registry(shutdown_grace="20", body_timeout="20")
    key = put_key(registry, "tools:read")
    with socket.create_connection(("127.0.0.1", registry.port), 10) as sock:
        _stop_in_the_middle(registry, key, sock)


def _stop_in_the_middle(registry: Registry, key: str, sock: socket.socket) -> None:
    head = (
        f"POST /v1/tools/find HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    )
    sock.sendall(head.encode() + b"Content-Length: 14\r\n\r\n{")
    support.wait_for("the request", lambda: registry.metric("registry_requests_in_flight") >= 2)
    registry.process.terminate()
    support.wait_for("shutting down", lambda: registry.ready() == "shutting_down")
    assert error(registry.get("/v1/servers", key)) == (503, "shutting_down")
    sock.sendall(b'"query": "x"}')
    answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    assert registry.process.wait(10) == 0


def test_psycopg_knows_our_errors() -> None:
    """Work in the background catches Postgres' errors, clients get ours: one class is both."""
    problem = DatabaseError("registry_unavailable", "No.")
    assert isinstance(problem, ApiError)
    assert isinstance(problem, psycopg.OperationalError)
    assert problem.status == 503
