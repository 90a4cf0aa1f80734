# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from outbound_servers import Farm


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def farm(anyio_backend: str) -> object:
    """Servers of a test on loopback; all of them stop with it."""
    async with Farm() as farm:
        yield farm
