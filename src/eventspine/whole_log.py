"""All events that a service needs from the log, whatever its database knows: for a restore.

They go into the same temporary table as those of a rebuild (`staging.py`).
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from eventspine.database import Connection, execute
from eventspine.event import NotAnEvent, envelope
from eventspine.handlers import Handlers
from eventspine.log import EventLog, Record, TopicIdentity
from eventspine.recomputing import Horizon
from eventspine.staged_lines import Lines
from eventspine.staged_table import CREATE, INDEXED, TIME, copying, pages
from eventspine.staging import Place, Progress, Source
from eventspine.upcasting import read_events

_RANGES = """
SELECT last + 1, position - 1 FROM (
    SELECT position, lag(position, 1, %(after)s) OVER (ORDER BY position) AS last
    FROM (SELECT DISTINCT position FROM staged_events WHERE topic = %(topic)s AND position > %(after)s) AS own
) AS pairs WHERE position > last + 1 ORDER BY 1
"""

_BEFORE = f"""
SELECT coalesce(
    (SELECT min(position) - 1 FROM staged_events WHERE topic = %(topic)s AND {TIME} > %(time)s),
    (SELECT max(position) FROM staged_events WHERE topic = %(topic)s), 0)
"""  # noqa: S608 - nobody's input

_TIME_OF = f"SELECT {TIME} FROM staged_events WHERE topic = %(topic)s AND position = %(position)s"  # noqa: S608 - as above


class Undecodable(NamedTuple):
    """An event that its reader can't decode: a consumer would have parked it."""

    record: Record
    position: int
    reason: str


@dataclass
class Topic:
    """One topic, read to its end."""

    identity: TopicIdentity
    places: dict[int, Place] = field(default_factory=dict)
    undecodable: list[Undecodable] = field(default_factory=list)
    met: bytearray = field(default_factory=bytearray)
    """Of the service's own topic: which positions it holds, up to the number of its records."""

    @property
    def highest(self) -> int:
        return max((place.highest for place in self.places.values()), default=0)


class WholeLog:
    """A service's own topic, those that it reads, and those of its reactions."""

    def __init__(self, connection: Connection, log: EventLog, of: Source) -> None:
        self._connection = connection
        self._log = log
        self._of = of
        self.topics: dict[str, Topic] = {}
        self.read = 0

    async def take(self, progress: Progress, parked: Iterable[tuple[str, int]]) -> None:
        """Events that are parked are left out: they will be retried. Raises the log's own errors."""
        await execute(self._connection, CREATE)
        left_out = set(parked)
        own = {self._of.topic} if self._of.topic else set()
        names = sorted({*self._of.consumer.topics, *own})
        # All asked at once: each answer takes as long as some thousand records.
        ends, identities = await asyncio.gather(
            asyncio.gather(*(self._log.end_offsets(name) for name in names)),
            asyncio.gather(*(self._log.identity(name) for name in names)),
        )
        for found in zip(names, ends, identities, strict=True):
            await self._take(*found, left_out, progress)
        for statement in INDEXED:
            await execute(self._connection, statement)

    async def _take(
        self,
        name: str,
        ends: Mapping[int, int],
        identity: TopicIdentity,
        left_out: set[tuple[str, int]],
        progress: Progress,
    ) -> None:
        topic = self.topics[name] = Topic(identity)
        topic.places = {partition: Place(end) for partition, end in ends.items()}
        of = self._of
        is_own = name == of.topic
        met = topic.met

        def class_of(type_: str) -> Any:
            return of.own_events.get(type_) if is_own else of.consumer.event_class(name, type_)

        def wanted(partition: int, source: str, position: int) -> bool:
            place = topic.places[partition]
            known = source == of.source if is_own else of.consumer.knows_source(name, source)
            if not known or position <= place.highest:
                return False
            place.highest = position
            if is_own and position < len(met):
                met[position] = 1
            return (name, position) not in left_out

        def undecodable(record: Record, position: int) -> None:
            topic.undecodable.append(Undecodable(record, position, _reason(of.consumer, record)))

        total, done = sum(ends.values()), 0
        if not total:
            return
        if is_own:
            met.extend(bytes(total + 1))
        lines_of = Lines(name, wanted, class_of, None if is_own else undecodable, own=is_own)
        async with copying(self._connection) as put:
            starts = dict.fromkeys(ends, 0)
            async for lines, count in pages(self._log, name, starts, ends, lines_of.of):
                await put(b"".join([line for line, _ in lines]))
                self.read += len(lines)
                done += count
                progress(f"reading {name}", done, total)

    async def missing(self, after: int) -> list[tuple[int, int]]:
        """The ranges of the service's own positions that the log lacks, after this one."""
        own = self.topics.get(self._of.topic)
        if own is None or own.highest <= after:
            return []
        if own.highest < len(own.met) and own.met.find(0, after + 1, own.highest + 1) == -1:
            return []
        given = {"topic": self._of.topic, "after": after}
        rows = await (await execute(self._connection, _RANGES, given)).fetchall()
        return [(first, last) for first, last in rows]

    async def before(self, time: datetime) -> Horizon:
        """Of each topic the last position before the first event that came after this time."""
        positions = {}
        for topic in self.topics:
            cursor = await execute(self._connection, _BEFORE, {"topic": topic, "time": time})
            [(positions[topic],)] = await cursor.fetchall()
        return Horizon(positions)

    async def time_of(self, position: int) -> datetime | None:
        """When the service published its event at this position. None if the log does not have it."""
        given = {"topic": self._of.topic, "position": position}
        row = await (await execute(self._connection, _TIME_OF, given)).fetchone()
        return None if row is None else row[0]


def _reason(handlers: Handlers, record: Record) -> str:
    event_class = handlers.event_class(record.topic, envelope(record).type)
    if event_class is not None:
        try:
            read_events(event_class, [record])
        except NotAnEvent as error:
            return str(error)
    return "its data can't be decoded"
