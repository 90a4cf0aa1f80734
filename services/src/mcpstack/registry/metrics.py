# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus metrics. Every label has a fixed, small set of values: no path, key or tool of a client's choice."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from mcpstack import __version__
from mcpstack.registry import outbound_metrics

_DURATION = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
DEPENDENCIES = ("postgres", "valkey")


class Metrics:
    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        Gauge("registry_build_info", "Version of the registry", ["version"], registry=r).labels(__version__).set(1)
        self.requests = Counter("registry_requests", "Answers given", ["route", "method", "status"], registry=r)
        self.duration = Histogram(
            "registry_request_duration_seconds",
            "From the request to the last byte",
            ["route", "status"],
            buckets=_DURATION,
            registry=r,
        )
        self.in_flight = Gauge("registry_requests_in_flight", "Requests being answered", ["route"], registry=r)
        self.disconnects = Counter("registry_client_disconnects", "Clients gone before the end", ["route"], registry=r)
        self.errors = Counter("registry_errors", "Errors given, by code", ["code"], registry=r)
        self.searches = Counter("registry_searches", "Searches, by how they were done", ["mode"], registry=r)
        self.degraded = Gauge("registry_ratelimit_degraded", "1 while the local limiter stands in", registry=r)
        self.audit_lost = Gauge("registry_audit_events_lost", "Audit events that were not written", registry=r)
        self.dependency = Gauge("registry_dependency_up", "1 while it answers", ["dependency"], registry=r)
        for dependency in DEPENDENCIES:
            self.dependency.labels(dependency).set(0)
        self.outbound = outbound_metrics.Metrics(r)
