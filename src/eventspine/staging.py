"""Events of the log, copied into a temporary table, for tables that are made anew from them.

The table holds the events that a service has published, and those that it has applied. What it passed over
is left out: foreign records, repeats, and parked events. Its session ends with the process, and PostgreSQL
then removes the table. So nothing of it is left behind, personal data neither.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from pydantic_core import to_json

from eventspine.address import Address
from eventspine.audited_log import feeding, not_there_yet, reading
from eventspine.database import Connection, connect, execute, translated
from eventspine.errors import SpineError
from eventspine.event import Event
from eventspine.handlers import Handlers
from eventspine.log import EventLog
from eventspine.positions import Seen
from eventspine.session import WHOLE_TABLES
from eventspine.staged_lines import Lines, Wanted
from eventspine.staged_table import CREATE, INDEXED, copying, pages
from eventspine.upcasting import IS_OLD, upcast

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

_FROM_OUTBOX = f"""
INSERT INTO staged_events
SELECT topic, position, type, key, version, time::text, data, %(turn)s FROM outbox
WHERE position > %(after)s AND position <= %(upto)s AND NOT {IS_OLD}
"""  # noqa: S608 - nobody's input

_OLD_IN_OUTBOX = f"""
SELECT topic, position, type, key, version, time, schema_version, data::text FROM outbox
WHERE position > %(after)s AND position <= %(upto)s AND {IS_OLD}
"""  # noqa: S608 - nobody's input

_LIFTED = """
INSERT INTO staged_events VALUES (
    %(topic)s, %(position)s, %(type)s, %(key)s, %(version)s, %(time)s::timestamptz::text, %(data)s::jsonb, %(turn)s
)
"""


@asynccontextmanager
async def session(url: Address, name: str, **settings: str) -> AsyncIterator[Connection]:
    """For statements over whole tables, that take the time they need. `name` is shown in pg_stat_activity."""
    connection = await connect(
        url,
        statement_within=inf,
        idle_in_transaction_session_timeout="0",
        application_name=name,
        # So that what a killed process was doing ends with it.
        client_connection_check_interval="1s",
        work_mem="128MB",
        maintenance_work_mem="256MB",
        # No plan of a temporary table's first rows is right for the rest.
        plan_cache_mode="force_custom_plan",
        **WHOLE_TABLES,
        **settings,
    )
    try:
        with translated():
            yield connection
    finally:
        await connection.close()


class NotNow(SpineError):
    """The log and the database do not go together at the moment; the sentence says what to do."""


class Source(NamedTuple):
    """A service, as its events and its tables are read."""

    name: str
    source: str
    topic: str
    consumer: Handlers
    own_events: Mapping[str, type[Event]]
    """The classes of its events, by their types. An event of another type is taken as it is."""


@dataclass
class Place:
    """How far a partition was read."""

    offset: int = 0
    highest: int = 0


@dataclass
class _Read:
    """What is known of another's topic."""

    places: dict[int, Place] = field(default_factory=dict)
    left_out: dict[int, bytes] = field(default_factory=dict)
    """What was parked: by position, the line for `COPY`."""
    highest: int = 0


class Staging:
    """The events, as of a moment; `take` brings it forward to the present one.

    What `take` reads of the database it reads with the connection as it is: in a snapshot, if there is one.
    """

    def __init__(
        self, connection: Connection, log: EventLog, of: Source, topics: Iterable[str]
    ) -> None:
        self._connection = connection
        self._log = log
        self._of = of
        self._topics = sorted(topics)
        self._read: dict[str, _Read] = {}
        self.own_upto: int | None = None
        """The last of the service's own positions that was taken."""
        self.turn = 0
        self.taken = 0

    async def create(self) -> None:
        await execute(self._connection, CREATE)

    def state(self) -> Any:
        """For `reset`, should the transaction of the next `take` be rolled back."""
        places = {
            topic: (
                {at: (place.offset, place.highest) for at, place in read.places.items()},
                dict(read.left_out),
                read.highest,
            )
            for topic, read in self._read.items()
        }
        return places, self.own_upto, self.turn, self.taken

    def reset(self, state: Any) -> None:
        places, self.own_upto, self.turn, self.taken = state
        self._read = {
            topic: _Read({at: Place(*place) for at, place in of.items()}, left_out, highest)
            for topic, (of, left_out, highest) in places.items()
        }

    async def take(self, progress: Progress, *, own_only: bool = False) -> dict[str, int]:
        """How many events of which topics were added. `own_only` asks the log nothing.

        Raises `NotNow`, and the log's own errors.
        """
        self.turn += 1
        added = {}
        for topic in self._topics:
            before = self.taken
            if topic == self._of.topic:
                if self.own_upto is None:
                    await self._take_own_log(progress)
                await self._take_outbox()
            elif not own_only:
                await self._take_others(topic, progress)
            if self.taken > before:
                added[topic] = self.taken - before
        if self.turn == 1:
            # The first turn has nearly all events; the others are found among them.
            await execute(self._connection, "CREATE INDEX ON staged_events (turn) WHERE turn > 1")
            for statement in INDEXED:
                await execute(self._connection, statement)
        return added

    async def _take_own_log(self, progress: Progress) -> None:
        """What was relayed. The rest is in the outbox, and so is all that comes."""
        of = self._of
        fed = await feeding(self._connection, of.source, (await self._log.identity(of.topic)).id)
        if fed.problem:
            raise NotNow(fed.problem)
        seen = Seen(fed.relayed)
        highest: dict[int, int] = {}
        ends = await self._log.end_offsets(of.topic)

        def wanted(partition: int, source: str, position: int) -> bool:
            if source != of.source:
                return False
            new = highest.get(partition, 0) < position <= fed.relayed
            if new:
                highest[partition] = position
                seen.add(position)
            return new

        await self._copy(
            of.topic, dict.fromkeys(ends, 0), ends, wanted, of.own_events.get, progress
        )
        if missing := seen.missing(fed.relayed):
            raise NotNow(
                f"topic {of.topic} lacks {len(missing)} range(s) of positions, the first from"
                f" {missing[0][0]} to {missing[0][1]}: `shop audit {of.name}` says what to do"
            )
        self.own_upto = fed.relayed

    async def _take_outbox(self) -> None:
        assert self.own_upto is not None
        [(head,)] = await _all(self._connection, "SELECT position FROM outbox_head", {})
        if head == self.own_upto:
            return
        classes = self._of.own_events
        current = {type_: event_class.schema_version for type_, event_class in classes.items()}
        wanted = {
            "after": self.own_upto,
            "upto": head,
            "turn": self.turn,
            "current": to_json(current).decode(),
        }
        taken = (await execute(self._connection, _FROM_OUTBOX, wanted)).rowcount
        if taken < head - self.own_upto:
            for topic, position, type_, key, version, time, schema_version, data in await _all(
                self._connection, _OLD_IN_OUTBOX, wanted
            ):
                row = {
                    "topic": topic,
                    "position": position,
                    "type": type_,
                    "key": key,
                    "time": time,
                }
                now = upcast(classes[type_], schema_version, data.encode()).decode()
                row |= {"version": version, "data": now, "turn": self.turn}
                await execute(self._connection, _LIFTED, row)
                taken += 1
        if taken != head - self.own_upto:
            raise NotNow("the outbox was pruned faster than it could be read; start again")
        self.taken += taken
        self.own_upto = head

    async def _take_others(self, topic: str, progress: Progress) -> None:
        """Up to the service's checkpoints."""
        name, handlers = self._of.name, self._of.consumer
        identity = await self._log.identity(topic)
        known = await reading(self._connection, name, topic, identity.id)
        if known.problem:
            raise NotNow(known.problem)
        parked = await _parked(self._connection, name, topic)
        read = self._read.setdefault(topic, _Read())
        await self._take_released(read, parked)
        starts = {at: read.places.setdefault(at, Place()).offset for at in known.checkpoints}
        ends = {at: next_offset for at, (next_offset, _) in known.checkpoints.items()}

        def wanted(partition: int, source: str, position: int) -> bool:
            place = read.places[partition]
            if not handlers.knows_source(topic, source) or position <= place.highest:
                return False
            place.highest = position
            return True

        def left_out(line: bytes, position: int) -> bool:
            if position in parked:
                read.left_out[position] = line
                return True
            return False

        await self._copy(
            topic, starts, ends, wanted, lambda type_: handlers.event_class(topic, type_),
            progress, left_out,
        )  # fmt: skip
        for at, end in ends.items():
            read.places[at].offset = max(end, read.places[at].offset)
            read.highest = max(read.highest, read.places[at].highest)
        if problem := not_there_yet(topic, known.earlier, read.highest):
            raise NotNow(problem)

    async def _take_released(self, read: _Read, parked: set[int]) -> None:
        """What was parked, and has been applied since."""
        released = [position for position in read.left_out if position not in parked]
        if released:
            async with copying(self._connection) as put:
                for position in released:
                    # Its last field is the turn.
                    line = read.left_out.pop(position).rpartition(b"\t")[0]
                    await put(b"%b\t%d\n" % (line, self.turn))
            self.taken += len(released)

    async def _copy(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int],
        wanted: Wanted,
        class_of: Callable[[str], type[Event] | None],
        progress: Progress,
        left_out: Callable[[bytes, int], bool] = lambda _line, _position: False,
    ) -> None:
        total = sum(max(0, end - starts[at]) for at, end in ends.items())
        if not total:
            return
        done = 0
        lines_of = Lines(topic, wanted, class_of, turn=self.turn, own=topic == self._of.topic)
        async with copying(self._connection) as put:
            async for found, count in pages(self._log, topic, starts, ends, lines_of.of):
                lines = [line for line, position in found if not left_out(line, position)]
                self.taken += len(lines)
                await put(b"".join(lines))
                done += count
                progress(topic, done, total)


async def _parked(connection: Connection, consumer: str, topic: str) -> set[int]:
    rows = await _all(
        connection,
        "SELECT position FROM parked WHERE consumer = %(consumer)s AND topic = %(topic)s",
        {"consumer": consumer, "topic": topic},
    )
    return {position for (position,) in rows}


async def _all(connection: Connection, sql: str, params: Mapping[str, Any]) -> Sequence[Any]:
    return await (await execute(connection, sql, params)).fetchall()
