"""What others put into a log: repeats, records that are no events, events that make no sense.

Each draws nothing itself: what it is told says what it does, as far as the log allows.
"""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from eventspine.event import NotAnEvent, envelope
from eventspine.log import EventLog, Message, Record

OpenLog = Callable[[], EventLog]

Place = tuple[str, int, int]
"""Topic, partition and offset."""

Result = TypeVar("Result")

_MARK = "x-storm"
_PAGE = 2000  # records
_numbers = itertools.count(1)


class Planted(NamedTuple):
    """What was put into the log, and where it stands there. Empty where there was no place for it."""

    places: Sequence[Place]
    keys: Sequence[str] = ()
    """Those whose events have been repeated, or wait behind what was planted."""


def is_planted(record: Record) -> bool:
    """Whether it is none of the shop's. Repeats are: they are what a relay of its own would write."""
    return _MARK in record.headers


def duplicate(open_log: OpenLog, topic: str, *, back: int, length: int, which: int = 0) -> Planted:
    """What a second relay would do: a batch that a partition has shown is shown again, in order.

    `length` records from `back` records before the end of one of the partitions that have any.
    """

    async def plant(log: EventLog) -> Planted:
        ends = await log.end_offsets(topic)
        filled = [partition for partition, end in sorted(ends.items()) if end]
        if not filled:
            return Planted([])
        partition = filled[which % len(filled)]
        start = max(0, ends[partition] - back)
        end = min(ends[partition], start + length)
        messages = [
            Message(record.key or "", record.value, {**record.headers})
            for record in await _read(log, topic, partition, start, end)
            if _position(record) and not is_planted(record)
        ]
        if not messages:
            return Planted([])
        await log.append(topic, messages)
        return Planted([], sorted({message.key for message in messages}))

    return _with(open_log, plant)


def poison(open_log: OpenLog, topic: str, which: int) -> Planted:
    """A record that is no event. It is parked, holding nothing; only `discard` helps against it."""
    ours = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": f"/{topic}", "ce_type": "x"}
    kinds: Sequence[tuple[dict[str, str], bytes | None]] = (
        ({}, b"not JSON, and without headers"),
        (ours, None),
        ({**ours, "ce_source": "/strangers"}, b"{}"),
        ({**ours, "ce_id": "first"}, b"{}"),
        ({**ours, "ce_id": str(2**63)}, b"{}"),
    )
    headers, value = kinds[which % len(kinds)]
    key = str(which // len(kinds) % 100)

    async def plant(log: EventLog) -> Planted:
        return Planted(await _append(log, topic, key, value, headers))

    return _with(open_log, plant)


def forge(open_log: OpenLog, topic: str, which: int) -> Planted:
    """A record with all that an event has but data that makes sense, in the name of a real key.

    It is parked and holds its key: what comes of the key later is parked behind it. `discard` it by
    its cause, "not an event"; then `retry` applies the rest.

    Its position must be above the last one of its partition, or it would be taken for a repeat; and
    every position in between must stand in other partitions already, or the checkpoint would pass over
    real events. So with a single partition there is no place for it, nor always with many.
    """

    async def plant(log: EventLog) -> Planted:
        shown: set[int] = set()
        last: list[Record] = []
        for partition, end in sorted((await log.end_offsets(topic)).items()):
            tail = await _read(log, topic, partition, max(0, end - _PAGE), end)
            real = [record for record in tail if _position(record) and not is_planted(record)]
            shown.update(map(_position, real))
            # A batch that was repeated may stand behind it.
            last += [max(real, key=_position)] if real else []
        places = [
            (record, position)
            for record in last
            if (position := _end_of_run(_position(record), shown)) > _position(record)
        ]
        if not places:
            return Planted([])
        record, position = places[which % len(places)]
        key = record.key or ""
        headers = {**record.headers, "ce_id": str(position)}
        return Planted(await _append(log, topic, key, b'{"id": "nobody"}', headers), [key])

    return _with(open_log, plant)


def _end_of_run(position: int, shown: set[int]) -> int:
    while position + 1 in shown:
        position += 1
    return position


def _position(record: Record) -> int:
    """0 for what is no event."""
    try:
        return envelope(record).position
    except NotAnEvent:
        return 0


async def _append(
    log: EventLog, topic: str, key: str, value: bytes | None, headers: dict[str, str]
) -> list[Place]:
    """Appended once or, after trouble, more than once; where it is found."""
    mark = str(next(_numbers))
    before = await log.end_offsets(topic)
    await log.append(topic, [Message(key, value, {**headers, _MARK: mark})])
    return [
        (topic, partition, record.offset)
        for partition, end in (await log.end_offsets(topic)).items()
        for record in await _read(log, topic, partition, before.get(partition, 0), end)
        if record.headers.get(_MARK) == mark
    ]


async def _read(log: EventLog, topic: str, partition: int, start: int, end: int) -> list[Record]:
    found: list[Record] = []
    while start < end:
        some = await log.read(topic, partition, start, min(_PAGE, end - start))
        if not some:
            break
        found += [record for record in some if record.offset < end]
        start = some[-1].offset + 1
    return found


def _with(open_log: OpenLog, do: Callable[[EventLog], Coroutine[Any, Any, Result]]) -> Result:
    async def run() -> Result:
        log = open_log()
        try:
            return await do(log)
        finally:
            await log.close()

    return asyncio.run(run())
