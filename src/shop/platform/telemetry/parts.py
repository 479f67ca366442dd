"""What the parts of a process count, as samples. They are read at each scrape, and nothing is asked."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from eventspine.database import Database
from shop.platform.telemetry import declared
from shop.platform.telemetry.histogram import Histogram, Sample

if TYPE_CHECKING:
    from eventspine.captured import Captured
    from eventspine.consumer import Consumer
    from eventspine.relay import Relay
    from shop.platform.auth.gate import Gate
    from shop.platform.http.app import ServiceApp
    from shop.platform.http.crowd import Crowd
    from shop.platform.telemetry.traces_export import Export


@runtime_checkable
class Queue(Protocol):
    """A batcher, or something like it."""

    name: str
    sizes: list[int]
    """How many batches there were, by their number of commands."""
    refused_full: int
    refused_late: int

    @property
    def waiting(self) -> int: ...


class Loop(Protocol):
    @property
    def last_turn(self) -> float: ...


def of_queues(bounded: Iterable[object]) -> Iterator[Sample]:
    """Those that are queues, or have one."""
    sizes: dict[str, Histogram] = {}
    for each in bounded:
        queue = getattr(each, "queue", each)
        if not isinstance(queue, Queue):
            continue
        label = (queue.name,)
        yield Sample(declared.BATCH_WAITING, label, queue.waiting)
        yield Sample(declared.BATCH_REFUSED, (queue.name, "full"), queue.refused_full)
        yield Sample(declared.BATCH_REFUSED, (queue.name, "late"), queue.refused_late)
        histogram = sizes.setdefault(queue.name, Histogram(declared.BATCH_COMMANDS.bounds))
        for size, count in enumerate(queue.sizes):
            if count:
                histogram.observe(size, count)
    for name, histogram in sizes.items():
        yield Sample(declared.BATCH_COMMANDS, (name,), histogram)


def of_database(database: Database) -> Iterator[Sample]:
    stats = database.pool_stats()
    size, idle = stats.get("pool_size", 0), stats.get("pool_available", 0)
    yield Sample(declared.POOL_CONNECTIONS, ("used",), size - idle)
    yield Sample(declared.POOL_CONNECTIONS, ("idle",), idle)
    yield Sample(declared.POOL_MOST, (), stats.get("pool_max", 0))
    yield Sample(declared.POOL_WAITING, (), stats.get("requests_waiting", 0))
    for reason, count in (
        ("timeout", "requests_errors"),
        ("connect", "connections_errors"),
        ("lost", "connections_lost"),
    ):
        yield Sample(declared.POOL_ERRORS, (reason,), stats.get(count, 0))


def of_repeated_keys(database: Database) -> Iterator[Sample]:
    yield Sample(declared.REPEATED_KEYS, (), database.repeated_keys)


def of_counts(counts: Mapping[str, Mapping[str, int]]) -> Iterator[Sample]:
    """What the service counts: by action and outcome."""
    for action, outcomes in counts.items():
        for outcome, count in outcomes.items():
            yield Sample(declared.OUTCOMES, (action, outcome), count)


def of_gate(gate: "Gate") -> Iterator[Sample]:
    asked, verified, refused = gate.counts
    yield Sample(declared.TOKENS, ("remembered",), asked - verified - refused)
    yield Sample(declared.TOKENS, ("verified",), verified)
    yield Sample(declared.TOKENS, ("refused",), refused)
    yield Sample(declared.TOKENS_REMEMBERED, (), gate.remembered)


def of_unrouted(app: "ServiceApp") -> Iterator[Sample]:
    for status, count in list(app.unrouted.items()):
        yield Sample(declared.UNROUTED, (str(status),), count)


def of_traces(export: "Export") -> Iterator[Sample]:
    yield Sample(declared.SPANS_SENT, (), export.sent)
    for reason, count in export.dropped.items():
        yield Sample(declared.SPANS_DROPPED, (reason,), count)


def of_crowd(crowd: "Crowd", connections: Collection[object]) -> Iterator[Sample]:
    yield Sample(declared.CONNECTIONS, (), len(connections))
    yield Sample(declared.CONNECTIONS_REFUSED, (), crowd.refused)
    yield Sample(declared.IDLE_CLOSED, (), crowd.closed)


def of_worker(
    relay: "Relay | Captured | None", consumers: Iterable["Consumer"], loops: Mapping[str, Loop]
) -> Iterator[Sample]:
    if relay is not None:
        yield Sample(declared.RELAY_LEADS, (), relay.leads)
    for consumer in consumers:
        label = (consumer.name,)
        yield Sample(declared.CONSUMED, label, consumer.records)
        yield Sample(declared.APPLIED, label, consumer.applied)
        yield Sample(declared.REPEATS, label, consumer.repeats)
        yield Sample(declared.PARKED, label, consumer.parked)
    now = monotonic()
    for name, loop in loops.items():
        yield Sample(declared.LOOP_IDLE, (name,), max(0.0, now - loop.last_turn))
