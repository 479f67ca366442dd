"""Decides about a batch of records: checkpoints to move, events to apply, records to park.

Nothing here uses a database. The input is records and checkpoints, and the output is decisions.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from eventspine.event import Event, NotAnEvent, envelope
from eventspine.handlers import Handlers
from eventspine.log import Record
from eventspine.received import Received
from eventspine.upcasting import read_events

Partition = tuple[str, int]


class Checkpoint(NamedTuple):
    next_offset: int
    last_position: int


class AppliedBefore(Protocol):
    """The events of a topic that were applied from earlier logs, before the present log was read."""

    def covers(self, key: str | None, position: int) -> bool: ...


class Rejected(NamedTuple):
    """A record that can't be applied, and why. A foreign record has no position."""

    record: Record
    position: int | None
    error: str


_NOT_DECODED_YET = Rejected(Record("", 0, 0, None, None, {}), None, "")


class Reading(NamedTuple):
    moves: dict[Partition, Checkpoint]
    items: list[Received[Any] | Rejected]
    repeats: int = 0
    """Records that were read or applied before."""


def read(
    records: Sequence[Record],
    checkpoints: Mapping[Partition, Checkpoint],
    handlers: Handlers,
    earlier: Mapping[str, AppliedBefore] = MappingProxyType({}),
) -> Reading:
    """Skip records that were already read, repeats, and events that these handlers do not handle.

    `earlier` gives for each topic what was applied from other logs. Those events are repeats too.
    Records must be in the order of their offsets within each partition.
    """
    moves: dict[Partition, Checkpoint] = {}
    items: list[Received[Any] | Rejected] = []
    fresh: dict[type[Event], list[_Fresh]] = {}
    repeats = 0
    for record in records:
        topic, key = record.topic, record.key
        at = (topic, record.partition)
        next_offset, last_position = moves.get(at) or checkpoints[at]
        if record.offset < next_offset:
            repeats += 1
            continue
        next_offset = record.offset + 1
        try:
            position, source, type_ = envelope(record)
        except NotAnEvent as error:
            items.append(Rejected(record, None, str(error)))
        else:
            if not handlers.knows_source(topic, source):
                reason = f"its source {source} does not publish here"
                items.append(Rejected(record, None, reason))
            elif position > last_position:
                last_position = position
                before = earlier.get(topic)
                event_class = handlers.event_class(topic, type_)
                if before is not None and before.covers(key, position):
                    repeats += 1
                elif event_class:
                    fresh.setdefault(event_class, []).append((len(items), position, record))
                    items.append(_NOT_DECODED_YET)
            else:
                repeats += 1
        moves[at] = Checkpoint(next_offset, last_position)
    for event_class, of_class in fresh.items():
        _decode(items, event_class, of_class)
    return Reading(moves, items, repeats)


_Fresh = tuple[int, int, Record]
"""The place among the items, the position, and the record."""


def _decode(
    items: list[Received[Any] | Rejected], event_class: type[Event], fresh: Sequence[_Fresh]
) -> None:
    """Replace the placeholders: decode all events of a class at once, or each alone if one is invalid."""
    try:
        events = read_events(event_class, [record for _, _, record in fresh])
    except NotAnEvent as error:
        if len(fresh) == 1:
            place, position, record = fresh[0]
            items[place] = Rejected(record, position, str(error))
        else:
            for one in fresh:
                _decode(items, event_class, [one])
    else:
        for (place, position, record), event in zip(fresh, events, strict=True):
            items[place] = Received(event, position, record)
