# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus metrics. Every label has a fixed, small set of values: no path, key or model name of a client's choice."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from mcpstack import __version__

_DURATION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30, 60, 120)
_QUEUE = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
_RATE = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 5000, 20000)


class Metrics:
    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        Gauge("gateway_build_info", "Version of the gateway", ["version"], registry=r).labels(__version__).set(1)
        self.requests = Counter("gateway_requests", "Answers given", ["route", "method", "status"], registry=r)
        self.duration = Histogram(
            "gateway_request_duration_seconds",
            "From the request to the last byte",
            ["route", "status"],
            buckets=_DURATION,
            registry=r,
        )
        self.in_flight = Gauge("gateway_requests_in_flight", "Requests being answered", ["route"], registry=r)
        self.first_token = Histogram(
            "gateway_time_to_first_token_seconds", "Streams: to the first byte of the model", buckets=_FIRST, registry=r
        )
        self.token_rate = Histogram(
            "gateway_tokens_per_second", "Streams: tokens a second after the first", buckets=_RATE, registry=r
        )
        self.queue_time = Histogram(
            "gateway_queue_seconds", "Wait for a free place at a model server", buckets=_QUEUE, registry=r
        )
        self.queue_length = Gauge("gateway_queue_length", "Requests that wait for a place", registry=r)
        self.audit_lost = Gauge("gateway_audit_events_lost", "Audit events that were not written", registry=r)
        self.tokens = Counter("gateway_tokens", "Tokens as the model server reports them", ["kind"], registry=r)
        self.disconnects = Counter("gateway_client_disconnects", "Clients gone before the end", ["route"], registry=r)
        self.errors = Counter("gateway_errors", "Errors given, by code", ["code"], registry=r)
        self.degraded = Gauge("gateway_ratelimit_degraded", "1 while the local limiter stands in", registry=r)
        self.dependency = Gauge("gateway_dependency_up", "1 while it answers", ["dependency"], registry=r)
        for dependency in ("postgres", "valkey", "model_runner"):
            self.dependency.labels(dependency).set(0)
