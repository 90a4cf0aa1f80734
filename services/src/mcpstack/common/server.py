# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One uvicorn process, with our own idea of how to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from mcpstack import __version__
from mcpstack.common import logs, tracing

log = logging.getLogger(__name__)


class ServiceSettings(tracing.TracingSettings, Protocol):
    """What a service's settings say about its process."""

    @property
    def environment(self) -> str: ...
    @property
    def log_level(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class Service(Protocol):
    """What runs behind the socket."""

    fatal: str | None
    on_fatal: Callable[[], None]

    async def drain(self) -> None: ...


class Server(uvicorn.Server):
    """On a signal the socket stays open while answers end and /ready says 503; a second signal does not wait."""

    def __init__(self, config: uvicorn.Config, service: Service, hangup: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._service = service
        self._hangup = hangup
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        if self._hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, self._hangup)
        self._service.on_fatal = self._fatal
        yield

    def _stop(self) -> None:
        if self._draining is not None:
            self.should_exit = self.force_exit = True
            return
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        await self._service.drain()
        self.should_exit = True

    def _fatal(self) -> None:
        self.should_exit = True


def start(name: str, settings: ServiceSettings) -> None:
    """Before the service is made: what it logs and traces with."""
    logs.configure(settings.log_level)
    tracing.start(name, settings)


def run(settings: ServiceSettings, service: Service, app: ASGIApp, hangup: Callable[[], None] | None = None) -> int:
    """Serve until a signal; the exit status. `hangup` is called on SIGHUP."""
    config = uvicorn.Config(
        app,
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
    Server(config, service, hangup).run()
    tracing.stop()
    log.info("stopped")
    return 3 if service.fatal else 0
