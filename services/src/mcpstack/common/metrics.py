# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the services that answer requests measure alike, and labels that stay few whatever clients do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from mcpstack import __version__

OTHER = "other"


class Names:
    """The first names that come, up to a limit; everything after them is `other`, until the process starts again."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def label(self, name: str | None) -> str:
        if name in self._known:
            return name
        if name is None or len(self._known) >= self._limit:
            return OTHER
        self._known.add(name)
        return name


class HttpMetrics:
    """A registry of our own with what every request leaves there."""

    def __init__(self, service: str, buckets: Sequence[float]) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        info = Gauge(f"{service}_build_info", f"Version of the {service}", ["version"], registry=r)
        info.labels(__version__).set(1)
        self.requests = Counter(f"{service}_requests", "Answers given", ["route", "method", "status"], registry=r)
        self.duration = Histogram(
            f"{service}_request_duration_seconds",
            "From the request to the last byte (OTel http.server.request.duration)",
            ["route", "status"],
            buckets=buckets,
            registry=r,
        )
        self.in_flight = Gauge(f"{service}_requests_in_flight", "Requests being answered", ["route"], registry=r)
        self.disconnects = Counter(
            f"{service}_client_disconnects", "Clients gone before the end", ["route"], registry=r
        )
        self.errors = Counter(f"{service}_errors", "Errors given, by code", ["code"], registry=r)
        # Routes, methods and statuses are few: looking a series up by its labels costs more than counting.
        self._series: dict[tuple[str, str, str], tuple[Any, Any]] = {}

    def answered(self, route: str, method: str, status: str, seconds: float, fields: Mapping[str, Any]) -> None:
        """A request ended; `fields` is what its log line says."""
        series = self._series.get((route, method, status))
        if series is None:
            series = self.requests.labels(route, method, status), self.duration.labels(route, status)
            self._series[route, method, status] = series
        series[0].inc()
        series[1].observe(seconds)
