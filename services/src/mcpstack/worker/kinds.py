# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a kind of task is, and what a handler gets and may raise.

Delivery is at least once: a handler can be run again after it has done all its work, or a part of it. So each one is
written to be repeated, and says how in its own docstring.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import psycopg
from psycopg_pool import AsyncConnectionPool

from mcpstack.worker.payloads import Payload
from mcpstack.worker.settings import Secrets, Settings

if TYPE_CHECKING:
    from mcpstack.worker.metrics import Metrics

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]


class TaskError(Exception):
    """The task cannot be done now. The reason is a stable word; the message is for the person who started it."""

    permanent = False

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class PermanentError(TaskError):
    """The task cannot be done however often it is tried."""

    permanent = True


@dataclass(frozen=True)
class Work:
    """One run of a job, as its handler sees it."""

    settings: Settings
    secrets: Secrets
    pool: Pool
    http: aiohttp.ClientSession
    metrics: Metrics
    job_id: int
    attempt: int  # 1 for the first run
    stopping: Callable[[], bool]  # for code in threads, which cannot be cancelled


Handler = Callable[[Work, Any], Awaitable[dict[str, Any] | None]]


@dataclass(frozen=True)
class Kind:
    name: str
    payload: type[Payload]
    run: Handler
    limit: float  # seconds a run may take
    every: float | None = None  # seconds between scheduled runs
    offset: float = 0.0  # seconds after the beginning of the interval, counted from midnight UTC
    attempts: int | None = None  # runs before it is a dead letter; None: the setting
    args: dict[str, Any] = field(default_factory=dict)  # of scheduled runs
