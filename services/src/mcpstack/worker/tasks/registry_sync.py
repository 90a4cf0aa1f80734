# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch the tools of external MCP servers that are due.

Repeatable: a server is claimed with a lease in its own row, what it says is compared by hash with what is stored, and
applying the same list again changes nothing. A server that fails is put off in its own row, so one of many is no
failure of the task; asked for by name, it is.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mcpstack.common.audit import AuditLog
from mcpstack.worker.kinds import PermanentError, TaskError, Work
from mcpstack.worker.payloads import RegistrySync
from mcpstack.worker.settings import database_parameters

if TYPE_CHECKING:
    from mcpstack.registry.sync import Report, Syncer

_AT_ONCE = 20
_INDEX = "SELECT jobs.defer('vector_index', '{}', 'vector_index')"


async def run(work: Work, payload: RegistrySync) -> dict[str, Any]:
    # Imported when first needed: the worker starts faster without them.
    from mcpstack.registry.client import Upstream
    from mcpstack.registry.store import Store
    from mcpstack.registry.sync import Syncer

    settings = work.settings
    audit = AuditLog("worker", lambda: database_parameters(settings, work.secrets, "mcpstack-worker-audit"))
    upstream = Upstream(settings.outbound_allow, auth_dir=settings.outbound_auth_dir)
    await upstream.open()
    audit.start()
    try:
        syncer = Syncer(Store(work.pool), work.pool, upstream, audit, work.metrics.outbound())
        reports = await (_all_due(syncer) if payload.server is None else _one(syncer, payload.server))
    finally:
        await upstream.close()
        await audit.stop()
    if any(report.changes for report in reports):
        async with work.pool.connection() as conn:
            await conn.execute(_INDEX)
    return {"servers": len(reports), **Counter(report.result for report in reports)}


async def _all_due(syncer: Syncer) -> list[Report]:
    reports: list[Report] = []
    while True:
        some = await syncer.sync_due(_AT_ONCE)
        reports += some
        if len(some) < _AT_ONCE:
            return reports


async def _one(syncer: Syncer, server: str) -> list[Report]:
    from mcpstack.registry.store import NotFoundError

    try:
        report = await syncer.sync_server(server)
    except NotFoundError:
        raise PermanentError("unknown_server", f"There is no server {server}.") from None
    if report.result == "failed":
        raise TaskError("sync_failed", f"{server} cannot be synchronised: {report.reason}.")
    return [report]
