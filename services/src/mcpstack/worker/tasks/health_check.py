# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is everything there? Seen from the worker, which reaches all of it, and kept where other services can read it.

Repeatable: it overwrites one row a service with what is true now. It is not retried: the next tick comes soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import aiohttp
import psycopg

from mcpstack.common.secretfile import SecretError
from mcpstack.worker.kinds import Work
from mcpstack.worker.payloads import HealthCheck

_PATIENCE = 3.0
_WRITE = """
INSERT INTO jobs.service_health AS known (service, up, reason, latency_ms, checked_at, since)
SELECT service, up, reason, latency_ms, now(), now()
  FROM unnest(%s::text[], %s::boolean[], %s::text[], %s::float8[]) AS seen(service, up, reason, latency_ms)
ON CONFLICT (service) DO UPDATE
   SET up = excluded.up, reason = excluded.reason, latency_ms = excluded.latency_ms, checked_at = excluded.checked_at,
       since = CASE WHEN known.up = excluded.up THEN known.since ELSE excluded.since END"""
# A service that is no longer probed has no state.
_FORGET = "DELETE FROM jobs.service_health WHERE service <> ALL(%s)"


class DownError(Exception):
    """Why a service is down, in a few words without addresses."""


class Seen(NamedTuple):
    service: str
    up: bool
    reason: str | None
    latency_ms: float


async def run(work: Work, _: HealthCheck) -> dict[str, Any]:
    settings = work.settings
    probes: dict[str, Callable[[], Awaitable[None]]] = {"postgres": lambda: _postgres(work)}
    probes["model_runner"] = lambda: _http(work, f"{settings.model_url}/health")
    if settings.embeddings_url and settings.embeddings_url != settings.model_url:
        probes["embeddings"] = lambda: _http(work, f"{settings.embeddings_url}/health")
    for name, url in (("gateway", settings.gateway_url), ("registry", settings.registry_url)):
        if url:
            probes[name] = lambda url=url: _http(work, f"{url}/ready")  # type: ignore[misc]
    if settings.valkey_host:
        probes["valkey"] = lambda: _valkey(work)
    seen = await asyncio.gather(*(_probe(name, probe) for name, probe in probes.items()))
    async with work.pool.connection() as conn, conn.transaction():
        await conn.execute(_WRITE, tuple(list(column) for column in zip(*seen, strict=True)))
        await conn.execute(_FORGET, ([entry.service for entry in seen],))
    return {entry.service: "up" if entry.up else entry.reason for entry in seen}


async def _probe(name: str, probe: Callable[[], Awaitable[None]]) -> Seen:
    began = time.monotonic()
    reason: str | None = None
    try:
        async with asyncio.timeout(_PATIENCE):
            await probe()
    except DownError as error:
        reason = str(error)
    except TimeoutError:
        reason = "it does not answer in time"
    except ssl.SSLError:
        reason = "TLS fails"
    except (OSError, aiohttp.ClientError):
        reason = "no connection"
    except SecretError:
        reason = "its secret cannot be read"
    except psycopg.Error:
        reason = "it cannot be used"
    return Seen(name, reason is None, reason, round((time.monotonic() - began) * 1000, 1))


async def _postgres(work: Work) -> None:
    async with work.pool.connection() as conn:
        await conn.execute("SELECT 1")


async def _http(work: Work, url: str) -> None:
    async with work.http.get(url, allow_redirects=False) as answer:
        if answer.status != 200:
            raise DownError(f"it answers {answer.status}")


async def _valkey(work: Work) -> None:
    """Any answer will do: the worker has no user there, so a living server refuses."""
    settings = work.settings
    context = await asyncio.to_thread(ssl.create_default_context, cafile=str(settings.tls_ca_file))
    reader, writer = await asyncio.open_connection(
        settings.valkey_host, settings.valkey_port, ssl=context, server_hostname=settings.valkey_host
    )
    try:
        writer.write(b"PING\r\n")
        line = await reader.readline()
        if not line.startswith((b"+", b"-NOAUTH")):
            raise DownError("it answers " + line[1:20].split(b" ")[0].decode("ascii", "replace"))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
