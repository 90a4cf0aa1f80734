# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for the database for so long and no longer.

A question to a server that is frozen cannot be cancelled: psycopg then waits for it to confirm that. So the question
is left to itself; it ends when the server answers or its connection breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, question: Coroutine[Any, Any, T]) -> T:
    """The answer, or TimeoutError when there is none by then."""
    task = asyncio.ensure_future(question)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
        raise TimeoutError("timeout")
    return task.result()
