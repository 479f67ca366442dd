"""A small service of the tests' own, on nothing but the spine: notes that are taken and changed.

Its copy of the notes has a second table, `applied`, with a row for every event that was applied,
and no constraint: an event applied twice stands there twice, and nothing stops it.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

from eventspine.consumer import Consumer
from eventspine.context import NOBODY
from eventspine.database import Database
from eventspine.errors import MissingEvents
from eventspine.event import Event, IntegerId, dump, message
from eventspine.handlers import Handlers
from eventspine.log import EventLog, Message, Record
from eventspine.outbox import Transaction, transaction
from eventspine.received import Received
from eventspine.relay import Relay

TOPIC, SOURCE = "notes", "/notes"

TABLES = """
CREATE TABLE notes (id bigint PRIMARY KEY, version bigint NOT NULL, text text NOT NULL);
CREATE TABLE applied (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id bigint NOT NULL, version bigint NOT NULL, type text NOT NULL, text text NOT NULL
);
"""


class NoteEvent(Event):
    topic = TOPIC
    source = SOURCE

    id: IntegerId
    text: str


class NoteTaken(NoteEvent):
    type = "note.taken"


class NoteChanged(NoteEvent):
    type = "note.changed"


def event(id_: int, version: int, text: str | None = None) -> NoteEvent:
    kind = NoteTaken if version == 1 else NoteChanged
    return kind(id=id_, version=version, text=text or f"note {id_}, version {version}")


# The service that publishes


async def save(tx: Transaction, events: Sequence[NoteEvent]) -> None:
    """Write the notes, and publish that they were written."""
    await tx.execute(
        """
        INSERT INTO notes SELECT * FROM jsonb_to_recordset(%(events)s::jsonb)
            AS e(id bigint, version bigint, text text)
        ON CONFLICT (id) DO UPDATE SET version = excluded.version, text = excluded.text
        """,
        {"events": dump(events)},
    )
    for one in events:
        tx.publish(one, NOBODY)


async def publish(database: Database, *events: NoteEvent) -> None:
    async with transaction(database) as tx:
        await save(tx, events)


async def publish_notes(database: Database, first: int, last: int) -> None:
    """One note an id, in one transaction."""
    await publish(database, *(event(id_, 1) for id_ in range(first, last + 1)))


# The service that listens

_KEEP = """
WITH e AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(events)s::jsonb) AS e(id bigint, version bigint, text text)
), noted AS (
    INSERT INTO applied (id, version, type, text) SELECT id, version, %(type)s, text FROM e
), kept AS (
    INSERT INTO notes SELECT id, version, text FROM e
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, text = excluded.text
)
SELECT e.id, coalesce(n.version, 0), e.version FROM e LEFT JOIN notes n USING (id)
WHERE e.version > coalesce(n.version, 0) + 1 ORDER BY e.id
"""


async def _keep(tx: Transaction, events: Sequence[NoteEvent]) -> None:
    type_ = type(events[0]).type
    assert {type(one).type for one in events} == {type_}
    for id_, known, got in await tx.fetch(_KEEP, {"events": dump(events), "type": type_}):
        tx.alarm(MissingEvents("note", id_, known=known, got=got))


async def taken(tx: Transaction, received: Sequence[Received[NoteTaken]]) -> None:
    await _keep(tx, [one.event for one in received])


async def changed(tx: Transaction, received: Sequence[Received[NoteChanged]]) -> None:
    await _keep(tx, [one.event for one in received])


def handlers(consumer: str = "copy") -> Handlers:
    return Handlers(consumer, {NoteTaken: taken, NoteChanged: changed})


async def copy_of(
    database: Database,
) -> tuple[dict[int, tuple[int, str]], Counter[tuple[int, int]]]:
    """The copy, and how often each version of each note was applied to it."""
    notes = {id_: (version, text) for id_, version, text in await database.fetch("TABLE notes")}
    return notes, Counter(
        (id_, version) for id_, version in await database.fetch("SELECT id, version FROM applied")
    )


async def assert_copied(database: Database, *events: NoteEvent) -> None:
    """The copy is what these events, each once and in order, make of it."""
    notes, applied = await copy_of(database)
    assert applied == Counter((one.id, one.version) for one in events)
    assert notes == {one.id: (one.version, one.text) for one in events}
    order = await database.fetch("SELECT id, version FROM applied ORDER BY n")
    for id_ in notes:
        versions = [version for of, version in order if of == id_]
        assert versions == sorted(versions)


# On the log


def wire(position: int, one: NoteEvent) -> Message:
    return message(
        SOURCE, str(position), one.key, one.type, "1", "2026-01-01T00:00:00.000000Z",
        one.model_dump_json().encode(), None,
    )  # fmt: skip


def record(offset: int, position: int, one: NoteEvent, partition: int = 0) -> Record:
    return Record(TOPIC, partition, offset, *wire(position, one))


async def positions_in(log: EventLog) -> list[list[int]]:
    """For each partition, the positions it holds, in its order."""
    ends = await log.end_offsets(TOPIC)
    return [
        [int(one.headers["ce_id"]) for one in await log.read(TOPIC, partition, 0, end + 1)]
        for partition, end in sorted(ends.items())
    ]


# Running


def relay(url: str, log: EventLog, **options: Any) -> Relay:
    return Relay(url, log, source=SOURCE, topics=[TOPIC], **{"batch": 100, **options})


def consumer(database: Database, log: EventLog, **options: Any) -> Consumer:
    return Consumer(database, log, handlers(), **options)


async def cancel(tasks: Sequence[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Until each has heard, as a worker does it: a query that ends at that very moment with an
    error of its own swallows the first. Gives those that go on all the same.
    """
    going_on = set(tasks)
    for _ in range(100):
        for task in going_on:
            task.cancel()
        if going_on:
            _, going_on = await asyncio.wait(going_on, timeout=0.1)
    return going_on


class Running:
    """Tasks that run for as long as the block does, and must end when they are told to."""

    def __init__(self, *coroutines: Any) -> None:
        self._coroutines = coroutines
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.tasks = [asyncio.create_task(coroutine) for coroutine in self._coroutines]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert not await cancel(self.tasks), "a task did not end when it was cancelled"
        for task in self.tasks:
            assert task.cancelled(), repr(task.exception())


def as_json(one: NoteEvent, **changes: Any) -> bytes:
    return json.dumps({**one.model_dump(), **changes}).encode()
