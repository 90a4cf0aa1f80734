# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Embed the tools whose text has changed since they were embedded.

Repeatable: only tools whose stored content hash differs are embedded, and a vector is written over the one before it.
"""

from __future__ import annotations

from typing import Any

from mcpstack.worker.kinds import TaskError, Work
from mcpstack.worker.payloads import VectorIndex

_STEP = 64  # tools between two looks at whether to stop


async def run(work: Work, _: VectorIndex) -> dict[str, Any]:
    # Imported when first needed: the worker starts faster without it.
    from mcpstack.registry.embed import Embedder, Index

    settings = work.settings
    if settings.embedding_model is None:
        return {"indexed": 0, "pending": 0, "skipped": "no embedding model is configured"}
    embedder = Embedder(settings.embeddings_url or settings.model_url, work.secrets.model_api_key)
    index = Index(work.pool, embedder, settings.embedding_model)
    indexed, switched = 0, False
    try:
        while True:
            counts = await index.index_pending(_STEP)
            indexed, switched = indexed + counts.indexed, switched or counts.switched
            work.metrics.embedded.inc(counts.indexed)
            if counts.reason is not None:
                message = f"{indexed} tools were embedded, {counts.pending} wait: {counts.reason}."
                raise TaskError("embeddings_unavailable", message)
            if not counts.indexed or counts.pending <= counts.refused:
                return {
                    "indexed": indexed,
                    "pending": counts.pending,
                    "refused": counts.refused,
                    "model": settings.embedding_model,
                    "switched": switched,
                }
    finally:
        await embedder.close()
