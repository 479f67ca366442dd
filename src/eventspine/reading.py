"""What a batch of records comes to: cursors to move, events to apply, records to park.

Nothing here touches a database: records and cursors in, decisions out.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from eventspine.event import Event, NotAnEvent, decode, envelope
from eventspine.handlers import Handlers
from eventspine.log import Record

Partition = tuple[str, int]


class Cursor(NamedTuple):
    next_offset: int
    last_position: int


class AppliedBefore(Protocol):
    """What of a topic was applied before the log was read that is read now."""

    def covers(self, key: str | None, position: int) -> bool: ...


class Item(NamedTuple):
    """A record that is not a repeat. Either `event` is there, or `error` says what is wrong.

    Of a stranger's record there is no position.
    """

    record: Record
    position: int | None
    event: Event | None
    error: str | None


class Reading(NamedTuple):
    moves: dict[Partition, Cursor]
    items: list[Item]


def read(
    records: Sequence[Record],
    cursors: Mapping[Partition, Cursor],
    handlers: Handlers,
    earlier: Mapping[str, AppliedBefore] = MappingProxyType({}),
) -> Reading:
    """Leave out what has been read, what is a repeat, and what these handlers have no use for.

    `earlier` is, for each topic, what was applied from other logs: those are repeats as well.
    Records must be in the order of their offsets within each partition.
    """
    moves: dict[Partition, Cursor] = {}
    items: list[Item] = []
    fresh: list[tuple[int, type[Event]]] = []
    for record in records:
        at = (record.topic, record.partition)
        cursor = moves.get(at) or cursors[at]
        if record.offset < cursor.next_offset:
            continue
        moves[at] = Cursor(record.offset + 1, cursor.last_position)
        try:
            found = envelope(record)
        except NotAnEvent as error:
            items.append(Item(record, None, None, str(error)))
            continue
        if not handlers.knows_source(record.topic, found.source):
            reason = f"its source {found.source} does not publish here"
            items.append(Item(record, None, None, reason))
            continue
        if found.position > cursor.last_position:
            moves[at] = Cursor(record.offset + 1, found.position)
            before = earlier.get(record.topic)
            if before is not None and before.covers(record.key, found.position):
                continue
            event_class = handlers.event_class(record.topic, found.type)
            if event_class is not None:
                fresh.append((len(items), event_class))
                items.append(Item(record, found.position, None, None))
    _decode(items, fresh)
    return Reading(moves, items)


def _decode(items: list[Item], fresh: Sequence[tuple[int, type[Event]]]) -> None:
    """Fill in the events: all of a class at once, or, if one of them is none, each alone."""
    by_class: dict[type[Event], list[int]] = {}
    for index, event_class in fresh:
        by_class.setdefault(event_class, []).append(index)
    for event_class, indexes in by_class.items():
        values = [items[index].record.value or b"" for index in indexes]
        try:
            for index, event in zip(indexes, decode(event_class, values), strict=True):
                record, position, _, _ = items[index]
                items[index] = Item(record, position, event, None)
        except NotAnEvent:
            for index in indexes:
                items[index] = _alone(items[index], event_class)


def _alone(item: Item, event_class: type[Event]) -> Item:
    try:
        return item._replace(event=decode(event_class, [item.record.value or b""])[0])
    except NotAnEvent as error:
        return item._replace(error=str(error))
