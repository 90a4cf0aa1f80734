# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker whose tasks misbehave on purpose: python -m worker_process, with the worker's own settings.

`effect` does what every handler must: something that may be done again without being there twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from datetime import datetime, timedelta, tzinfo
from typing import Any

from mcpstack.common import logs
from mcpstack.worker import queue, service, settings
from mcpstack.worker.kinds import Kind, PermanentError, TaskError, Work
from mcpstack.worker.payloads import Payload


class Number(Payload):
    number: int
    seconds: float = 0.0


class Seconds(Payload):
    seconds: float = 0.0


class Nothing(Payload):
    pass


async def effect(work: Work, payload: Number) -> dict[str, Any]:
    async with work.pool.connection() as conn:
        await conn.execute(
            "INSERT INTO testing.effect (number, runs, pid) VALUES (%s, 1, %s) "
            "ON CONFLICT (number) DO UPDATE SET runs = effect.runs + 1",
            (payload.number, os.getpid()),
        )
    await asyncio.sleep(payload.seconds)
    return {"number": payload.number}


async def poison(_: Work, __: Nothing) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def fail(_: Work, __: Nothing) -> None:
    raise TaskError("not_today", "It does not work, and the key mk_prod_abcdefghijkl_secret_is never shown.")


async def never(_: Work, __: Nothing) -> None:
    raise PermanentError("never", "It cannot work.")


async def stumble(_: Work, __: Nothing) -> None:
    raise KeyError("something private")


async def stubborn(_: Work, payload: Seconds) -> None:
    until = time.monotonic() + payload.seconds
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue


async def deaf(_: Work, payload: Seconds) -> None:
    """Loses the first cancellation, as asyncio's own waits do when they are just over."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(payload.seconds)
    await asyncio.sleep(payload.seconds)


async def block(_: Work, payload: Seconds) -> None:
    time.sleep(payload.seconds)  # noqa: ASYNC251 - that is the point


async def limited(_: Work, payload: Seconds) -> None:
    await asyncio.sleep(payload.seconds)


async def angry(_: Work, payload: Seconds) -> None:
    try:
        await asyncio.sleep(payload.seconds)
    except asyncio.CancelledError:
        raise KeyError("not like this") from None


async def leave(_: Work, __: Nothing) -> None:
    sys.exit(9)


KINDS = (
    Kind("effect", Number, effect, limit=60),
    Kind("poison", Nothing, poison, limit=60),
    Kind("fail", Nothing, fail, limit=60),
    Kind("never", Nothing, never, limit=60),
    Kind("stumble", Nothing, stumble, limit=60, attempts=1),
    Kind("stubborn", Seconds, stubborn, limit=60),
    Kind("deaf", Seconds, deaf, limit=60),
    Kind("block", Seconds, block, limit=60),
    Kind("limited", Seconds, limited, limit=0.3, attempts=1),
    Kind("angry", Seconds, angry, limit=60),
    Kind("leave", Nothing, leave, limit=60, attempts=1),
    Kind("often", Seconds, limited, limit=60, every=float(os.environ.get("OFTEN", "0")) or None),
)


class Ahead(datetime):
    """The clock of this process."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + timedelta(seconds=float(os.environ["SKEW"]))


if __name__ == "__main__":
    if "SKEW" in os.environ:
        for module in (queue, service):
            vars(module)["datetime"] = Ahead
    values, found = settings.load()
    logs.configure(values.log_level)
    sys.exit(asyncio.run(service.main(values, found, KINDS)))
