# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How well the search does with a real, small embedding model. Needs the environment of requirements-embedding.txt."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool
from registry_support import load_golden, score

import support
from mcpstack.registry.embed import Embedder, Index
from mcpstack.registry.search import Searcher
from mcpstack.registry.store import Store

pytest_plugins = ("registry_fixtures",)

pytestmark = [pytest.mark.anyio, pytest.mark.long]

MODEL = "all-minilm-l6-v2"
PYTHON = Path(os.environ.get("MCPSTACK_EMBEDDING_PYTHON", support.ROOT.parent / ".cache/venv-embedding/bin/python"))


@pytest.fixture
def model_server() -> Iterator[str]:
    assert PYTHON.exists(), f"{PYTHON} is not there: see requirements-embedding.txt"
    port = support.free_port()
    script = Path(__file__).with_name("embedding_server.py")
    env = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([str(PYTHON), str(script), str(port)], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


async def test_golden_set_with_vectors(
    store: Store, pool: AsyncConnectionPool[Any], model_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = await load_golden(store)
    embedder = Embedder(model_server, None, query_timeout=30)
    try:
        counts = await Index(pool, embedder, MODEL).index_pending(10_000)
        assert (counts.indexed, counts.pending, counts.switched, counts.reason) == (tools, 0, True, None)
        found = await score(Searcher(pool, embedder))
    finally:
        await embedder.close()
    with capsys.disabled():
        print(f"\n{found}")
    assert found.mode == "hybrid"
    assert found.hit5 >= 0.97
