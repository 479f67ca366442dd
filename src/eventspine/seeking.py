"""Where in a topic a time is. Nothing in a log says so for certain but the events themselves."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from eventspine.log import Record

Place = tuple[str, int]
"""A topic and a partition."""

_WINDOW = 64
"""Records of one look."""
_LOOKS, _GUESSES = 40, 8

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)


class Reads(Protocol):
    """What is needed of a log. Raises `LogUnavailable`."""

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]: ...


@runtime_checkable
class KnowsWhenAppended(Protocol):
    """A log that may find records by the time at which it appended them."""

    async def appended_from(
        self, topic: str, partitions: Sequence[int], time: datetime
    ) -> dict[int, int] | None:
        """The offset of the first record of each partition that was appended at `time` or later, by the log's clock.
        Partitions that have none are left out. None if it keeps no such times. Raises `LogUnavailable`.
        """
        ...


async def offsets_at(log: Reads, ends: Mapping[Place, int], time: datetime) -> dict[Place, int]:
    """For each partition, the offset of its first event that was committed at `time` or later; its end if none was.

    Times rise with the offsets, apart from repeats and foreign records near it. So the result is where to begin, and
    a reader that must be exact still compares each event's time. A log that knows when it appended a record is
    asked that first: an event is appended soon after its commit, so one look at what is there is then enough. Without
    that, or where it does not hold (in a log that was copied, or after its writer was away), three to five looks are
    usual, whatever the size. Raises `LogUnavailable`.
    """
    hints: dict[Place, int] = {}
    if isinstance(log, KnowsWhenAppended):
        hints = await _hints(log, ends, time)
    found = await asyncio.gather(
        *(_first(log, place, end, time, hints.get(place)) for place, end in ends.items())
    )
    return dict(zip(ends, found, strict=True))


async def _hints(
    log: KnowsWhenAppended, ends: Mapping[Place, int], time: datetime
) -> dict[Place, int]:
    topics: dict[str, list[int]] = {}
    for (topic, partition), end in ends.items():
        if end:
            topics.setdefault(topic, []).append(partition)
    found = await asyncio.gather(
        *(log.appended_from(topic, partitions, time) for topic, partitions in topics.items())
    )
    hints = {}
    for (topic, partitions), of_topic in zip(topics.items(), found, strict=True):
        for place in ((topic, each) for each in partitions if of_topic is not None):
            hints[place] = min((of_topic or {}).get(place[1], ends[place]), ends[place])
    return hints


async def _first(log: Reads, place: Place, end: int, time: datetime, hint: int | None) -> int:
    """Looks where the hint is, then at the beginning and at the end, then guesses from the times between which it must
    be.
    """
    low, high = 0, end
    low_time, high_time = EARLIEST, LATEST
    for looks in range(_LOOKS):
        if low >= high:
            break
        if looks == 0 and hint is not None:
            # What was committed shortly before was appended shortly before.
            start = hint - _WINDOW // 2
        elif looks < _GUESSES and low_time == EARLIEST:
            start = low
        elif looks < _GUESSES and high_time == LATEST:
            start = high - _WINDOW
        elif looks < _GUESSES:
            share = (time - low_time) / (high_time - low_time) if high_time > low_time else 0.5
            start = low + int((high - low) * share) - _WINDOW // 2
        else:  # a guess may be bad again and again; halving never is
            start = (low + high - _WINDOW) // 2
        start = min(max(low, start), high - 1)
        found = await read_between(log, place, start, min(high, start + _WINDOW))
        if not found:
            high = start
            continue
        timed = with_times(found)
        first = next((at for at, _ in timed if at > EARLIEST), EARLIEST)
        if timed[-1][0] < time:
            low, low_time = found[-1].offset + 1, timed[-1][0]
        elif first >= time and start > low:
            high, high_time = found[0].offset, first
        else:
            return next(record.offset for at, record in timed if at >= time)
    return low


async def read_between(log: Reads, place: Place, start: int, end: int) -> list[Record]:
    """The records from `start` up to `end`, which is not included. Raises `LogUnavailable`."""
    if start >= end:
        return []
    found = await log.read(*place, start, end - start)
    return [record for record in found if record.offset < end]


def with_times(records: Sequence[Record]) -> list[tuple[datetime, Record]]:
    """The records of a partition with their times, which do not fall: a clock may have been set back, and a foreign
    record has the time of the one before it.
    """
    found = []
    last = EARLIEST
    for record in records:
        last = max(last, committed_at(record) or last)
        found.append((last, record))
    return found


def committed_at(record: Record) -> datetime | None:
    """When the record's event was committed, by its publisher's clock; None for a foreign record."""
    try:
        time = datetime.fromisoformat(record.headers.get("ce_time", ""))
    except ValueError:
        return None
    return time if time.tzinfo is not None else None
