# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers that are given again: for keys that asked for it, to requests whose answer does not change.

That is: embeddings, and requests with temperature 0 or a seed, both not as a stream. An answer belongs to the key that
got it; no other key can reach it, because the kid is part of what is hashed. A hit costs no tokens and is counted as a
request. A model that is replaced under the same name may be answered for until the time to live is over. Valkey away
is a miss, never an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from mcpstack.common.keys import Key
from mcpstack.common.valkey import FAILURES, Link, reason

log = logging.getLogger(__name__)

_ALWAYS = frozenset(("/v1/embeddings",))
_SOMETIMES = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"))
_RANDOM_SEEDS = (-1, 2**32 - 1)  # llama.cpp takes both for "any"
_PAUSE = 1.0  # after a failure nobody waits for Valkey on our behalf for this long
_WRITERS = 16


class CacheSettings(Protocol):
    @property
    def cache_seconds(self) -> int: ...
    @property
    def cache_max_bytes(self) -> int: ...


class Cache:
    def __init__(self, settings: CacheSettings, link: Link) -> None:
        self._settings = settings
        self._link = link
        self._pause_until = 0.0
        self._writing: set[asyncio.Task[None]] = set()

    def name(self, key: Key, path: str, payload: dict[str, Any]) -> str | None:
        """Where the answer to this request belongs; None when it is not one to keep."""
        if not key.cache or not self._settings.cache_seconds or payload.get("stream") is True:
            return None
        if path not in _ALWAYS and not (path in _SOMETIMES and _is_settled(payload)):
            return None
        body = json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest = hashlib.sha256("\0".join((key.kid, path, body)).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self._link.prefix}c:{digest}"

    async def get(self, name: str) -> bytes | None:
        found = await self._try("GET", name)
        return found if isinstance(found, bytes) else None

    def put(self, name: str, body: bytes) -> None:
        """Does not wait. An answer that is too large, or comes while many are being written, is not kept."""
        if len(body) > self._settings.cache_max_bytes or len(self._writing) >= _WRITERS:
            return
        task = asyncio.create_task(self._put(name, body))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _put(self, name: str, body: bytes) -> None:
        await self._try("SET", name, body, "EX", self._settings.cache_seconds)

    async def _try(self, *words: bytes | str | int) -> Any:
        if not self._link.up or time.monotonic() < self._pause_until:
            return None
        try:
            return await self._link.command(*words)
        except FAILURES as error:
            self._pause_until = time.monotonic() + _PAUSE
            log.warning("the response cache does not answer", extra={"reason": reason(error)})
            return None


def _is_settled(payload: dict[str, Any]) -> bool:
    temperature, seed = payload.get("temperature"), payload.get("seed")
    return temperature == 0 or (isinstance(seed, int | float) and seed not in _RANDOM_SEEDS)


class Again:
    """An answer from the cache, as an ASGI application for one request."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})
