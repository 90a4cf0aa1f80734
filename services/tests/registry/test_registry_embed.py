# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Vectors: a model server that misbehaves, an index that is always whole, a model that is changed while it is used."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from psycopg_pool import AsyncConnectionPool
from registry_support import tool

from mcpstack.common.secretfile import SecretFile, model_key
from mcpstack.registry import embed
from mcpstack.registry.embed import Embedder, EmbeddingError, Index
from mcpstack.registry.search import Searcher
from mcpstack.registry.store import ServerSpec, Store

pytest_plugins = ("registry_fixtures",)

pytestmark = pytest.mark.anyio

KEY = "k" * 32


@dataclass
class ModelServer:
    """Vectors of words: two texts with a word in common are near each other. `trouble` says what goes wrong."""

    models: dict[str, int] = field(default_factory=lambda: {"small": 64})
    trouble: str = ""
    asked: list[list[str]] = field(default_factory=list)
    port: int = 0
    longest: int = 10_000

    def vector(self, model: str, text: str) -> list[float]:
        found = [0.0] * self.models[model]
        for word in text.lower().replace(".", " ").split():
            found[int(hashlib.sha256((model + word).encode()).hexdigest(), 16) % len(found)] += 3.0
        return found if any(found) else [1.0] * len(found)

    async def list(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return web.json_response({"data": [{"id": name} for name in self.models]})

    async def embed(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        texts = body["input"]
        self.asked.append(texts)
        data: list[Any] = [
            {"index": index, "embedding": self.vector(body["model"], text)} for index, text in enumerate(texts)
        ]
        match self.trouble:
            case "slow":
                await asyncio.sleep(30)
            case "status":
                return web.Response(status=500, text="secret internals at 10.0.0.1")
            case "redirect":
                raise web.HTTPTemporaryRedirect("http://127.0.0.1:1/")
            case "html":
                return web.Response(text="<html>")
            case "few":
                data.pop()
            case "double":
                data.append(data[-1])
            case "nan":
                raw = '{"data": [{"index": 0, "embedding": [NaN, 1]}]}'
                return web.Response(text=raw, content_type="application/json")
            case "huge numbers":
                data[0]["embedding"] = [1e308] * 64
            case "zero":
                data[0]["embedding"] = [0.0] * 64
            case "text":
                data[0]["embedding"] = "AAAA"
            case "empty":
                data[0]["embedding"] = []
            case "drop":
                assert request.transport is not None
                request.transport.abort()
            case "endless":
                response = web.StreamResponse()
                await response.prepare(request)
                for _ in range(100):
                    await response.write(b" " * (1 << 20))
                return response
        if any(len(text) > self.longest for text in texts):
            return web.json_response({"error": {"message": "too long"}}, status=400)
        return web.json_response({"data": list(reversed(data))})


@pytest.fixture
async def server(anyio_backend: str) -> AsyncIterator[ModelServer]:
    found = ModelServer()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/v1/models", found.list)
    app.router.add_post("/v1/embeddings", found.embed)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


@pytest.fixture
async def embedder(server: ModelServer, tmp_path: Path) -> AsyncIterator[Embedder]:
    (tmp_path / "key").write_text(KEY)
    secret = SecretFile("KEY", tmp_path / "key", model_key)
    found = Embedder(f"http://127.0.0.1:{server.port}", secret, query_timeout=2, index_timeout=10)
    yield found
    await found.close()


async def fill(store: Store, number: int = 3) -> None:
    await store.put_server(ServerSpec(id="one", name="org.example/one", trust="trusted"))
    words = ("apple tree", "river bank", "mountain goat", "steam engine")
    listed = [tool(f"t{n}", words[n % 4] if n < 4 else f"number {n}") for n in range(number)]
    await store.apply_sync("one", listed)


async def test_hybrid_search(
    store: Store, pool: AsyncConnectionPool[Any], server: ModelServer, embedder: Embedder
) -> None:
    await fill(store, 40)
    searcher = Searcher(pool, embedder)
    assert (await searcher.find("apple")).reason == "the tools are not indexed yet"
    index = Index(pool, embedder, "small")
    first = await index.index_pending(10)
    assert (first.indexed, first.pending, first.switched, first.reason) == (10, 30, False, None)
    assert (await searcher.find("apple")).mode == "keyword"
    last = await index.index_pending(100)
    assert (last.indexed, last.pending, last.switched) == (30, 0, True)
    assert await index.index_pending(100) == embed.Counts()
    searcher = Searcher(pool, embedder)
    result = await searcher.find("goat mountain")
    assert (result.mode, result.reason, result.hits[0].name) == ("hybrid", None, "t2")
    asked = len(server.asked)
    await asyncio.gather(*(searcher.find("Goat of the mountain") for _ in range(20)))
    assert len(server.asked) == asked + 1  # asked once, for all of them
    # A definition that changed is found by its old vector until it has a new one; then by that.
    await store.apply_sync("one", [tool("t0", "steam engine")])
    await store.approve("one", ["t0"])
    assert (await index.index_pending()).indexed == 1
    hits = (await searcher.find("steam")).hits
    assert hits[0].name == "t0"


TROUBLE = [
    ("slow", "the embedding model takes too long"),
    ("status", "the model server answers with status 500"),
    ("redirect", "the model server answers with status 307"),
    ("drop", "the model server cannot be reached"),
    ("endless", "the model server gives an answer that is too large"),
    *((trouble, "the model server gives an answer that is no list of vectors")
      for trouble in ("html", "few", "double", "nan", "huge numbers", "zero", "text", "empty")),
]  # fmt: skip


@pytest.mark.parametrize(("trouble", "reason"), TROUBLE)
async def test_without_vectors_the_words_decide(
    store: Store,
    pool: AsyncConnectionPool[Any],
    server: ModelServer,
    embedder: Embedder,
    trouble: str,
    reason: str,
) -> None:
    await fill(store)
    index = Index(pool, embedder, "small")
    assert (await index.index_pending()).switched
    searcher = Searcher(pool, embedder)
    server.trouble = trouble
    for number in range(3):
        result = await searcher.find(f"apple {number}")
        assert (result.mode, result.reason, result.hits[0].name) == ("keyword", reason, "t0")
    assert len(server.asked) == 1 + 2  # after two failures it is left alone
    server.trouble = ""
    assert (await searcher.find("apple 0")).mode == "keyword"
    embedder._pause_until = 0.0  # as after some seconds
    assert (await searcher.find("apple 0")).mode == "hybrid"


async def test_an_index_run_that_fails_loses_nothing(
    store: Store, pool: AsyncConnectionPool[Any], server: ModelServer, embedder: Embedder
) -> None:
    await fill(store, 40)
    index = Index(pool, embedder, "small")
    server.trouble = "few"
    counts = await index.index_pending()
    assert (counts.indexed, counts.pending, counts.switched) == (0, 40, False)
    assert counts.reason == "the model server gives an answer that is no list of vectors"
    server.trouble, server.longest = "", 2
    counts = await index.index_pending()  # every text is too long for this model, whole or in part
    assert (counts.indexed, counts.refused, counts.reason, counts.switched) == (0, 40, None, False)
    server.longest = 250
    await store.put_server(ServerSpec(id="two", name="org.example/two", trust="trusted"))
    await store.apply_sync("two", [tool("long", "word " * 200)])
    runs = await asyncio.gather(*(Index(pool, embedder, "small").index_pending() for _ in range(4)))
    assert sum(run.switched for run in runs) == 1
    assert (await index.index_pending()).pending == 0


async def test_another_model_takes_over_when_it_is_complete(
    store: Store, pool: AsyncConnectionPool[Any], server: ModelServer, embedder: Embedder
) -> None:
    await fill(store, 40)
    assert (await Index(pool, embedder, "small").index_pending()).switched
    server.models["large"] = 128
    large = Index(pool, embedder, "large")
    counts = await large.index_pending(10)
    assert (counts.indexed, counts.pending, counts.switched) == (10, 30, False)
    searcher = Searcher(pool, embedder)
    assert (await searcher.find("goat")).mode == "hybrid"  # by the old one
    assert searcher._model == embed.Model("small", 64)
    # A tool that comes meanwhile is indexed for both.
    await store.put_server(ServerSpec(id="two", name="org.example/two", trust="trusted"))
    await store.apply_sync("two", [tool("late", "goat cheese")])
    counts = await large.index_pending(500)
    assert (counts.pending, counts.switched) == (0, True)
    async with pool.connection() as conn:
        rows = await (
            await conn.execute("SELECT model, count(*) FROM registry.tool_embedding GROUP BY 1 ORDER BY 1")
        ).fetchall()
        assert rows == [("large", 41), ("small", 41)]
    assert (await searcher.find("goat")).mode == "hybrid"  # this process has not looked again yet
    fresh = Searcher(pool, embedder)
    assert (await fresh.find("goat")).hits[0].name in ("t2", "late")
    assert fresh._model == embed.Model("large", 128)
    async with pool.connection() as conn:
        await conn.execute("UPDATE registry.embedding_model SET changed_at = now() - interval '2 minutes'")
    assert await large.index_pending() == embed.Counts()
    async with pool.connection() as conn:
        left = await (await conn.execute("SELECT model, state FROM registry.embedding_model")).fetchall()
    assert left == [("large", "current")]


async def test_the_way_back_and_a_model_that_is_gone(
    store: Store, pool: AsyncConnectionPool[Any], server: ModelServer, embedder: Embedder
) -> None:
    await fill(store)
    assert (await Index(pool, embedder, "small").index_pending()).switched
    counts = await Index(pool, embedder, "absent").index_pending()
    assert (counts.pending, counts.switched) == (3, False)
    assert counts.reason == "the model server does not have the model 'absent'"
    assert (await Searcher(pool, embedder).find("goat")).mode == "hybrid"
    assert (await Index(pool, embedder, "small").index_pending()) == embed.Counts()
    server.models = {"other": 32}
    embedder._listed_at = float("-inf")
    result = await Searcher(pool, embedder).find("goat tree")
    assert (result.mode, result.reason) == ("keyword", "the model server does not have the model 'small'")
    assert (await Index(pool, embedder, "other").index_pending()).switched
    # The same name with another dimension is not the same model.
    server.models = {"other": 48}
    await store.apply_sync("one", [tool("new", "Something.")])
    counts = await Index(pool, embedder, "other").index_pending()
    assert counts.reason == "the embedding model has another dimension than before: give it another name"
    result = await Searcher(pool, embedder).find("tree of apples")
    assert (result.mode, result.reason) == ("keyword", "the embedding model has another dimension than the index")
    with pytest.raises(EmbeddingError):
        await embedder.vectors("small", ["x"])
