# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Port 9000: is the worker alive, is it working, what are its figures. Nothing here is for clients."""

from __future__ import annotations

import asyncio
import logging

import psycopg
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from psycopg_pool import PoolTimeout

from mcpstack.common.secretfile import SecretError
from mcpstack.worker.service import Service

log = logging.getLogger(__name__)


async def serve(service: Service) -> web.AppRunner:
    app = web.Application(client_max_size=0)

    async def live(_: web.Request) -> web.Response:
        """The process answers; it says nothing about what it depends on."""
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        status, body = service.readiness()
        return web.json_response(body, status=status)

    async def metrics(_: web.Request) -> web.Response:
        try:
            await service.collector.refresh()
            service.metrics.queue_read.set(1)
        except (psycopg.Error, PoolTimeout, TimeoutError, OSError, SecretError):
            service.metrics.queue_read.set(0)
        text = await asyncio.to_thread(generate_latest, service.metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    for path, handler in (("/live", live), ("/health", live), ("/ready", ready), ("/metrics", metrics)):
        app.router.add_get(path, handler)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
    await runner.setup()
    await web.TCPSite(runner, service.settings.host, service.settings.port, reuse_address=True).start()
    return runner
