# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry process, and how the tests here talk to it."""

from __future__ import annotations

import json
import math
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import support
from mcpstack.registry.search import Searcher
from mcpstack.registry.store import ServerSpec, Store
from support import Reply, Service, Stack, Tls

GOLDEN = Path(__file__).parent / "golden"


@dataclass
class Registry(Service):
    pass


def environment(
    stack: Stack,
    folder: Path,
    *,
    database: str | None = None,
    pg_port: int | None = None,
    valkey_port: int | None = None,
    tls: Tls | None = None,
    **settings: str,
) -> dict[str, str]:
    key = support.write_secrets(folder, {"model-api-key": support.MODEL_KEY})["model-api-key"]
    return support.service_environment(
        "registry",
        folder,
        tls or stack.tls,
        database or stack.postgres.new_database(),
        pg_port or stack.postgres.port,
        valkey_port or stack.valkey.port,
        **{"model_url": f"http://localhost:{stack.runner.port}", "model_api_key_file": key} | settings,
    )


def start(env: dict[str, str], log: Path, until: tuple[str, ...] = ("ready",)) -> Registry:
    return support.start_service("mcpstack.registry", env, log, port="REGISTRY_PORT", until=until, kind=Registry)


def put_key(service: Service, scopes: str, **limits: int | None) -> str:
    return support.put_key(service, scopes=scopes, **limits)


@dataclass
class Ask:
    registry: Registry
    keys: dict[str, str]

    def __call__(self, method: str, path: str, body: Any = None, scope: str = "admin", **more: Any) -> Reply:
        raw = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.registry.call(method, path, raw, self.keys[scope], **more)

    def server(self, **more: Any) -> str:
        """A new server without a URL."""
        name = "s" + secrets.token_hex(6)
        reply = self("POST", "/v1/servers", {"id": name, **more})
        assert reply.status == 201, reply
        return name


def tool(name: str, description: str = "Does something.", **more: Any) -> dict[str, Any]:
    """As a server lists it."""
    return {"name": name, "description": description, "inputSchema": {"type": "object"}, **more}


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a share."""
    share = hits / of
    middle = share + z * z / (2 * of)
    spread = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - spread) / (1 + z * z / of), (middle + spread) / (1 + z * z / of)


# The golden set


def golden_queries() -> list[tuple[str, list[str]]]:
    return [(query, wanted) for query, wanted in json.loads((GOLDEN / "queries.json").read_text())["queries"]]


async def load_golden(store: Store) -> int:
    listed: dict[str, list[dict[str, Any]]] = {}
    for entry in json.loads((GOLDEN / "tools.json").read_text())["tools"]:
        listed.setdefault(entry["server"], []).append(tool(entry["name"], entry["description"]))
    for server, tools in listed.items():
        await store.put_server(ServerSpec(id=server, name=f"org.example/{server}", trust="trusted"))
        changes = await store.apply_sync(server, tools)
        assert len(changes.added) == len(tools), changes.refused
    return sum(map(len, listed.values()))


class Score(NamedTuple):
    mode: str
    hit1: float
    hit5: float
    mrr: float
    of: int

    def __str__(self) -> str:
        low, high = wilson(round(self.hit5 * self.of), self.of)
        return (
            f"search, {self.mode}, {self.of} questions: hit@1 {self.hit1:.3f}, "
            f"hit@5 {self.hit5:.3f} (95 % interval {low:.3f} to {high:.3f}), MRR {self.mrr:.3f}"
        )


async def score(searcher: Searcher) -> Score:
    queries = golden_queries()
    first = five = 0
    ranks, modes = 0.0, set()
    for query, wanted in queries:
        result = await searcher.find(query, limit=10)
        modes.add(result.mode)
        names = [hit.public_name for hit in result.hits]
        rank = next((place for place, name in enumerate(names, 1) if name in wanted), 0)
        first += rank == 1
        five += 1 <= rank <= 5
        ranks += 1 / rank if rank else 0
    assert len(modes) == 1, modes
    of = len(queries)
    return Score(modes.pop(), first / of, five / of, ranks / of, of)
