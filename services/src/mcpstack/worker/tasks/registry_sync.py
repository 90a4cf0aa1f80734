# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch the tools of external MCP servers that are due.

Repeatable: a server is claimed with a lease in its own row, what it says is compared by hash with what is stored, and
applying the same list again changes nothing.
"""

from __future__ import annotations

from typing import Any

from mcpstack.worker.kinds import Work
from mcpstack.worker.payloads import RegistrySync


async def run(work: Work, payload: RegistrySync) -> dict[str, Any]:
    raise NotImplementedError
