"""The spans of batches: one for each append of the relay, and one for each batch of a consumer.

A batch has a span if the trace of one of its events is recorded. Other batches cost a look at the headers. If all
those events belong to one trace, the span is in that trace, below the request. Otherwise it begins a trace of its
own. In both cases it has a link to the request of each such event.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from eventspine.context import Context, trace_id
from eventspine.error_text import text_of
from eventspine.interceptors import Interceptor, Proceed
from eventspine.steps import GROUP
from shop.platform.telemetry.traces import SAMPLED, Traces, span_context

if TYPE_CHECKING:
    from eventspine.backlog import Batch
    from eventspine.log import Record

MOST_LINKS = 128
"""The SDK keeps no more links of a span."""


class _Traced(NamedTuple):
    """An event whose trace is recorded."""

    traceparent: str
    tracestate: str | None
    position: str
    destination: str
    partition: int | None


class TracedBatches(Interceptor):
    def __init__(self, traces: Traces) -> None:
        self._traces = traces

    async def append(self, batch: "Batch", proceed: Proceed) -> None:
        events = [
            _Traced(headers["traceparent"], headers.get("tracestate"), position, topic, None)
            for position, topic, headers in batch.sampled()
        ]
        await self._in_span("append", "send", SpanKind.PRODUCER, len(batch), events, proceed)

    async def receive(self, records: "Sequence[Record]", proceed: Proceed) -> None:
        await self._in_span(
            "process",
            "process",
            SpanKind.CONSUMER,
            len(records),
            list(_traced(records)),
            proceed,
            GROUP.get(),
        )

    async def _in_span(
        self,
        operation: str,
        type_: str,
        kind: SpanKind,
        count: int,
        events: Sequence[_Traced],
        proceed: Proceed,
        group: str = "",
    ) -> None:
        if not events:
            await proceed()
            return
        span = self._start(operation, type_, kind, count, events)
        if group:
            span.set_attribute("messaging.consumer.group.name", group)
        try:
            await proceed()
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, text_of(error)))
            raise
        finally:
            span.end()

    def _start(
        self, operation: str, type_: str, kind: SpanKind, count: int, events: Sequence[_Traced]
    ) -> Span:
        attributes: dict[str, str | int] = {
            "messaging.system": self._traces.log_system,
            "messaging.operation.name": operation,
            "messaging.operation.type": type_,
            "messaging.batch.message_count": count,
        }
        destinations = {event.destination for event in events}
        name = operation
        if len(destinations) == 1:
            [destination] = destinations
            attributes["messaging.destination.name"] = destination
            name = f"{operation} {destination}"
        if len(events) > MOST_LINKS:
            attributes["eventspine.links.omitted"] = len(events) - MOST_LINKS
        first = events[0]
        is_one_trace = len({trace_id(event.traceparent) for event in events}) == 1
        parent = Context(first.traceparent, first.tracestate) if is_one_trace else None
        links = [_link(event) for event in islice(events, MOST_LINKS)]
        return self._traces.start(name, kind, parent, attributes, links)


def _traced(records: "Sequence[Record]") -> Iterator[_Traced]:
    for topic, partition, _, _, _, headers in records:
        traceparent = headers.get("traceparent")
        # Any writer may have written a record.
        if traceparent and traceparent[-1] in SAMPLED and trace_id(traceparent):
            yield _Traced(
                traceparent, headers.get("tracestate"), headers.get("ce_id", ""), topic, partition
            )


def _link(event: _Traced) -> Link:
    attributes: dict[str, str] = {
        "messaging.destination.name": event.destination,
        "messaging.message.id": event.position,
    }
    if event.partition is not None:
        attributes["messaging.destination.partition.id"] = str(event.partition)
    return Link(span_context(event.traceparent, event.tracestate), attributes)
