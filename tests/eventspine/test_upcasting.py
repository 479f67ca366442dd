"""An event of any schema version it ever had is read as if it had been written today."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

import psycopg
import pytest

from eventspine import dead_letters
from eventspine.audit import audit
from eventspine.audit_sections import Audited
from eventspine.consumer import Consumer
from eventspine.context import NOBODY
from eventspine.database import Database
from eventspine.event import Event, IntegerId, NotAnEvent, message
from eventspine.handlers import Handlers
from eventspine.log import EventLog, Record
from eventspine.outbox import Transaction, transaction
from eventspine.projections import Aggregate, Projection, keep_latest
from eventspine.received import Received
from eventspine.upcasting import read_events
from tests.support import notes
from tests.support.notes import SOURCE, TOPIC, Running, relay
from tests.support.spine import Said, opened, opened_log
from tests.support.waiting import eventually


class Jotting(Event):
    topic = TOPIC
    source = SOURCE

    id: IntegerId


class First(Jotting):
    """As it was at first."""

    type = "jotting.made"
    words: list[str]


class Second(Jotting):
    """A field was renamed and retyped."""

    type = "jotting.made"
    schema_version = 2
    upcasts: ClassVar = {1: lambda data: data}  # nobody reads by this class
    text: str


def _one_text(data: dict[str, Any]) -> dict[str, Any]:
    data["text"] = " ".join(data.pop("words"))
    return data


def _urgency(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "urgent": data["text"].endswith("!")}


class Now(Jotting):
    """A field came that is always there."""

    type = "jotting.made"
    schema_version = 3
    upcasts: ClassVar = {1: _one_text, 2: _urgency}
    text: str
    urgent: bool


class Later(Now):
    """What the next release publishes."""

    schema_version = 4
    upcasts: ClassVar = {**Now.upcasts, 3: lambda data: {**data, "text": data["text"].upper()}}


JOTTINGS = Projection("jottings", topic=TOPIC, columns={"text": "text", "urgent": "boolean"})
URGENT = Aggregate(
    "urgent_jottings",
    topics=[TOPIC],
    key=["urgent"],
    values=["count"],
    rows="SELECT (data->>'urgent')::boolean AS urgent, count(*) FROM events GROUP BY 1",
)
TABLES = """
CREATE TABLE jottings (id bigint PRIMARY KEY, version bigint NOT NULL, text text NOT NULL, urgent boolean NOT NULL);
CREATE TABLE urgent_jottings (urgent boolean PRIMARY KEY, count bigint NOT NULL);
"""

HISTORY: Sequence[Jotting] = [
    First(id=1, version=1, words=["buy", "tea"]),
    First(id=2, version=1, words=["run!"]),
    Second(id=1, version=2, text="buy tea now!"),
    Second(id=3, version=1, text="sleep"),
    Now(id=2, version=2, text="walk", urgent=True),
]
TABLE = [(1, 2, "buy tea now!", True), (2, 2, "walk", True), (3, 1, "sleep", False)]
COUNTS = [(False, 2), (True, 3)]


async def jotted(tx: Transaction, received: Sequence[Received[Now]]) -> None:
    await keep_latest(tx, JOTTINGS, received)
    for one in received:
        await tx.execute(
            "INSERT INTO urgent_jottings AS u VALUES (%(urgent)s, 1)"
            " ON CONFLICT (urgent) DO UPDATE SET count = u.count + 1",
            {"urgent": one.event.urgent},
        )


HANDLERS = Handlers("copy", {Now: jotted})
NEXT_RELEASE = Handlers("copy", {Later: jotted})


@pytest.fixture(autouse=True)
def _tables(notes_url: str, copy_url: str) -> None:
    for url in (notes_url, copy_url):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(TABLES)


def record(one: Jotting, position: int = 1, **headers: str | None) -> Record:
    whole = message(
        SOURCE, str(position), one.key, one.type, str(one.schema_version), "2026-01-01T00:00:00.000000Z",
        one.as_json().encode(), None,
    )  # fmt: skip
    merged = {k: v for k, v in {**whole.headers, **headers}.items() if v is not None}
    return Record(TOPIC, 0, position - 1, whole.key, whole.value, merged)


async def publish(database: Database, *events: Jotting) -> None:
    """As each release published its own: the table is always what the current one makes of it."""
    async with transaction(database) as tx:
        for one in events:
            (now,) = read_events(Now, [record(one)])
            assert isinstance(now, Now)
            await jotted(tx, [Received(now, 1, record(one))])
            tx.publish(one, NOBODY)


def audited(url: str, name: str) -> Audited:
    publishes = name == "notes"
    return Audited(
        name=name,
        topic=TOPIC if publishes else "",
        source=SOURCE if publishes else "",
        events=[Now] if publishes else [],
        database_url=url,
        consumers=[] if publishes else [HANDLERS],
        projections=[JOTTINGS, URGENT],
    )


async def problems(log: EventLog, *whom: Audited) -> list[str]:
    sections = [section for one in whom for section in await audit(one, log, lambda *_: None)]
    return [problem for section in sections for problem in section.problems]


async def has(database: Database, rows: Sequence[tuple[object, ...]]) -> bool:
    return await database.fetch("SELECT * FROM jottings ORDER BY id") == list(rows)


async def test_tables_made_from_every_version_are_what_the_audit_computes(
    notes_url: str, copy_url: str, said: Said
) -> None:
    async with (
        opened(notes_url) as source,
        opened(copy_url) as copy,
        opened_log(copy_url) as log,
    ):
        await publish(source, *HISTORY)
        # Nothing is relayed yet: the publisher's audit reads the outbox.
        assert await problems(log, audited(notes_url, "notes")) == []
        async with Running(relay(notes_url, log).run(), Consumer(copy, log, HANDLERS).run()):
            await eventually(lambda: has(copy, TABLE))

            async def saved() -> bool:
                return await source.fetch("SELECT position FROM relay") == [(5,)]

            await eventually(saved)
        counts = await copy.fetch("SELECT * FROM urgent_jottings ORDER BY urgent")
        assert counts == COUNTS
        both = audited(notes_url, "notes"), audited(copy_url, "copy")
        assert await problems(log, *both) == []
        # And it sees what is wrong in a row whose event is old.
        await copy.fetch("UPDATE jottings SET text = 'wake' WHERE id = 3 RETURNING id")
        (found,) = await problems(log, *both)
        assert found == "jottings 3 differs: text is 'wake' and must be 'sleep'"
    assert not said.troubles()


async def test_a_reader_that_is_older_than_the_event_parks_it_until_it_is_as_new(
    notes_url: str, copy_url: str
) -> None:
    async with (
        opened(notes_url) as source,
        opened(copy_url) as copy,
        opened_log(copy_url) as log,
    ):
        async with transaction(source) as tx:
            tx.publish(HISTORY[0], NOBODY)
            tx.publish(Later(id=2, version=1, text="SLEEP", urgent=False), NOBODY)
            tx.publish(HISTORY[3], NOBODY)
        tea, sleep = (1, 1, "buy tea", False), (3, 1, "sleep", False)
        async with Running(relay(notes_url, log).run(), Consumer(copy, log, HANDLERS).run()):
            await eventually(lambda: has(copy, [tea, sleep]))
        (parked,) = await dead_letters.find(copy, "copy")
        assert parked.holds_key and parked.error == (
            "it is a jotting.made of schema version 4, and this reader knows versions up to 3:"
            " deploy a release that knows it, then `shop parked retry`"
        )
        retried = await dead_letters.retry(copy, HANDLERS, TOPIC, "2")
        assert (retried.applied, retried.left) == (0, 1)
        retried = await dead_letters.retry(copy, NEXT_RELEASE, TOPIC, "2")
        assert (retried.applied, retried.left) == (1, 0)
        assert await has(copy, [tea, (2, 1, "SLEEP", False), sleep])


async def test_an_old_event_that_was_parked_is_lifted_when_it_is_retried(copy_url: str) -> None:
    async def refuses(tx: Transaction, received: Sequence[Received[Now]]) -> None:
        raise ValueError("not today")

    async with opened(copy_url) as copy, opened_log(copy_url) as log:
        old = record(HISTORY[0])
        with suppress(ValueError):
            await Consumer(copy, log, Handlers("copy", {Now: refuses})).apply([old])
        await Consumer(copy, log, Handlers("copy", {Now: refuses}))._isolate([old], ValueError())
        retried = await dead_letters.retry(copy, HANDLERS, TOPIC, "1")
        assert (retried.applied, retried.left) == (1, 0)
        assert await has(copy, [(1, 1, "buy tea", False)])


def test_each_version_is_read_as_the_current_one() -> None:
    read = read_events(Now, [record(one) for one in HISTORY])
    assert {type(one) for one in read} == {Now}
    assert [one.model_dump() for one in read] == [
        {"id": 1, "version": 1, "text": "buy tea", "urgent": False},
        {"id": 2, "version": 1, "text": "run!", "urgent": True},
        {"id": 1, "version": 2, "text": "buy tea now!", "urgent": True},
        {"id": 3, "version": 1, "text": "sleep", "urgent": False},
        {"id": 2, "version": 2, "text": "walk", "urgent": True},
    ]


def test_a_record_that_names_no_version_has_the_first() -> None:
    (read,) = read_events(Now, [record(HISTORY[0], ce_dataversion=None)])
    assert read == Now(id=1, version=1, text="buy tea", urgent=False)


@pytest.mark.parametrize("version", ["", "0", "-1", "1.0", " 1", "1_0", "x", "¹", "9" * 400])
def test_a_record_without_a_valid_version_is_no_event(version: str) -> None:
    with pytest.raises(NotAnEvent, match="its header ce_dataversion is not a version"):
        read_events(Now, [record(HISTORY[0], ce_dataversion=version)])


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"1", b"{}", b'{"words": 1}', b'{"words": ["a", NaN]}', b"\xff"]
)
def test_old_data_of_another_shape_is_not_an_event(data: bytes) -> None:
    foreign = record(HISTORY[0])._replace(value=data)
    with pytest.raises(NotAnEvent, match=r"its data is not a jotting\.made of schema version 1: "):
        read_events(Now, [foreign])


def test_old_data_with_u0000_is_not_an_event() -> None:
    value = json.dumps({"id": 1, "version": 1, "words": ["a\0b"]}).encode()
    with pytest.raises(NotAnEvent, match=r"holds U\+0000"):
        read_events(Now, [record(HISTORY[0])._replace(value=value)])


def test_a_class_that_can_not_read_each_earlier_version_is_refused() -> None:
    with pytest.raises(TypeError) as refused:

        class Gap(Now):
            schema_version = 5

    assert str(refused.value) == (
        "Gap has the schema version 5 and upcasts from [1, 2]: it needs one from each version before its own"
    )
    assert notes.NoteTaken.schema_version == 1
