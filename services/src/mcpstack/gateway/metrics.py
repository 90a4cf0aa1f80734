# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus metrics. No label has a value of a client's choice: no path, and only models that a model server has.

Models have histograms; keys, which are many, have counts and sums, from which rates and means follow. Both have a
limit, beyond which they share the label `other`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client import Counter, Gauge, Histogram, Summary
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mcpstack.common import limits
from mcpstack.common.metrics import OTHER, HttpMetrics, Names
from mcpstack.gateway.endpoints import BY_PATH

MODELS = 100

_DURATION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30, 60, 120)
_QUEUE = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
_RATE = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 5000, 20000)
_TOKEN = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.5, 5)

LIMITS = {
    limits.REQUESTS: "requests",
    limits.CONCURRENCY: "concurrency",
    limits.TOKENS: "tokens",
    limits.DAY: "tokens_day",
    limits.MONTH: "tokens_month",
}
TOO_LARGE = "request"  # more than a limit allows at all


class RunnerState(NamedTuple):
    """What is known of one model server when the metrics are read."""

    name: str
    up: bool
    in_flight: int
    places: int
    reconnects: int
    moved: int


class _Runners(Collector):
    """Read from the pool itself, so that one that left the list leaves the metrics as well."""

    def __init__(self) -> None:
        self.read: Callable[[], Iterable[RunnerState]] = tuple

    def collect(self) -> Iterator[Metric]:
        label = ["runner"]
        up = GaugeMetricFamily("gateway_runner_up", "1 while it answers", labels=label)
        busy = GaugeMetricFamily("gateway_runner_in_flight", "Requests it works on", labels=label)
        places = GaugeMetricFamily("gateway_runner_places", "Requests it may work on at once", labels=label)
        retries = CounterMetricFamily(
            "gateway_upstream_retries",
            "Requests sent again: on a new connection, to another one",
            labels=["runner", "how"],
        )
        for runner in self.read():
            up.add_metric([runner.name], runner.up)
            busy.add_metric([runner.name], runner.in_flight)
            places.add_metric([runner.name], runner.places)
            retries.add_metric([runner.name, "reconnect"], runner.reconnects)
            retries.add_metric([runner.name, "moved"], runner.moved)
        yield from (up, busy, places, retries)


class _Model:
    """The series of one model."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.first_token = metrics.first_token.labels(name)
        self.output_token = metrics.output_token.labels(name)
        self.token_rate = metrics.token_rate.labels(name)
        self.queue_time = metrics.queue_time.labels(name)
        self.prompt = metrics.tokens.labels(name, "prompt")
        self.completion = metrics.tokens.labels(name, "completion")


class _Key:
    """The series of one key."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.first_token = metrics.key_first_token.labels(name)
        self.output_token = metrics.key_output_token.labels(name)
        self.token_rate = metrics.key_token_rate.labels(name)
        self.queue_time = metrics.key_queue_time.labels(name)
        self.prompt = metrics.key_tokens.labels(name, "prompt")
        self.completion = metrics.key_tokens.labels(name, "completion")


class Metrics(HttpMetrics):
    def __init__(self, keys: int = 200) -> None:
        super().__init__("gateway", _DURATION)
        r = self.registry
        self._model_names, self._key_names = Names(MODELS), Names(keys)
        self._models: dict[str, _Model] = {}
        self._keys: dict[str, _Key] = {}
        self.model_requests = Counter(
            "gateway_model_requests",
            "Answers given, by model (OTel gen_ai.request.model)",
            ["model", "status"],
            registry=r,
        )
        self.first_token = Histogram(
            "gateway_time_to_first_token_seconds",
            "Streams: to the first byte of the model (OTel gen_ai.server.time_to_first_token)",
            ["model"],
            buckets=_FIRST,
            registry=r,
        )
        self.output_token = Histogram(
            "gateway_time_per_output_token_seconds",
            "Streams: mean time of a token after the first (OTel gen_ai.server.time_per_output_token)",
            ["model"],
            buckets=_TOKEN,
            registry=r,
        )
        self.token_rate = Histogram(
            "gateway_tokens_per_second",
            "Streams: tokens a second after the first",
            ["model"],
            buckets=_RATE,
            registry=r,
        )
        self.queue_time = Histogram(
            "gateway_queue_seconds", "Wait for a free place at a model server", ["model"], buckets=_QUEUE, registry=r
        )
        self.queue_length = Gauge("gateway_queue_length", "Requests that wait for a place", registry=r)
        self.tokens = Counter(
            "gateway_tokens",
            "Tokens as the model server reports them (OTel gen_ai.client.token.usage)",
            ["model", "kind"],
            registry=r,
        )
        self.cache = Counter("gateway_cache", "Requests whose answer may be given again", ["result"], registry=r)
        self.key_requests = Counter("gateway_key_requests", "Answers given, by key", ["key", "status"], registry=r)
        self.key_refusals = Counter(
            "gateway_limit_refusals", "Requests over a limit or budget of their key", ["key", "limit"], registry=r
        )
        self.key_tokens = Counter("gateway_key_tokens", "Tokens, by key", ["key", "kind"], registry=r)
        self.key_first_token = Summary(
            "gateway_key_time_to_first_token_seconds", "The same as above, by key", ["key"], registry=r
        )
        self.key_output_token = Summary(
            "gateway_key_time_per_output_token_seconds", "The same as above, by key", ["key"], registry=r
        )
        self.key_token_rate = Summary("gateway_key_tokens_per_second", "The same as above, by key", ["key"], registry=r)
        self.key_queue_time = Summary("gateway_key_queue_seconds", "The same as above, by key", ["key"], registry=r)
        self.runners = _Runners()
        r.register(self.runners)
        self.audit_lost = Gauge("gateway_audit_events_lost", "Audit events that were not written", registry=r)
        self.degraded = Gauge("gateway_ratelimit_degraded", "1 while the local limiter stands in", registry=r)
        self.dependency = Gauge("gateway_dependency_up", "1 while it answers", ["dependency"], registry=r)
        for dependency in ("postgres", "valkey", "model_runner"):
            self.dependency.labels(dependency).set(0)

    def _series_of(self, model: str, kid: str) -> tuple[_Model, _Key]:
        model, kid = self._model_names.label(model), self._key_names.label(kid)
        of_model = self._models.get(model)
        if of_model is None:
            of_model = self._models[model] = _Model(self, model)
        of_key = self._keys.get(kid)
        if of_key is None:
            of_key = self._keys[kid] = _Key(self, kid)
        return of_model, of_key

    # What happens to a request. A model that is named here is one that a model server has.

    def answered(self, route: str, method: str, status: str, seconds: float, fields: Mapping[str, Any]) -> None:
        super().answered(route, method, status, seconds, fields)
        if "kid" in fields:
            self.key_requests.labels(self._key_names.label(fields["kid"]), status).inc()
        if route in BY_PATH:
            model = fields.get("model")
            self.model_requests.labels(OTHER if model is None else self._model_names.label(model), status).inc()

    def queued(self, model: str, kid: str, seconds: float) -> None:
        for series in self._series_of(model, kid):
            series.queue_time.observe(seconds)

    def first(self, model: str, kid: str, seconds: float) -> None:
        for series in self._series_of(model, kid):
            series.first_token.observe(seconds)

    def streamed(self, model: str, kid: str, tokens: int, seconds: float) -> None:
        """So many tokens, and the time from the first one to the last."""
        if tokens < 2 or seconds <= 0:
            return
        for series in self._series_of(model, kid):
            series.token_rate.observe((tokens - 1) / seconds)
            series.output_token.observe(seconds / (tokens - 1))

    def used(self, model: str, kid: str, prompt: int | None, completion: int) -> None:
        for series in self._series_of(model, kid):
            series.prompt.inc(prompt or 0)
            series.completion.inc(completion)

    def refused(self, kid: str, limit: str) -> None:
        self.key_refusals.labels(self._key_names.label(kid), limit).inc()
