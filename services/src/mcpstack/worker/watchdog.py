# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A handler that blocks the process stops the signs of life as well: others would take its jobs while it still works.

So a thread watches the event loop and ends the process first. The engine starts it again, the jobs are taken back, and
one that does it every time becomes a dead letter. Code that blocks without ever giving up the interpreter's lock
stops this thread too; then the signs of life end and the health check fails, but nothing here ends the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

EXIT_BLOCKED = 70
_TICK = 0.5


class Watchdog:
    def __init__(self, limit: float, running: Callable[[], Iterable[str]]) -> None:
        self._limit = limit
        self._running = running
        self._beats = 0
        self._main = threading.get_ident()
        self._stop = threading.Event()

    async def beat(self) -> None:
        """Run on the event loop: what the thread watches."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        try:
            while True:
                self._beats += 1
                await asyncio.sleep(_TICK)
        finally:
            self._stop.set()

    def _watch(self) -> None:
        # Counted in steps of its own, so that a process that was suspended as a whole is not taken for a blocked one.
        seen, silent = -1, 0.0
        while not self._stop.wait(_TICK):
            silent = 0.0 if seen != self._beats else silent + _TICK
            seen = self._beats
            if silent >= self._limit:
                frame = sys._current_frames().get(self._main)
                log.critical(
                    "a handler blocks the process; ending it",
                    extra={
                        "blocked_for_s": silent,
                        "running": sorted(self._running()),
                        "stack": "".join(traceback.format_stack(frame)[-12:]) if frame else None,
                    },
                )
                for handler in logging.getLogger().handlers:
                    handler.flush()
                os._exit(EXIT_BLOCKED)
