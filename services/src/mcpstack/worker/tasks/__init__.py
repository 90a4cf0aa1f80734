# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All kinds of tasks. jobs.kind in the database holds the same names, with their priorities and locks."""

from __future__ import annotations

from mcpstack.worker import payloads
from mcpstack.worker.kinds import Kind
from mcpstack.worker.tasks import data_cleanup, health_check, model_cache, registry_sync, usage_rollup, vector_index

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0

KINDS = (
    Kind("health_check", payloads.HealthCheck, health_check.run, limit=30, every=_MINUTE, attempts=1),
    Kind("registry_sync", payloads.RegistrySync, registry_sync.run, limit=10 * _MINUTE, every=_MINUTE),
    Kind("vector_index", payloads.VectorIndex, vector_index.run, limit=30 * _MINUTE, every=5 * _MINUTE),
    Kind("model_cache", payloads.ModelCache, model_cache.run, limit=6 * _HOUR, every=_DAY, offset=4 * _HOUR),
    Kind("usage_rollup", payloads.Nothing, usage_rollup.run, limit=10 * _MINUTE, every=_HOUR, offset=5 * _MINUTE),
    Kind("data_cleanup", payloads.Nothing, data_cleanup.run, limit=_HOUR, every=_DAY, offset=3.25 * _HOUR),
)
