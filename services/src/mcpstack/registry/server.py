# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One uvicorn process, with our own idea of how to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Iterator

import uvicorn

from mcpstack import __version__
from mcpstack.common import logs, tracing
from mcpstack.registry.api import create_app
from mcpstack.registry.service import Registry
from mcpstack.registry.settings import Secrets, Settings

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """On a signal the socket stays open while answers end and /ready says 503; a second signal does not wait."""

    def __init__(self, config: uvicorn.Config, registry: Registry) -> None:
        super().__init__(config)
        self._registry = registry
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        self._registry.on_fatal = self._fatal
        yield

    def _stop(self) -> None:
        if self._draining is not None:
            self.should_exit = self.force_exit = True
            return
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await self._registry.drain()
        self.should_exit = True

    def _fatal(self) -> None:
        self.should_exit = True


def run(settings: Settings, secrets: Secrets) -> int:
    logs.configure(settings.log_level)
    tracing.start("registry", settings)
    registry = Registry(settings, secrets)
    config = uvicorn.Config(
        create_app(registry),
        host=settings.host,
        port=settings.port,
        loop="asyncio",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,  # longer than the edge keeps its connections, so that the edge is the one to close
        timeout_graceful_shutdown=2,
    )
    log.info("starting", extra={"version": __version__, "environment": settings.environment, "port": settings.port})
    gc.freeze()
    Server(config, registry).run()
    tracing.stop()
    log.info("stopped")
    return 3 if registry.fatal else 0
