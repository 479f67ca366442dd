"""The way of one event: request, commit, append, and what each consumer made of it.

A step that is not known says so, and why. Times are those that were stored. For a consumer nothing stores when it
applied an event, so the console says between which two looks its checkpoint passed it, if it watched then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from eventspine.handlers import Handlers
from eventspine.log import LogUnavailable, Record
from eventspine.partitions import partition_of
from shop.services.console.outboxes import Published
from shop.services.console.questions import answered
from shop.services.console.reading import Reading
from shop.services.console.watching import Passed, Watch

State = Literal["done", "waits", "stuck", "unknown"]

_WINDOW = 64
"""Records of one read while a record is located."""
_READS = 30


@dataclass
class Step:
    name: str
    state: State
    says: str
    at: datetime | None = None
    not_before: datetime | None = None
    """If `at` is only the latest time at which it was done, this is the earliest."""
    since_ms: float | None = None
    """Milliseconds since the step before it whose time is known."""


@dataclass
class Journey:
    event: Published
    steps: list[Step]
    record: Record | None
    changes: list[tuple[str, Any, Any]] | None
    """Field, before, after. None if the event before is not known."""


async def journey(
    reading: Reading, watch: Watch, event: Published, before: Published | None
) -> Journey:
    """Raises what the databases raise; a log that is away is a step that is not known."""
    steps = await _asked(reading, event)
    steps.append(
        Step(
            "commit",
            "done",
            f"position {event.position} of {event.service}, written in the last statement before COMMIT",
            event.time,
        )
    )
    record, partition, appended = await _appended(reading, watch, event)
    steps.append(appended)
    for service in reading.services.values():
        for each in service.consumers(reading.settings):
            if event.topic in each.topics:
                steps.append(
                    await _applied(reading, watch, event, (service.name, each), (partition, record))
                )
    _measure(steps)
    return Journey(event, steps, record, changes(event, before))


def changes(event: Published, before: Published | None) -> list[tuple[str, Any, Any]] | None:
    """The fields that the event changed. Its version always rises, so that is left out."""
    if event.version > 1 and (before is None or before.version != event.version - 1):
        return None
    old = before.data if before is not None and event.version > 1 else {}
    return [
        (name, old.get(name), value)
        for name, value in {**dict.fromkeys(old), **event.data}.items()
        if name not in {"id", "version"} and old.get(name) != value
    ]


async def _asked(reading: Reading, event: Published) -> list[Step]:
    """The request that caused it."""
    who = f"by {event.caller}" if event.caller else "the caller is not recorded"
    if event.key_hash:
        for name, status, began in await answered(reading, event.key_hash):
            if name == event.service:
                says = f"answered with {status}; its transaction began then; {who}"
                return [Step("request", "done", says, began)]
        says = f"it had an idempotency key whose answer is not kept any more; when it came is not recorded; {who}"
        return [Step("request", "unknown", says)]
    return [Step("request", "unknown", f"when it came is not recorded; {who}")]


async def _appended(
    reading: Reading, watch: Watch, event: Published
) -> tuple[Record | None, int | None, Step]:
    try:
        identity = await reading.log.identity(event.topic)
        partition = partition_of(event.key, identity.partitions, identity.rule)
        record = await located(reading, event, partition)
    except LogUnavailable as error:
        says = f"the log can't be read: {' '.join(str(error).split())}"
        return None, None, Step("append", "unknown", says)
    if record is None:
        relayed = await _relayed(reading, event.service)
        if event.position > relayed:
            says = f"it waits in the outbox; the relay is at position {relayed}"
            return None, partition, Step("append", "waits", says)
        says = f"the relay is past it, and {event.topic}/{partition} does not have it: run an audit"
        return None, partition, Step("append", "stuck", says)
    says = f"{record.topic}/{record.partition}@{record.offset}"
    if reading.log_table is not None:
        rows = await reading.log_table.fetch(
            'SELECT appended_at FROM log_records WHERE topic = %(topic)s AND "partition" = %(partition)s'
            ' AND "offset" = %(offset)s',
            {"topic": record.topic, "partition": record.partition, "offset": record.offset},
        )
        if rows:
            return record, partition, Step("append", "done", says, rows[0][0])
    seen = watch.relayed(event.service, event.position)
    if seen is None:
        says += "; when is not recorded"
    return record, partition, _seen(Step("append", "done", says), seen)


async def located(reading: Reading, event: Published, partition: int) -> Record | None:
    """The event's first record in the log; None if there is none.

    Positions rise in a partition, so the place is guessed from what was read, and then a window is read there.
    Usually one read is enough. Raises `LogUnavailable`.
    """
    log, topic, wanted = reading.log, event.topic, event.position
    source = reading.topics[topic].source
    low, low_position = 0, 0
    high = (await log.end_offsets(topic)).get(partition, 0)
    high_position = max(wanted, await _relayed(reading, event.service)) + 1
    for reads in range(_READS):
        if low >= high:
            return None
        share = (wanted - low_position) / max(1, high_position - low_position)
        # A guess may be bad again and again; halving never is.
        guess = low + int((high - low) * (share if reads < 6 else 0.5))  # noqa: PLR2004
        start = max(low, guess - _WINDOW // 2)
        found = [
            each for each in await log.read(topic, partition, start, _WINDOW) if each.offset < high
        ]
        if not found:
            high = start
            continue
        ours = [(int(each.headers["ce_id"]), each) for each in found if _is_from(each, source)]
        for position, record in ours:
            if position == wanted:
                return record
        if not ours or ours[-1][0] < wanted:
            low = found[-1].offset + 1
            low_position = ours[-1][0] if ours else low_position
        elif ours[0][0] > wanted:
            high, high_position = start, ours[0][0]
        else:
            return None
    return None


def _is_from(record: Record, source: str) -> bool:
    return record.headers.get("ce_source") == source and record.headers.get("ce_id", "").isdecimal()


async def _relayed(reading: Reading, service: str) -> int:
    rows = await reading.database(service).fetch(
        "SELECT position FROM relay WHERE source = %(source)s",
        {"source": reading.services[service].source},
    )
    return int(rows[0][0]) if rows else 0


_CHECKPOINT = """
SELECT next_offset, log FROM cursors
WHERE consumer = %(consumer)s AND topic = %(topic)s AND "partition" = %(partition)s
"""
_PARKED = """
SELECT cause, error, attempts, parked_at FROM parked
WHERE consumer = %(consumer)s AND topic = %(topic)s AND "partition" = %(partition)s AND "offset" = %(offset)s
    AND position = %(position)s
"""


async def _applied(
    reading: Reading,
    watch: Watch,
    event: Published,
    whose: tuple[str, Handlers],
    where: tuple[int | None, Record | None],
) -> Step:
    service, handlers = whose
    partition, record = where
    name = f"{handlers.consumer} applies"
    if handlers.event_class(event.topic, event.type) is None:
        return Step(name, "done", f"nothing: {handlers.consumer} reads past events of this type")
    if record is None:
        return Step(
            name,
            "waits" if partition is not None else "unknown",
            "it is not in the log yet" if partition is not None else "not known",
        )
    place = {
        "consumer": handlers.consumer,
        "topic": event.topic,
        "partition": partition,
        "offset": record.offset,
        "position": event.position,
    }
    database = reading.database(service)
    if parked := await database.fetch(_PARKED, place):
        cause, error, attempts, at = parked[0]
        says = f"parked after {attempts} attempt(s): {cause}: {' '.join(error.split())[:200]}"
        return Step(name, "stuck", says, at)
    rows = await database.fetch(_CHECKPOINT, place)
    identity = await reading.log.identity(event.topic)
    if not rows or rows[0][1] not in {"", identity.id}:
        return Step(name, "unknown", "its checkpoint is in another log, or it has none yet")
    if rows[0][0] <= record.offset:
        return Step(name, "waits", f"its checkpoint is at offset {rows[0][0]}")
    seen = watch.applied(handlers.consumer, event.topic, record.partition, record.offset)
    says = (
        "its checkpoint passed it between two looks"
        if seen
        else "when is not recorded: the console did not watch then"
    )
    return _seen(Step(name, "done", says), seen)


def _seen(step: Step, seen: Passed | None) -> Step:
    if seen is not None:
        step.not_before, step.at = seen.after, seen.by
    return step


def _measure(steps: Sequence[Step]) -> None:
    """Milliseconds since what had to be before it. All consumers follow the append, and not one another."""
    known: datetime | None = None
    for step in steps:
        if step.at is not None and known is not None:
            step.since_ms = (step.at - known).total_seconds() * 1000
        if step.at is not None and not step.name.endswith(" applies"):
            known = step.at
