# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The handlers themselves, each run twice: the second run finds its work done."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from aiohttp import web
from psycopg_pool import AsyncConnectionPool

import support
from mcpstack.registry.store import Store
from mcpstack.worker import payloads, settings
from mcpstack.worker.kinds import PermanentError, TaskError, Work
from mcpstack.worker.metrics import Metrics
from mcpstack.worker.settings import database_parameters
from mcpstack.worker.tasks import (
    KINDS,
    data_cleanup,
    health_check,
    model_cache,
    registry_sync,
    usage_rollup,
    vector_index,
)
from support import Stack


class Embeddings(support.Runner):
    """A vector for each text, as long as the text says."""

    async def _embeddings(self, request: web.Request) -> web.Response:
        texts = (await request.json())["input"]
        data = [
            {"object": "embedding", "index": number, "embedding": [float(len(text)), 1.0]}
            for number, text in enumerate(texts)
        ]
        return self._refuse(request) or web.json_response({"object": "list", "model": "x", "data": data})


class Hands:
    """Runs a handler as the worker does: as the worker's role, with a pool and a client of its own."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.name = stack.postgres.new_database()
        self.metrics = Metrics(kind.name for kind in KINDS)
        (folder / "models").mkdir()
        key = support.write_secrets(folder, {"model-api-key": support.MODEL_KEY})["model-api-key"]
        env = support.service_environment(
            "worker",
            folder,
            stack.tls,
            self.name,
            stack.postgres.port,
            model_url=f"http://localhost:{stack.runner.port}",
            model_api_key_file=key,
            models_dir=str(folder / "models"),
            gateway_url="",
            registry_url="",
            valkey_host="localhost",
            outbound_allow="127.0.0.1",
        )
        self.settings, self.secrets = settings.load({key: env[key] for key in env if key.startswith("WORKER_")})
        self.set(valkey_port=stack.valkey.port)
        self.db: psycopg.Connection[Any] = stack.postgres.login(self.name)

    def set(self, **values: Any) -> None:
        self.settings = dataclasses.replace(self.settings, **values)

    def run(
        self, handler: Callable[..., Awaitable[Any]], payload: Any, stopping: Callable[[], bool] = lambda: False
    ) -> Any:
        async def go() -> Any:
            pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
                kwargs=lambda: database_parameters(self.settings, self.secrets), min_size=0, max_size=16, open=False
            )
            async with pool, aiohttp.ClientSession(trust_env=False) as http:
                work = Work(self.settings, self.secrets, pool, http, self.metrics, 1, 1, stopping)
                return await handler(work, payload)

        return asyncio.run(go())

    def rows(self, query: str, *values: Any) -> list[Any]:
        return self.db.execute(query.encode(), values or None).fetchall()


@pytest.fixture
def hands(stack: Stack, tmp_path: Path) -> Any:
    found = Hands(stack, tmp_path)
    yield found
    found.db.close()


# data_cleanup and usage_rollup


def usage(hands: Hands, kid: str, days_ago: int, requests: int) -> None:
    hands.db.execute(
        "INSERT INTO gateway.usage_day VALUES (%s, 'm', (now() AT TIME ZONE 'UTC')::date - %s::int, %s, 10, 20)",
        (kid, days_ago, requests),
    )


def test_rollup_replaces_and_never_shrinks(hands: Hands) -> None:
    hands.set(keep_usage_days=62)
    usage(hands, "a", 0, 3)
    usage(hands, "old", 200, 7)
    assert hands.run(usage_rollup.run, payloads.Nothing()) == {"changed": 1}  # the old month may have lost days
    assert hands.run(usage_rollup.run, payloads.Nothing()) == {"changed": 0}
    hands.db.execute("UPDATE gateway.usage_day SET requests = 5 WHERE kid = 'a'")
    assert hands.run(usage_rollup.run, payloads.Nothing()) == {"changed": 1}
    month = "date_trunc('month', now() AT TIME ZONE 'UTC')::date"
    assert hands.rows(f"SELECT kid, requests, tokens_in, tokens_out, month = {month} FROM jobs.usage_month") == [
        ("a", 5, 10, 20, True)
    ]


def test_cleanup(hands: Hands) -> None:
    def job(status: str, days: int) -> None:
        row = hands.db.execute("SELECT jobs.defer('health_check')").fetchone()
        hands.db.execute(f"UPDATE jobs.procrastinate_jobs SET status = '{status}' WHERE id = %s".encode(), row)
        hands.db.execute(
            f"UPDATE jobs.procrastinate_events SET at = now() - interval '{days} days' WHERE job_id = %s".encode(), row
        )

    for status in ("succeeded", "cancelled", "aborted", "failed", "todo"):
        job(status, 8)
        job(status, 6)
    job("failed", 91)
    hands.db.execute(
        "INSERT INTO jobs.procrastinate_jobs (queue_name, task_name, status) "
        "SELECT 'default', 'health_check', 'succeeded' FROM generate_series(1, 2500)"
    )
    usage(hands, "kept", 61, 1)
    usage(hands, "gone", 200, 1)
    usage(hands, "lonely", 200, 1)
    hands.db.execute(
        "INSERT INTO jobs.usage_month SELECT kid, model, date_trunc('month', day)::date, requests, 1, 1 "
        "FROM gateway.usage_day WHERE kid = 'gone'"
    )
    hands.db.execute(
        "CREATE TABLE registry.tool_call_202001 PARTITION OF registry.tool_call "
        "FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z')"
    )
    hands.set(keep_usage_days=62)
    answer = hands.run(data_cleanup.run, payloads.Nothing())
    assert answer["partitions_dropped"] == ["tool_call_202001"]
    assert (answer["jobs"], answer["dead_letters"], answer["usage_days"]) == (2503, 1, 1)
    assert hands.rows("SELECT status::text, count(*) FROM jobs.procrastinate_jobs GROUP BY 1 ORDER BY 1") == [
        ("aborted", 1),
        ("cancelled", 1),
        ("failed", 2),
        ("succeeded", 1),
        ("todo", 2),
    ]
    assert hands.rows("SELECT kid FROM gateway.usage_day ORDER BY 1") == [("kept",), ("lonely",)]
    again = hands.run(data_cleanup.run, payloads.Nothing())
    assert again == {"partitions_made": [], "partitions_dropped": [], "jobs": 0, "dead_letters": 0, "usage_days": 0}


# health_check


def test_health(hands: Hands) -> None:
    hands.db.execute("INSERT INTO jobs.service_health VALUES ('retired', true, NULL, 1, now(), now())")
    everything = {"postgres": "up", "model_runner": "up", "valkey": "up"}
    assert hands.run(health_check.run, payloads.HealthCheck()) == everything
    first = hands.rows("SELECT service, up, since FROM jobs.service_health ORDER BY 1")
    assert [row[0] for row in first] == ["model_runner", "postgres", "valkey"]
    closed = support.free_port()
    hands.set(
        gateway_url=f"http://localhost:{closed}", valkey_port=closed, registry_url="http://no-such-host.invalid:1"
    )
    seen = hands.run(health_check.run, payloads.HealthCheck())
    assert seen == everything | {"gateway": "no connection", "registry": "no connection", "valkey": "no connection"}
    second = {row[0]: row[1:] for row in hands.rows("SELECT service, up, since, latency_ms FROM jobs.service_health")}
    assert second["model_runner"][1] == first[0][2]  # it has been up since then
    assert second["valkey"][1] != first[2][2]
    hands.set(
        gateway_url=f"http://localhost:{hands.stack.postgres.port}",
        model_url=f"http://localhost:{hands.stack.valkey.port}",
    )
    seen = hands.run(health_check.run, payloads.HealthCheck())
    assert {seen["gateway"], seen["model_runner"]} == {"no connection"}


# model_cache


def model(hands: Hands, name: str, content: bytes) -> dict[str, Any]:
    path = hands.folder / "models" / name
    path.write_bytes(content)
    return {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def manifest(hands: Hands, *files: Any, raw: str | None = None) -> None:
    path = hands.folder / "manifest.json"
    path.write_text(raw if raw is not None else json.dumps({"files": files}))
    hands.set(models_manifest=path)


def test_models(hands: Hands) -> None:
    one, two = model(hands, "one.gguf", b"1" * 3_000_000), model(hands, "two.gguf", b"2")
    manifest(hands, one, two)
    answer = hands.run(model_cache.run, payloads.ModelCache())
    assert answer["files"] == 2
    assert answer["free_bytes"] > 0
    assert answer["warmed_up"] == "tiny"
    path = hands.folder / "models" / "one.gguf"
    times = path.stat()
    path.write_bytes(b"x" * 3_000_000)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    quick = payloads.ModelCache(warm_up=False)
    assert hands.run(model_cache.run, quick)["files"] == 2  # same size and time: not read again
    with pytest.raises(PermanentError) as caught:
        hands.run(model_cache.run, payloads.ModelCache(full=True, warm_up=False))
    assert (caught.value.reason, caught.value.message) == (
        "model_files_wrong",
        "Not what the manifest says: one.gguf: wrong_hash",
    )
    assert hands.run(model_cache.run, payloads.ModelCache(files=["two.gguf"], warm_up=False))["files"] == 1
    (hands.folder / "models" / "two.gguf").unlink()
    (hands.folder / "models" / "three").mkdir()
    os.mkfifo(hands.folder / "models" / "four")
    three = {"name": "three", "sha256": "0" * 64}
    manifest(hands, dict(one, size=5), two, three)
    with pytest.raises(PermanentError) as caught:
        hands.run(model_cache.run, quick)
    assert caught.value.message == (
        "Not what the manifest says: one.gguf: wrong_size, three: unreadable, two.gguf: missing"
    )
    manifest(hands, two)
    with pytest.raises(PermanentError):
        hands.run(model_cache.run, quick)
    assert hands.rows("SELECT name, state FROM jobs.model_file") == [("two.gguf", "missing")]


HASH = "a" * 64
MANIFESTS = [
    "",
    "[]",
    "{}",
    '{"files": 1}',
    '{"files": [1]}',
    '{"files": [{"name": "x"}]}',
    f'{{"files": [{{"name": "../x", "sha256": "{HASH}"}}]}}',
    f'{{"files": [{{"name": "/etc/passwd", "sha256": "{HASH}"}}]}}',
    f'{{"files": [{{"name": "a\\u0000", "sha256": "{HASH}"}}]}}',
    f'{{"files": [{{"name": "x", "sha256": "{HASH[1:]}"}}]}}',
    f'{{"files": [{{"name": "x", "sha256": "{HASH}", "size": -1}}]}}',
    f'{{"files": [{{"name": "x", "sha256": "{HASH}", "size": true}}]}}',
    f'{{"files": [{{"name": "x", "sha256": "{HASH}"}}, {{"name": "x", "sha256": "{HASH}"}}]}}',
    "[" * 100_000,
]


def test_manifests_that_cannot_be_used(hands: Hands) -> None:
    for raw in MANIFESTS:
        manifest(hands, raw=raw)
        with pytest.raises(PermanentError) as caught:
            hands.run(model_cache.run, payloads.ModelCache())
        assert caught.value.reason == "bad_manifest", raw
    (hands.folder / "manifest.json").unlink()
    with pytest.raises(PermanentError) as caught:
        hands.run(model_cache.run, payloads.ModelCache())
    assert caught.value.reason == "no_manifest"


def test_reading_a_model_stops_when_asked(hands: Hands) -> None:
    manifest(hands, model(hands, "one.gguf", b"1" * 3_000_000))
    with pytest.raises(asyncio.CancelledError):
        hands.run(model_cache.run, payloads.ModelCache(), stopping=lambda: True)
    assert hands.rows("SELECT * FROM jobs.model_file") == []


def test_warm_up_without_a_model_server(hands: Hands) -> None:
    hands.set(model_url=f"http://localhost:{support.free_port()}")
    with pytest.raises(TaskError) as caught:
        hands.run(model_cache.run, payloads.ModelCache())
    assert (caught.value.reason, caught.value.permanent) == ("model_runner_unavailable", False)


# vector_index and registry_sync: their cores are tested where they live; here, what the worker makes of them


def tools(hands: Hands, *descriptions: str) -> None:
    """What the server lists."""
    listed = [
        {"name": f"tool_{number}", "description": text, "inputSchema": {"type": "object"}}
        for number, text in enumerate(descriptions)
    ]

    async def apply(work: Work, _: None) -> None:
        await Store(work.pool).apply_sync("srv", listed)

    hands.run(apply, None)


@pytest.fixture
def embeddings(stack: Stack) -> Iterator[int]:
    server = Embeddings(stack.loop)
    server.start()
    yield server.port
    server.stop()


def test_vectors(hands: Hands, embeddings: int) -> None:
    hands.db.execute("INSERT INTO registry.mcp_server (id, name, trust) VALUES ('srv', 'local.test/srv', 'trusted')")
    tools(hands, *(f"does {number}" for number in range(70)))
    assert hands.run(vector_index.run, payloads.VectorIndex())["skipped"] == "no embedding model is configured"
    hands.set(embedding_model="org/tiny-embed", embeddings_url=f"http://localhost:{embeddings}")
    answer = hands.run(vector_index.run, payloads.VectorIndex())
    assert answer == {"indexed": 70, "pending": 0, "refused": 0, "model": "org/tiny-embed", "switched": True}
    assert hands.rows("SELECT count(*), count(DISTINCT tool_id) FROM registry.tool_embedding") == [(70, 70)]
    assert hands.run(vector_index.run, payloads.VectorIndex())["indexed"] == 0
    hands.db.execute("UPDATE registry.tool SET content_hash = 'new' WHERE name IN ('tool_1', 'tool_2')")
    assert hands.run(vector_index.run, payloads.VectorIndex())["indexed"] == 2
    hands.db.execute("UPDATE registry.tool SET content_hash = 'newer' WHERE name = 'tool_1'")
    hands.set(embeddings_url=f"http://localhost:{support.free_port()}")
    with pytest.raises(TaskError) as caught:
        hands.run(vector_index.run, payloads.VectorIndex())
    assert (caught.value.reason, caught.value.permanent) == ("embeddings_unavailable", False)
    assert caught.value.message == "0 tools were embedded, 1 wait: the model server cannot be reached."


def test_servers(hands: Hands) -> None:
    closed = support.free_port()
    for name in ("one", "two"):
        hands.db.execute(
            "INSERT INTO registry.mcp_server (id, name, url) VALUES (%s, %s, %s)",
            (name, f"local.test/{name}", f"http://127.0.0.1:{closed}/mcp"),
        )
    assert hands.run(registry_sync.run, payloads.RegistrySync()) == {"servers": 2, "failed": 2}
    assert hands.run(registry_sync.run, payloads.RegistrySync()) == {"servers": 0}  # put off, each in its own row
    with pytest.raises(TaskError) as caught:
        hands.run(registry_sync.run, payloads.RegistrySync(server="one"))
    assert (caught.value.reason, caught.value.permanent) == ("sync_failed", False)
    assert "127.0.0.1" not in caught.value.message
    with pytest.raises(PermanentError):
        hands.run(registry_sync.run, payloads.RegistrySync(server="three"))
    lines = hands.rows("SELECT service, who, target, result FROM gateway.audit_log WHERE action = 'server.sync'")
    assert sorted(lines) == [
        ("worker", "worker", "one", "failed"),
        ("worker", "worker", "one", "failed"),
        ("worker", "worker", "two", "failed"),
    ]
