# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenTelemetry traces, where an OTLP endpoint is set; otherwise its SDK is not even imported.

A trace begins with a request, at the edge or here, and nowhere else: what a service does by itself leaves no spans.
Spans hold routes, names, codes and numbers, never content and never the message of an error. They are sent by a
thread, in batches out of a queue with a bound: a collector that is slow, frozen or away costs spans, not requests.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mcpstack import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Kind = Literal["internal", "client"]

_QUEUE = 4096  # spans that wait to be sent; the oldest ones go
_BATCH = 512
_EVERY = 1.0
_PATIENCE = 5.0  # longest time a batch may take
_FAREWELL = 2.0  # the same for what is left when the process ends


class TracingSettings(Protocol):
    @property
    def environment(self) -> str: ...
    @property
    def otlp_endpoint(self) -> str: ...
    @property
    def otlp_sample(self) -> float: ...


class _Nothing:
    """What stands for a span while there is none."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


NOTHING = _Nothing()


class Spans:
    """The SDK, once it is loaded."""

    def __init__(self, service: str, settings: TracingSettings) -> None:
        from opentelemetry import context, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        class Reticent(BatchSpanProcessor):
            """Libraries put messages of errors into their spans, and these may quote what a client sent."""

            def on_start(self, span: Any, parent_context: Any = None) -> None:
                set_status = span.set_status
                span.record_exception = lambda *_, **__: None
                span.set_status = lambda status, _=None: set_status(getattr(status, "status_code", status))

        # Spans that do not fit are no news for the log, and a collector that is away is one line for a batch.
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)
        self.trace, self.context = trace, context
        self._words = TraceContextTextMapPropagator()
        self._kinds = {"internal": trace.SpanKind.INTERNAL, "client": trace.SpanKind.CLIENT}
        exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint}/v1/traces", timeout=_PATIENCE)
        self._provider = TracerProvider(
            resource=Resource.create(
                {
                    "service.name": f"mcpstack-{service}",
                    "service.version": __version__,
                    "deployment.environment.name": settings.environment,
                }
            ),
            sampler=ParentBased(TraceIdRatioBased(settings.otlp_sample)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            Reticent(
                exporter,
                max_queue_size=_QUEUE,
                schedule_delay_millis=_EVERY * 1000,
                max_export_batch_size=_BATCH,
                export_timeout_millis=_PATIENCE * 1000,
            )
        )
        trace.set_tracer_provider(self._provider)  # libraries that make spans of their own find it there
        self._tracer = self._provider.get_tracer("mcpstack", __version__)

    def server(self, headers: Iterable[tuple[bytes, bytes]], name: str) -> _Active:
        found: dict[str, list[str]] = {}
        for header, value in headers:
            if header in (b"traceparent", b"tracestate"):
                found.setdefault(header.decode(), []).append(value.decode("latin-1"))
        carrier = {"tracestate": ",".join(found.get("tracestate", ()))}
        if len(parents := found.get("traceparent", [])) == 1:  # of two, none can be believed
            carrier["traceparent"] = parents[0]
        parent = self._words.extract(carrier, context=self.context.Context())
        return _Active(self, self._tracer.start_span(name, parent, self.trace.SpanKind.SERVER))

    def span(self, name: str, kind: Kind, attributes: Mapping[str, Any]) -> _Active | _Nothing:
        if not self.trace.get_current_span().get_span_context().is_valid:
            return NOTHING
        return _Active(self, self._tracer.start_span(name, kind=self._kinds[kind], attributes=dict(attributes)))

    def inject(self, carrier: MutableMapping[str, Any]) -> None:
        self._words.inject(carrier)

    def close(self) -> None:
        # The SDK waits for its thread for half a minute, and this thread is not waited for any longer than that.
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(_FAREWELL)


class _Active:
    """A span that is current while the block runs."""

    __slots__ = ("_spans", "_token", "span")

    def __init__(self, spans: Spans, span: Span) -> None:
        self._spans = spans
        self.span = span

    def __enter__(self) -> Span:
        self._token = self._spans.context.attach(self._spans.trace.set_span_in_context(self.span))
        return self.span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._spans.context.detach(self._token)
        if error is not None:
            failed(self.span, getattr(error, "code", None) or type(error).__name__)
        self.span.end()


_spans: Spans | None = None


def start(service: str, settings: TracingSettings) -> None:
    """Once in a process."""
    global _spans
    if settings.otlp_endpoint and _spans is None:
        _spans = Spans(service, settings)


def stop() -> None:
    """Send what is left; takes two seconds at most."""
    global _spans
    spans, _spans = _spans, None
    if spans is not None:
        spans.close()


def on() -> bool:
    return _spans is not None


def server(headers: Iterable[tuple[bytes, bytes]], name: str) -> _Active | _Nothing:
    """The span of a request, below the one that its traceparent names."""
    return NOTHING if _spans is None else _spans.server(headers, name)


def span(name: str, kind: Kind = "internal", **attributes: Any) -> _Active | _Nothing:
    """A part of a request; `__` in the name of an attribute stands for a dot."""
    if _spans is None:
        return NOTHING
    return _spans.span(name, kind, {name.replace("__", "."): value for name, value in attributes.items()})


def inject(carrier: MutableMapping[str, Any]) -> None:
    """traceparent and tracestate for whoever is asked next."""
    if _spans is not None:
        _spans.inject(carrier)


def failed(span: Span, code: object, ours: bool = True) -> None:
    """The stable name of an error; one that is the client's own is no failure of the span."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", str(code))
    if ours:
        span.set_status(StatusCode.ERROR)


def trace_id(span: Span) -> str:
    return format(span.get_span_context().trace_id, "032x")
