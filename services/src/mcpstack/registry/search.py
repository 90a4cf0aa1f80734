# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find tools: exact name, vectors, words that are OR-ed and trigrams, put together by their ranks.

Each way of searching orders its own candidates; the sum of weight / (K + rank) orders all. Ranks and not scores,
because a cosine, a ts_rank and a similarity cannot be compared. Without an embedding model the words and the trigrams
decide, and the answer says so.
"""

# ruff: noqa: S608 - what is put into a statement here is text of this module

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mcpstack.registry import definitions, embed
from mcpstack.registry.embed import Embedder, EmbeddingError
from mcpstack.registry.store import Pool

log = logging.getLogger(__name__)

MAX_QUERY = 1000
MAX_LIMIT = 50
_CANDIDATES = 50
_MODEL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Hit:
    server: str
    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    annotations: dict[str, Any] | None
    extra: dict[str, Any] | None
    score: float

    @property
    def public_name(self) -> str:
        return definitions.public_name(self.server, self.name)

    @property
    def wire(self) -> dict[str, Any]:
        return definitions.wire(self.public_name, {part: getattr(self, part) for part in definitions.PARTS})


class Result(NamedTuple):
    mode: Literal["hybrid", "keyword"]
    reason: str | None  # why it is not hybrid
    hits: list[Hit]


class Searcher:
    def __init__(self, pool: Pool, embedder: Embedder | None) -> None:
        self._pool = pool
        self._embedder = embedder
        self._model: embed.Model | None = None
        self._model_read = float("-inf")

    async def find(self, query: str, *, limit: int = 10, server: str | None = None) -> Result:
        """The best `limit` tools that may be used, of all servers or of one."""
        query = definitions.clean(query, MAX_QUERY)
        limit = max(1, min(limit, MAX_LIMIT))
        vector, reason = await self._vector(query)
        trigrams = definitions.trigrams(query)
        values: dict[str, Any] = {
            "query": query,
            "trigrams": definitions.bits(trigrams),
            "in_common": max(1, len(trigrams) // 4),
            "name": "_".join(definitions.split_words(query)),
            "server": server,
            "limit": limit,
            "candidates": _CANDIDATES,
        }
        statement = _KEYWORD
        if vector is not None and self._model is not None:
            statement = _HYBRID
            values |= {"vector": vector, "model": self._model.name, "dim": self._model.dim}
        async with self._pool.connection() as conn:
            rows = await (await conn.execute(statement, values)).fetchall()
        return Result("keyword" if vector is None else "hybrid", reason, [Hit(*row) for row in rows])

    async def _vector(self, query: str) -> tuple[str | None, str | None]:
        if self._embedder is None:
            return None, "no embedding model is configured"
        now = time.monotonic()
        if now - self._model_read >= _MODEL_SECONDS:
            async with self._pool.connection() as conn:
                self._model = await embed.current_model(conn)
            self._model_read = now
        if self._model is None:
            return None, "the tools are not indexed yet"
        if not query:
            return None, "the query is empty"
        try:
            vector = await self._embedder.query(self._model.name, query)
        except EmbeddingError as error:
            return None, str(error)
        if vector.count(",") + 1 != self._model.dim:
            return None, "the embedding model has another dimension than the index"
        return vector, None


# One statement. `query` is turned into lexemes by to_tsvector, as the tools were, and these are OR-ed: people describe
# what they want in more words than a tool has, and the rank tells a good match from a word in common.

_K = 20
_USABLE = """t.status = 'active' AND (%(server)s::text IS NULL OR t.server_id = %(server)s)
            AND t.server_id <> ALL (ARRAY(SELECT id FROM registry.mcp_server WHERE NOT enabled))"""
_WORDS = f"""
WITH words AS MATERIALIZED (
    SELECT registry.any_word(%(query)s) AS query
), exact AS (
    SELECT t.id, 1 AS rank FROM registry.tool t WHERE lower(t.name) = %(name)s AND {_USABLE}
), fts AS (
    SELECT id, row_number() OVER (ORDER BY score DESC, id) AS rank FROM (
        SELECT t.id, ts_rank('{{.1, .2, .4, 1}}', t.tsv, words.query, 1) AS score FROM registry.tool t, words
        WHERE t.tsv @@ words.query AND {_USABLE} ORDER BY score DESC, t.id LIMIT %(candidates)s) AS best
), trigrams AS (
    SELECT id, row_number() OVER (ORDER BY score DESC, id) AS rank FROM (
        SELECT t.id, bit_count(t.trigrams & %(trigrams)s::bit({definitions.BITS})) AS score FROM registry.tool t
        WHERE {_USABLE} ORDER BY score DESC, t.id LIMIT %(candidates)s) AS best WHERE score >= %(in_common)s
)"""
# The other way round: what may not be used is left out. It is little; a join with what may costs twice as much.
_VECTORS = f""", vectors AS (
    SELECT id, row_number() OVER (ORDER BY distance, id) AS rank FROM (
        SELECT e.tool_id AS id, e.vec OPERATOR(public.<#>) %(vector)s::public.vector AS distance
        FROM registry.tool_embedding e WHERE e.model = %(model)s AND e.dim = %(dim)s
            AND e.tool_id NOT IN (SELECT t.id FROM registry.tool t WHERE NOT ({_USABLE}))
        ORDER BY distance, e.tool_id LIMIT %(candidates)s) AS best
)"""
_WEIGHTS = {"exact": 100.0, "fts": 1.0, "trigrams": 1.0, "vectors": 2.5}


def _statement(*ways: str) -> bytes:
    ranked = "\n        UNION ALL ".join(
        f"SELECT id, {_WEIGHTS[way]}::float8 / ({_K} + rank) AS share FROM {way}" for way in ways
    )
    return f"""{_WORDS}{_VECTORS if "vectors" in ways else ""}, fused AS (
    SELECT id, sum(share) AS score FROM (
        {ranked}) AS ranked GROUP BY id ORDER BY score DESC, id LIMIT %(limit)s
)
SELECT t.server_id, t.name, t.title, t.description, t.input_schema, t.output_schema, t.annotations, t.extra, f.score
FROM fused f JOIN registry.tool t USING (id) ORDER BY f.score DESC, t.id""".encode()


_KEYWORD = _statement("exact", "fts", "trigrams")
_HYBRID = _statement("exact", "fts", "trigrams", "vectors")
