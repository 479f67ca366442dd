"""Where in a topic a time is. Nothing in a log says so for certain but the events themselves."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
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


@dataclass
class _Spread:
    """How a topic's times are spread over one of its partitions: over the others nearly the same, as keys are."""

    begin: datetime = EARLIEST
    end: datetime = LATEST
    share: float | None = None
    """Where in the partition the wanted time is. None if the log's own times said it."""


async def offsets_at(log: Reads, ends: Mapping[Place, int], time: datetime) -> dict[Place, int]:
    """For each partition, the offset of its first event that was committed at `time` or later; its end if none was.

    Times rise with the offsets, apart from repeats and foreign records near it. So the result is where to begin, and
    a reader that must be exact still compares each event's time. A log that knows when it appended a record is
    asked that first: an event is appended soon after its commit, so one look at what is there is then enough. Without
    that, or where it does not hold (in a log that was copied, or after its writer was away), three to five looks are
    usual in the longest partition of a topic, whatever the size, and two in each other one. Raises `LogUnavailable`.
    """
    hints: dict[Place, int] = {}
    if isinstance(log, KnowsWhenAppended):
        hints = await _hints(log, ends, time)
    topics: dict[str, list[Place]] = {}
    for place in ends:
        topics.setdefault(place[0], []).append(place)
    found: dict[Place, int] = {}

    async def find(place: Place, spread: _Spread) -> None:
        found[place] = await _first(log, place, ends[place], time, hints.get(place), spread)

    async def of_topic(places: list[Place]) -> None:
        longest = max(places, key=lambda place: ends[place])
        spread = _Spread()
        await find(longest, spread)
        others = (place for place in places if place != longest)
        await asyncio.gather(*(find(place, replace(spread)) for place in others))

    await asyncio.gather(*(of_topic(places) for places in topics.values()))
    return {place: found[place] for place in ends}


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


@dataclass
class _Between:
    """Where the time must be: from `low` up to `high`. The times there, as far as they are known or can be assumed."""

    low: int
    high: int
    low_time: datetime
    high_time: datetime

    def guess(self, time: datetime, looks: int) -> int:
        """Where the next look begins, after so many of them."""
        low, high = self.low, self.high
        if looks >= _GUESSES:  # a guess may be bad again and again; halving never is
            return (low + high - _WINDOW) // 2
        if self.low_time == EARLIEST:
            return low
        if self.high_time == LATEST:
            return high - _WINDOW
        lasted = self.high_time - self.low_time
        share = (time - self.low_time) / lasted if lasted > timedelta() else 0.5
        return low + int((high - low) * share) - _WINDOW // 2


async def _first(
    log: Reads, place: Place, end: int, time: datetime, hint: int | None, spread: _Spread
) -> int:
    """Looks where the time is in another partition, or where the hint is; then, if it does not know their times, at the
    beginning and at the end; then it guesses from the times between which it must be. Tells `spread` what it found.
    """
    by_hint = hint is not None and spread.share is None
    looks = 0
    # What was committed shortly before was appended shortly before.
    middle = hint if spread.share is None else int(end * spread.share)
    between = _Between(0, end, spread.begin, spread.end)
    while between.low < between.high and looks < _LOOKS:
        low, high = between.low, between.high
        start = between.guess(time, looks)
        if looks == 0 and middle is not None:
            start = middle - _WINDOW // 2
        looks += 1
        start = min(max(low, start), high - 1)
        found = await read_between(log, place, start, min(high, start + _WINDOW))
        if not found:
            between.high = start
            continue
        timed = with_times(found)
        first = next((at for at, _ in timed if at > EARLIEST), EARLIEST)
        if start == 0:
            spread.begin = first
        if start + _WINDOW >= end:
            spread.end = timed[-1][0]
        if timed[-1][0] < time:
            between.low, between.low_time = found[-1].offset + 1, timed[-1][0]
        elif first >= time and start > low:
            between.high, between.high_time = found[0].offset, first
        else:
            between.low = next(record.offset for at, record in timed if at >= time)
            break
    if end and not (by_hint and looks == 1):
        spread.share = between.low / end
    return between.low


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
