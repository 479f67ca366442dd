"""Records of the log, as pages look for them: newest first, from a time on, or one.

Every look is bounded: it reads a limited number of records, says how far it went, and gives the place where the next
look goes on. So a page is as quick with a million events as with ten.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from eventspine.log import Record
from eventspine.seeking import EARLIEST, LATEST, Place, committed_at, read_between, with_times
from shop.services.console.quick_log import LogReads

_SCANNED = 2000
"""Records that one look reads, at most, over all partitions."""
_LEAST = 20
"""Records that it reads of a partition, at least."""

_PLACE = re.compile(r"(.+):([0-9]{1,9}):([0-9]{1,18})")


class Event(NamedTuple):
    """A record, decoded as far as it can be. A foreign record has few of these."""

    record: Record
    time: datetime | None
    kind: str | None
    """Its type, such as `order.placed`."""
    id: str | None
    """The position among the events of its source."""
    source: str | None
    trace: str | None
    """The id of its trace, in hex."""
    data: Any
    """The value as JSON; as text if it is not JSON; None for a tombstone."""

    @property
    def path(self) -> str:
        """Its address in the console."""
        return f"/log/{self.record.topic}/{self.record.partition}/{self.record.offset}"


def event(record: Record) -> Event:
    headers = record.headers
    return Event(
        record,
        committed_at(record),
        headers.get("ce_type"),
        headers.get("ce_id"),
        headers.get("ce_source"),
        trace_of(headers),
        data_of(record.value),
    )


def trace_of(headers: Mapping[str, str]) -> str | None:
    """The trace id of W3C's `traceparent`: version, trace, span, flags."""
    parts = headers.get("traceparent", "").split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else None  # noqa: PLR2004


def data_of(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return json.loads(value)
    except ValueError:
        return value.decode(errors="backslashreplace")


@dataclass(frozen=True)
class Filter:
    """What a record must have. Empty parts match any; `text` is looked for in the data and the headers."""

    topic: str = ""
    type: str = ""
    key: str = ""
    header: str = ""
    """`name=value`, or a part of either."""
    text: str = ""

    def matches(self, record: Record) -> bool:
        headers = record.headers
        if self.topic and record.topic != self.topic:
            return False
        if self.key and record.key != self.key:
            return False
        if self.type and self.type.lower() not in headers.get("ce_type", "").lower():
            return False
        if self.header and not _has(headers, self.header):
            return False
        if self.text:
            wanted = self.text.lower()
            value = (record.value or b"").decode(errors="replace").lower()
            return wanted in value or any(wanted in each.lower() for each in headers.values())
        return True

    @property
    def any(self) -> bool:
        return not (self.type or self.key or self.header or self.text)


def _has(headers: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    if equals:
        return value.strip().lower() in headers.get(name.strip(), "\0").lower()
    wanted = wanted.lower()
    return any(wanted in each.lower() or wanted in name.lower() for name, each in headers.items())


class Found(NamedTuple):
    events: list[Event]
    """In the order of the look: newest first, or oldest first."""
    places: dict[Place, int]
    """Where the next look goes on: the offset before which, or from which on."""
    scanned: int
    more: bool
    """Whether there is anything beyond."""


async def ends(log: LogReads, topics: Iterable[str]) -> dict[Place, int]:
    """The end of each partition. Raises `LogUnavailable`."""
    topics = list(topics)
    found = await asyncio.gather(*(log.end_offsets(topic) for topic in topics))
    return {
        (topic, partition): end
        for topic, of_topic in zip(topics, found, strict=True)
        for partition, end in of_topic.items()
    }


async def newest(log: LogReads, wanted: Filter, before: Mapping[Place, int], limit: int) -> Found:
    """The newest matching records before these offsets. Raises `LogUnavailable`."""
    each = max(_LEAST, (_SCANNED if not wanted.any else 2 * limit) // max(1, len(before)))
    firsts = {place: max(0, end - each) for place, end in before.items()}
    parts = await asyncio.gather(
        *(read_between(log, place, firsts[place], end) for place, end in before.items())
    )
    timed = [with_times(part) for part in parts]
    # A partition that was not read to its beginning is known only from the first record that was read. What is
    # older in others must wait for the next look, or the order would be wrong.
    known_from = max(
        (part[0][0] for first, part in zip(firsts.values(), timed, strict=True) if first and part),
        default=EARLIEST,
    )
    known = [each for part in timed for each in part if each[0] >= known_from]
    known.sort(key=lambda each: (each[0], each[1].offset), reverse=True)
    chosen: list[Record] = []
    places = dict(before)
    scanned = 0
    for _, record in known:
        if len(chosen) == limit:
            break
        scanned += 1
        places[record.topic, record.partition] = record.offset
        if wanted.matches(record):
            chosen.append(record)
    else:
        # Offsets without a record, such as markers of transactions, are passed over, too.
        for place, part in zip(before, timed, strict=True):
            if not part or part[0][0] >= known_from:
                places[place] = firsts[place]
    return Found([event(each) for each in chosen], places, scanned, any(places.values()))


async def following(log: LogReads, wanted: Filter, start: Mapping[Place, int], limit: int) -> Found:
    """The oldest matching records from these offsets on. Raises `LogUnavailable`."""
    each = max(_LEAST, (_SCANNED if not wanted.any else 2 * limit) // max(1, len(start)))
    parts = await asyncio.gather(*(log.read(*place, at, each) for place, at in start.items()))
    timed = [with_times(part) for part in parts]
    known_to = min((part[-1][0] for part in timed if len(part) == each), default=LATEST)
    known = [one for part in timed for one in part if one[0] <= known_to]
    known.sort(key=lambda one: (one[0], one[1].offset))
    chosen: list[Record] = []
    places = dict(start)
    scanned = 0
    for _, record in known:
        if len(chosen) == limit:
            break
        scanned += 1
        places[record.topic, record.partition] = record.offset + 1
        if wanted.matches(record):
            chosen.append(record)
    more = scanned < len(known) or any(len(part) == each for part in parts)
    return Found([event(each) for each in chosen], places, scanned, more)


async def one(log: LogReads, topic: str, partition: int, offset: int) -> Event | None:
    """The record at this offset. Raises `LogUnavailable`."""
    found = await log.read(topic, partition, offset, 1)
    return event(found[0]) if found and found[0].offset == offset else None


def places_text(places: Mapping[Place, int]) -> str:
    """For an address: `orders:0:120,users:0:88`."""
    return ",".join(f"{topic}:{partition}:{at}" for (topic, partition), at in places.items())


def places_of(text: str, topics: Sequence[str]) -> dict[Place, int]:
    """What `places_text` made; parts that are not of these topics are left out."""
    found: dict[Place, int] = {}
    for each in text.split(","):
        parts = _PLACE.fullmatch(each)
        if parts and parts[1] in topics:
            found[parts[1], int(parts[2])] = int(parts[3])
    return found
