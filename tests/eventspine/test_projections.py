"""Tables recomputed from the log: latest versions by any key, sums, and invariants."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from eventspine.audited_events import COPY_EVENTS, CREATE_EVENTS
from eventspine.database import Connection, Database, connect
from eventspine.errors import MissingEvents
from eventspine.event import Event
from eventspine.outbox import transaction
from eventspine.projections import (
    Aggregate,
    Differences,
    Invariant,
    Projection,
    breaches,
    differences,
    keep_latest,
    skipped_versions,
)
from eventspine.pruning import Aged
from tests.support.received import heard
from tests.support.spine import opened

ONE, TWO = UUID(int=1), UUID(int=2)

TABLES = """
CREATE TABLE things (id uuid PRIMARY KEY, version bigint NOT NULL, name text, size integer, named boolean);
CREATE TABLE stock (
    shelf text, item bigint, version bigint NOT NULL, count integer NOT NULL, PRIMARY KEY (shelf, item));
CREATE TABLE totals (item bigint PRIMARY KEY, count numeric NOT NULL);
"""

THINGS = Projection(
    "things",
    topic="things",
    key={"id": "uuid"},
    columns={"name": "text", "size": "integer"},
    computed={"named": "name IS NOT NULL"},
)
STOCK = Projection(
    "stock",
    topic="stock",
    key={"shelf": "text", "item": "bigint"},
    columns={"count": "integer"},
)
TOTALS = Aggregate(
    "totals",
    topics=["stock"],
    key=["item"],
    values=["count"],
    rows="SELECT (data->>'item')::bigint AS item, sum((data->>'added')::integer) AS count"
    " FROM events GROUP BY 1",
)


class ThingMade(Event):
    topic = "things"
    source = "/things"
    type = "thing.made"

    id: UUID
    name: str | None = None
    size: int = 1


class Stocked(Event):
    topic = "stock"
    source = "/stock"
    type = "stock.changed"

    id: str
    shelf: str
    item: int
    count: int
    added: int = 0


def stocked(shelf: str, item: int, version: int, count: int, added: int = 0) -> Stocked:
    of = f"{shelf}/{item}"
    return Stocked(id=of, version=version, shelf=shelf, item=item, count=count, added=added)


@asynccontextmanager
async def kept(url: str, projection: Projection, *events: Event) -> AsyncIterator[Database]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)
    async with opened(url) as database:
        async with transaction(database) as tx:
            for one in heard(*events):
                await keep_latest(tx, projection, [one])
        yield database


async def compared(
    url: str, table: Projection | Aggregate, *events: Event, then: Sequence[str] = ()
) -> Differences:
    connection = await connect(url)
    try:
        async with connection.transaction():
            for sql in then:
                await connection.execute(sql.encode())
            await _remember(connection, events)
            return await differences(connection, table)
    finally:
        await connection.close()


async def _remember(connection: Connection, events: Sequence[Event]) -> None:
    await connection.execute(CREATE_EVENTS)
    async with connection.cursor() as cursor, cursor.copy(COPY_EVENTS) as copy:
        # The last one twice: it is relayed, and its position not saved.
        for one in [*heard(*events), *heard(*events)[-1:]]:
            event = one.event
            await copy.write_row(
                (event.topic, one.position, event.type, event.key, event.as_json())
            )


THING_EVENTS = (
    ThingMade(id=ONE, version=1, name="a"),
    ThingMade(id=TWO, version=1),
    ThingMade(id=ONE, version=2, name="b", size=7),
)
STOCK_EVENTS = (stocked("a", 1, 1, 5, 5), stocked("b", 1, 1, 2, 2), stocked("a", 1, 2, 3, -2))


async def test_ids_may_be_uuids_and_every_column_follows_the_latest_event(notes_url: str) -> None:
    async with kept(notes_url, THINGS, *THING_EVENTS) as database:
        rows = await database.fetch("SELECT * FROM things ORDER BY id")
        assert rows == [(ONE, 2, "b", 7, True), (TWO, 1, None, 1, False)]
    assert await compared(notes_url, THINGS, *THING_EVENTS) == ([], 0, 2)
    wrong = await compared(
        notes_url,
        THINGS,
        *THING_EVENTS,
        then=[f"UPDATE things SET size = 8 WHERE id = '{ONE}'"],
    )
    assert (wrong.first[0].key, wrong.total) == (str(ONE), 1)


async def test_a_key_may_be_of_two_columns(notes_url: str) -> None:
    async with kept(notes_url, STOCK, *STOCK_EVENTS) as database:
        rows = await database.fetch("SELECT * FROM stock ORDER BY shelf")
        assert rows == [("a", 1, 2, 3), ("b", 1, 1, 2)]
    assert await compared(notes_url, STOCK, *STOCK_EVENTS) == ([], 0, 2)
    gone = "DELETE FROM stock WHERE shelf = 'b'"
    (missing,) = (await compared(notes_url, STOCK, *STOCK_EVENTS, then=[gone])).first
    assert (missing.key, missing.found) == ("b, 1", None)


async def test_of_a_table_whose_old_rows_are_deleted_a_missing_row_is_no_difference(
    notes_url: str,
) -> None:
    aged = Projection(
        "stock", topic=STOCK.topic, key=STOCK.key, columns=STOCK.read, computed=STOCK.computed,
        aged=Aged("stock", "changed_ms", 1.0),
    )  # fmt: skip
    async with kept(notes_url, STOCK, *STOCK_EVENTS):
        pass
    (extra,) = (await compared(notes_url, aged, *STOCK_EVENTS[::2])).first
    assert (extra.key, extra.expected) == ("b, 1", None)
    gone = "DELETE FROM stock WHERE shelf = 'b'"
    assert not (await compared(notes_url, aged, *STOCK_EVENTS, then=[gone])).total


async def test_a_version_that_does_not_follow_is_an_alarm_by_its_key(notes_url: str) -> None:
    with pytest.raises(MissingEvents, match=r"stock a, 1: version 3 arrived after version 1"):
        async with kept(notes_url, STOCK, stocked("a", 1, 1, 1), stocked("a", 1, 3, 1)):
            pass


@pytest.mark.parametrize(
    ("planted", "wrong"),
    [
        ("SELECT", []),
        ("UPDATE totals SET count = count + 1000", [("1", 5, 1005)]),
        ("DELETE FROM totals", [("1", 5, None)]),
        ("INSERT INTO totals VALUES (9, 1)", [("9", None, 1)]),
    ],
)
async def test_a_sum_that_is_wrong_is_found(
    notes_url: str, planted: str, wrong: list[tuple[Any, ...]]
) -> None:
    async with kept(notes_url, STOCK):
        pass
    then = ["INSERT INTO totals VALUES (1, 5)", planted]
    found = await compared(notes_url, TOTALS, *STOCK_EVENTS, then=then)
    assert [
        (each.key, each.expected and each.expected["count"], each.found and each.found["count"])
        for each in found.first
    ] == wrong
    assert found.total == len(wrong)


async def test_an_invariant_names_each_row_that_breaks_it(notes_url: str) -> None:
    async with kept(notes_url, STOCK, stocked("a", 1, 1, -1), stocked("b", 1, 1, 1)):
        connection = await connect(notes_url)
        try:
            invariant = Invariant("no shelf holds less than nothing",
                "SELECT shelf, count FROM stock WHERE count < 0")  # fmt: skip
            assert await breaches(connection, invariant) == ([{"shelf": "a", "count": -1}], 1)
        finally:
            await connection.close()


async def test_skipped_versions_are_found_for_any_key(notes_url: str) -> None:
    connection = await connect(notes_url)
    try:
        async with connection.transaction():
            await _remember(connection, [*STOCK_EVENTS, stocked("a", 1, 4, 1)])
            assert await skipped_versions(connection, "stock", STOCK.key) == (
                [("a, 1", 4, 2)], 1
            )  # fmt: skip
    finally:
        await connection.close()
