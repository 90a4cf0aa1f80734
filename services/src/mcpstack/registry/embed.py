# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text into vectors by the stack's own model server, and the index of tools that is made of them.

A model change is not a migration: the wanted model becomes `next` and is indexed beside the current one, which goes
on serving; when nothing is missing any more the two change places. Vectors of different models never meet, because
every row names its model, and a model is asked for only while the model server lists it: llama.cpp's server answers
with whatever model it has, whichever name it is given.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
from pydantic_core import from_json

from mcpstack.common import tracing
from mcpstack.common.secretfile import SecretError, SecretFile
from mcpstack.registry import definitions
from mcpstack.registry.store import Connection, Pool

log = logging.getLogger(__name__)

_LIST_SECONDS = 30.0
_FIRST_PAUSE, _LAST_PAUSE = 5.0, 60.0
_FAILURES = 2  # in a row, then the model server is left alone for a while
_MAX_ANSWER = 8 << 20  # a batch of vectors of the largest dimension takes half of it
_MAX_DIM = 16000  # what pgvector can hold
_QUERIES = 4 << 20  # characters of vectors that are remembered
_BATCH = 16
_LOCK = 0x6D637076  # "mcpv"


class EmbeddingError(Exception):
    """No vectors right now; the words are for clients and logs: no address, nothing the model server wrote."""


class RefusedError(EmbeddingError):
    """The model server works and does not want this text."""


class Embedder:
    """`url` and `key` are the model server's, as the gateway knows them."""

    def __init__(
        self,
        url: str,
        key: SecretFile[str] | None,
        *,
        connect_timeout: float = 1.5,
        query_timeout: float = 1.0,
        index_timeout: float = 120.0,
    ) -> None:
        self._url = url
        self._key = key
        self._connect_timeout = connect_timeout
        self._query_timeout = query_timeout
        self._index_timeout = index_timeout
        self._session: aiohttp.ClientSession | None = None
        self._models: frozenset[str] = frozenset()
        self._listed_at = float("-inf")
        self._listing: asyncio.Lock | None = None
        self._queries: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._remembered = 0
        self._asking: dict[tuple[str, str], asyncio.Task[str]] = {}
        self._failures = 0
        self._pause_until = float("-inf")
        self.reason: str | None = None  # why the last question had no answer

    async def close(self) -> None:
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def query(self, model: str, text: str) -> str:
        """The vector of a search, as Postgres reads it. Fails soon: a search without vectors is better than none."""
        key = (model, text)
        known = self._queries.get(key)
        if known is not None:
            self._queries.move_to_end(key)
            return known
        if time.monotonic() < self._pause_until:
            raise EmbeddingError(self.reason or "the embedding model does not answer")
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._query(key))
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)  # shared: one client that leaves takes nothing from the others

    def _asked(self, key: tuple[str, str], task: asyncio.Task[str]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()

    async def _query(self, key: tuple[str, str]) -> str:
        try:
            async with asyncio.timeout(self._query_timeout):
                vectors = await self.vectors(key[0], [key[1]], self._query_timeout)
        except TimeoutError:
            self._failed("the embedding model takes too long")
            raise EmbeddingError("the embedding model takes too long") from None
        self._queries[key] = text = as_text(vectors[0])
        self._remembered += len(text)
        while self._remembered > _QUERIES:
            self._remembered -= len(self._queries.popitem(last=False)[1])
        return text

    async def vectors(self, model: str, texts: Sequence[str], timeout: float | None = None) -> list[list[float]]:
        """One vector for each text, all of the same dimension."""
        await self._require(model)
        body = {"model": model, "input": list(texts), "encoding_format": "float"}
        limit = timeout or self._index_timeout
        raw = await self._ask("POST", "/v1/embeddings", body, limit)
        try:
            vectors = _read(raw, len(texts))
        except (ValueError, TypeError, KeyError, AttributeError):
            self._failed("the model server gives an answer that is no list of vectors")
            raise EmbeddingError(self.reason or "") from None
        self._failures, self._pause_until, self.reason = 0, float("-inf"), None
        return vectors

    async def _require(self, model: str) -> None:
        if self._listing is None:
            self._listing = asyncio.Lock()
        async with self._listing:
            if time.monotonic() - self._listed_at >= _LIST_SECONDS or model not in self._models:
                raw = await self._ask("GET", "/v1/models", None, 5.0)
                try:
                    found = from_json(raw)["data"]
                    self._models = frozenset(str(entry["id"]) for entry in found)
                except (ValueError, TypeError, KeyError):
                    self._failed("the model server gives an answer that is no list of models")
                    raise EmbeddingError(self.reason or "") from None
                self._listed_at = time.monotonic()
        if model not in self._models:
            self._failed(f"the model server does not have the model {definitions.clean(model, 100)!r}")
            raise EmbeddingError(self.reason or "")

    async def _ask(self, method: str, path: str, body: Any, limit: float) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
            )
        timeout = aiohttp.ClientTimeout(total=limit, connect=self._connect_timeout)
        try:
            headers = {"Authorization": f"Bearer {self._key.read()}"} if self._key else {}
            tracing.inject(headers)
            async with self._session.request(
                method, self._url + path, json=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                pieces, size = [], 0
                async for piece in answer.content.iter_chunked(1 << 16):
                    size += len(piece)
                    if size > _MAX_ANSWER:
                        break
                    pieces.append(piece)
        except TimeoutError:
            self._failed("the embedding model takes too long")
        except SecretError as error:
            log.error("a secret cannot be read", extra={"reason": str(error)})  # noqa: TRY400
            self._failed("the key of the model server cannot be read")
        except (aiohttp.ClientError, OSError):
            self._failed("the model server cannot be reached")
        else:
            if size > _MAX_ANSWER:
                self._failed("the model server gives an answer that is too large")
            elif answer.status == 200:
                return b"".join(pieces)
            elif answer.status in (400, 413, 422):
                raise RefusedError("the embedding model does not take the text")
            else:
                self._failed(f"the model server answers with status {answer.status}")
        raise EmbeddingError(self.reason or "")

    def _failed(self, reason: str) -> None:
        self.reason = reason
        self._failures += 1
        if self._failures >= _FAILURES:
            pause = min(_LAST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures - _FAILURES, 8))
            self._pause_until = time.monotonic() + pause


def as_text(vector: Iterable[float]) -> str:
    """As Postgres reads it. Of length 1, so that the inner product, at half the cost, is the cosine."""
    return "[" + ",".join(f"{number:.7g}" for number in vector) + "]"


def _read(raw: bytes, wanted: int) -> list[list[float]]:
    data = sorted(from_json(raw, allow_inf_nan=False)["data"], key=lambda entry: int(entry["index"]))
    vectors = [[float(number) for number in entry["embedding"]] for entry in data]
    if [int(entry["index"]) for entry in data] != list(range(wanted)):
        raise ValueError("not one vector for each text")
    sizes = {len(vector) for vector in vectors}
    if len(sizes) != 1 or not 1 <= sizes.pop() <= _MAX_DIM:
        raise ValueError("not one dimension")
    return [_of_length_one(vector) for vector in vectors]


def _of_length_one(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    if not 1e-30 < length < 1e30:  # inf and nan as well
        raise ValueError("not a direction")
    return [number / length for number in vector]


# The index


class Model(NamedTuple):
    name: str
    dim: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run of the indexer did."""

    indexed: int = 0
    pending: int = 0  # tools without a vector of the model that is wanted
    refused: int = 0  # of these, texts the model does not take: found by their words only
    switched: bool = False  # the wanted model took over
    reason: str | None = None  # why it stopped early


class Index:
    """`wanted` is the name of the embedding model that is to be used; empty: none."""

    def __init__(self, pool: Pool, embedder: Embedder, wanted: str) -> None:
        self._pool = pool
        self._embedder = embedder
        self._wanted = wanted

    async def index_pending(self, limit: int = 500) -> Counts:
        """Give up to `limit` tools the vectors they lack. May run anywhere and at the same time: nothing is undone."""
        if not self._wanted:
            return Counts()
        names = await self._prepare()
        indexed, refused, reason = 0, 0, None
        for name in names:
            try:
                done, unwanted = await self._index(name, limit - indexed)
            except EmbeddingError as error:
                # The old model may be gone already: the one that is wanted is what counts.
                reason = str(error)
                continue
            indexed += done
            if name == self._wanted:
                refused = unwanted
        pending = await self._pending(self._wanted)
        switched = reason is None and pending <= refused and await self._switch()
        return Counts(indexed, pending, refused, switched, reason)

    async def _prepare(self) -> list[str]:
        """The models to index, the wanted one first."""
        async with self._pool.connection() as conn, conn.transaction():
            await conn.execute(b"SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            await conn.execute(
                b"DELETE FROM registry.embedding_model WHERE model <> %s AND (state = 'next' OR "
                b"state = 'retired' AND changed_at < now() - interval '1 minute')",
                (self._wanted,),
            )
            await conn.execute(
                b"INSERT INTO registry.embedding_model (model, state) VALUES (%s, 'next') "
                b"ON CONFLICT (model) DO UPDATE SET state = 'next', changed_at = now() "
                b"WHERE embedding_model.state = 'retired'",
                (self._wanted,),
            )
            rows = await (
                await conn.execute(b"SELECT model FROM registry.embedding_model WHERE state = 'current'")
            ).fetchall()
        return [self._wanted, *(row[0] for row in rows if row[0] != self._wanted)]

    async def _index(self, model: str, limit: int) -> tuple[int, int]:
        done, refused, after = 0, 0, 0
        while done + refused < limit:
            async with self._pool.connection() as conn:
                rows = await (
                    await conn.execute(_PENDING, (model, after, min(_BATCH, limit - done - refused)))
                ).fetchall()
            if not rows:
                break
            after = rows[-1][0]
            texts = [definitions.embedded_text(*row[2:]) for row in rows]
            vectors = await self._vectors(model, texts)
            found = [(row[0], row[1], vector) for row, vector in zip(rows, vectors, strict=True) if vector is not None]
            refused += len(rows) - len(found)
            if found:
                done += await self._keep(model, found)
        return done, refused

    async def _vectors(self, model: str, texts: list[str]) -> list[list[float] | None]:
        try:
            return list(await self._embedder.vectors(model, texts))
        except RefusedError:
            # One text is too long for the model: ask for each, and for a shorter beginning of it.
            return [await self._shorter(model, text) for text in texts]

    async def _shorter(self, model: str, text: str) -> list[float] | None:
        for length in (len(text), 500, 250, 100):
            try:
                return (await self._embedder.vectors(model, [text[:length]]))[0]
            except RefusedError:
                continue
        return None

    async def _keep(self, model: str, found: list[tuple[int, str, list[float]]]) -> int:
        dim = len(found[0][2])
        async with self._pool.connection() as conn, conn.transaction():
            row = await (
                await conn.execute(
                    b"UPDATE registry.embedding_model SET dim = coalesce(dim, %s) WHERE model = %s RETURNING dim",
                    (dim, model),
                )
            ).fetchone()
            if row is None:
                raise EmbeddingError("another embedding model is wanted by now")
            if row[0] != dim:
                raise EmbeddingError("the embedding model has another dimension than before: give it another name")
            cursor = await conn.execute(
                _KEEP,
                {
                    "model": model,
                    "dim": dim,
                    "ids": [entry[0] for entry in found],
                    "hashes": [entry[1] for entry in found],
                    "vectors": [as_text(entry[2]) for entry in found],
                },
            )
        return cursor.rowcount

    async def _pending(self, model: str) -> int:
        async with self._pool.connection() as conn:
            row = await (await conn.execute(_COUNT, (model,))).fetchone()
        return int(row[0]) if row else 0

    async def _switch(self) -> bool:
        async with self._pool.connection() as conn, conn.transaction():
            await conn.execute(b"SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            ready = await conn.execute(
                b"SELECT FROM registry.embedding_model WHERE model = %s AND state = 'next' AND dim IS NOT NULL",
                (self._wanted,),
            )
            if await ready.fetchone() is None:
                return False
            # Kept for a minute: other processes go on asking with the old model until they look again.
            await conn.execute(
                b"UPDATE registry.embedding_model SET state = 'retired', changed_at = now() WHERE state = 'current'"
            )
            await conn.execute(
                b"UPDATE registry.embedding_model SET state = 'current', changed_at = now() WHERE model = %s",
                (self._wanted,),
            )
        log.info("the embedding model is in use", extra={"model": self._wanted})
        return True


async def current_model(conn: Connection) -> Model | None:
    """The model whose vectors are searched."""
    row = await (
        await conn.execute(b"SELECT model, dim FROM registry.embedding_model WHERE state = 'current'")
    ).fetchone()
    return Model(row[0], row[1]) if row else None


_PENDING = b"""
SELECT t.id, t.content_hash, t.name, t.title, t.description FROM registry.tool t
LEFT JOIN registry.tool_embedding e ON e.tool_id = t.id AND e.model = %s
WHERE t.status <> 'disabled' AND e.content_hash IS DISTINCT FROM t.content_hash AND t.id > %s
ORDER BY t.id LIMIT %s"""
_COUNT = b"""
SELECT count(*) FROM registry.tool t LEFT JOIN registry.tool_embedding e ON e.tool_id = t.id AND e.model = %s
WHERE t.status <> 'disabled' AND e.content_hash IS DISTINCT FROM t.content_hash"""
# A tool that was deleted meanwhile is left out; one that changed keeps its older hash here and is pending again.
_KEEP = b"""
INSERT INTO registry.tool_embedding (tool_id, model, dim, content_hash, vec)
SELECT t.id, %(model)s, %(dim)s, given.hash, given.vec::public.vector
FROM unnest(%(ids)s::bigint[], %(hashes)s::text[], %(vectors)s::text[]) AS given(id, hash, vec)
JOIN registry.tool t ON t.id = given.id
ON CONFLICT (model, tool_id) DO UPDATE SET dim = excluded.dim, content_hash = excluded.content_hash,
    vec = excluded.vec, created_at = now()"""
