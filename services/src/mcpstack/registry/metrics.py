# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus metrics. Every label has a fixed, small set of values: no path, key or tool of a client's choice."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from mcpstack.common.metrics import HttpMetrics
from mcpstack.registry import outbound_metrics

_DURATION = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
DEPENDENCIES = ("postgres", "valkey")


class Metrics(HttpMetrics):
    def __init__(self) -> None:
        super().__init__("registry", _DURATION)
        r = self.registry
        self.searches = Counter("registry_searches", "Searches, by how they were done", ["mode"], registry=r)
        self.degraded = Gauge("registry_ratelimit_degraded", "1 while the local limiter stands in", registry=r)
        self.audit_lost = Gauge("registry_audit_events_lost", "Audit events that were not written", registry=r)
        self.dependency = Gauge("registry_dependency_up", "1 while it answers", ["dependency"], registry=r)
        for dependency in DEPENDENCIES:
            self.dependency.labels(dependency).set(0)
        self.outbound = outbound_metrics.Metrics(r)
