# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is counted of calls to outside servers. No label is a name of a server or a tool: those are in the records."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mcpstack.registry.breaker import STATES, Breakers, State

_DURATION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter("registry_tool_calls", "Tool calls, by how they ended", ["status"], registry=registry)
        self.call_duration = Histogram(
            "registry_tool_call_duration_seconds",
            "Tool calls, with the server's part",
            buckets=_DURATION,
            registry=registry,
        )
        self.calls_in_flight = Gauge("registry_tool_calls_in_flight", "Tool calls under way", registry=registry)
        self.call_records_lost = Counter(
            "registry_tool_call_records_lost", "Records of calls that were not written", registry=registry
        )
        self.breakers = Gauge("registry_breakers", "Servers by state of their breaker", ["state"], registry=registry)
        self.syncs = Counter("registry_syncs", "Synchronisations, by how they ended", ["result"], registry=registry)
        self.definitions = Counter(
            "registry_definitions", "Definitions of tools, by what a synchronisation did", ["change"], registry=registry
        )
        self.summaries = Counter(
            "registry_summaries", "Results that were long, by outcome", ["outcome"], registry=registry
        )

    def call(self, status: str, seconds: float) -> None:
        self.calls.labels(status).inc()
        self.call_duration.observe(seconds)

    def watch(self, breakers: Breakers) -> None:
        """Read the states of breakers when the metrics are read."""

        def reader(state: State) -> Callable[[], float]:
            return lambda: breakers.counts()[state]

        for state in STATES:
            self.breakers.labels(state).set_function(reader(state))
