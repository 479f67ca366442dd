"""Traces: one span for a request, and one for each batch of the relay and of a consumer.

The span of a request is the parent of everything that the request causes. Its `traceparent` is in the request's
context, which the transaction stores with each event. The relay and the consumers handle events of many requests at a
time. So their spans have a link to the request of each event.

Attributes follow the semantic conventions of OpenTelemetry in the version that `SCHEMA` names.

Most requests are not traced, and must cost almost nothing. So whether to trace is decided before anything of the
SDK runs: by the `traceparent` that the client has sent, or else by a new trace's id.

This module loads the SDK. Only a process with a collector imports it.
"""

import time
from collections.abc import Mapping
from importlib.metadata import version
from os import getpid
from urllib.parse import unquote
from uuid import uuid4

from opentelemetry.context import Context as OtelContext
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace.span import TraceState

from eventspine.context import Context
from shop.platform.settings import Settings
from shop.platform.telemetry.traces_export import Export

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

_TRIES_FOR = 10.0
"""Seconds for which a batch of spans is sent again to a collector that does not take it."""

_NOT_IN_A_TRACE = OtelContext()

SAMPLED = frozenset("13579bdf")
"""The last characters of a `traceparent` whose trace is recorded."""


class Traces:
    """The tracer of one process.

    `ratio` is the share of requests that are traced if their clients leave it open. At most `per_second` are traced
    in a second.
    """

    def __init__(self, settings: Settings, part: str, service: str) -> None:
        given = settings.telemetry
        self.log_system = "kafka" if settings.event_log == "kafka" else "postgresql"
        self.export = Export(
            OTLPSpanExporter(
                f"{given.otlp_endpoint}/v1/traces",
                headers=_headers(given.otlp_headers),
                timeout=_TRIES_FOR,
            ),
            given.otlp_endpoint,
        )
        self.below = round(given.traces_ratio * 2**64)
        """A new trace is recorded if the lower half of its id is less than this."""
        self._per_second = given.traces_per_s
        self._second = 0
        self._in_second = 0
        self._ids = _Ids()
        provider = TracerProvider(
            sampler=ALWAYS_ON,  # it is asked only for spans that are to be recorded
            resource=Resource.create(
                {
                    "service.name": f"{service}-{part}",
                    "service.namespace": "eventshop",
                    "service.version": version("eventshop"),
                    "service.instance.id": str(uuid4()),
                    "process.pid": getpid(),
                }
            ),
            shutdown_on_exit=False,  # it would wait for the collector
            id_generator=self._ids,
        )
        provider.add_span_processor(self.export)
        self._tracer = provider.get_tracer("eventshop", version("eventshop"), schema_url=SCHEMA)

    def admits(self) -> bool:
        """Whether one more request may be traced in this second."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        if self._in_second > self._per_second:
            self.export.dropped["rate_limited"] += 1
            return False
        return True

    def start(
        self,
        name: str,
        kind: SpanKind,
        parent: Context | None,
        attributes: Mapping[str, str | int],
        links: "list[Link] | None" = None,
        new_trace: int = 0,
    ) -> Span:
        """Start a span that is recorded. Without a parent, it begins a trace, with the id `new_trace` if given."""
        self._ids.next_trace = new_trace
        return self._tracer.start_span(
            name,
            _NOT_IN_A_TRACE if parent is None else _as_parent(parent),
            kind,
            attributes,
            links,
            record_exception=False,
            set_status_on_exception=False,
        )


class _Ids(RandomIdGenerator):
    """Random ids. The next trace can be given the id by which it was chosen to be recorded."""

    next_trace = 0

    def generate_trace_id(self) -> int:
        given, self.next_trace = self.next_trace, 0
        return given or super().generate_trace_id()


def traceparent_of(span: Span, parent: str | None) -> str:
    """What events and further requests carry, to be children of this span. Other flags of the parent are kept."""
    context = span.get_span_context()
    flags = "01" if parent is None else parent[-2:]
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags}"


def span_context(traceparent: str, tracestate: str | None) -> SpanContext:
    """The context of a span of another process. The `traceparent` must be well-formed."""
    return SpanContext(
        int(traceparent[3:35], 16),
        int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(traceparent[53:55], 16)),
        trace_state=None if tracestate is None else TraceState.from_header([tracestate]),
    )


def _as_parent(parent: Context) -> OtelContext:
    assert parent.traceparent is not None
    context = span_context(parent.traceparent, parent.tracestate)
    return set_span_in_context(NonRecordingSpan(context), _NOT_IN_A_TRACE)


def _headers(given: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in given.split(",") if pair.strip())
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}
