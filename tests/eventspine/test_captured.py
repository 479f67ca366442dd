"""What change data capture has sent is saved: never more than the slot confirms, nor than the topic has without a gap."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import psycopg
import pytest

from eventspine import slots
from eventspine.captured import Captured, Confirmed, MissingPositions, Whole
from eventspine.database import Connection, Database, connect
from eventspine.log import EventLog
from eventspine.slots import NoCapture
from tests.support import notes
from tests.support.spine import opened, opened_log
from tests.support.waiting import eventually

SLOT = "notes_outbox"


def test_positions_without_a_gap_are_counted_in_any_order() -> None:
    whole = Whole(10)
    for position, upto in ((11, 11), (14, 11), (13, 11), (5, 11), (12, 14), (14, 14), (15, 15)):
        whole.add(position)
        assert whole.upto == upto
    assert whole.above == 0


def test_a_place_in_the_write_ahead_log_confirms_what_was_given_out_before_it() -> None:
    confirmed = Confirmed()
    confirmed.look(5, 100, 90)
    confirmed.look(8, 200, 100)
    assert confirmed.position == 5
    confirmed.look(8, 300, None)
    assert confirmed.position == 5
    confirmed.look(9, 400, 300)
    assert confirmed.position == 8


@asynccontextmanager
async def captured(url: str) -> AsyncIterator[Connection]:
    """A database with publication and slot, and what Debezium may do there."""
    connection = await connect(url)
    try:
        await slots.publish(connection)
        await slots.make(connection, SLOT)
        yield connection
    finally:
        await slots.drop(connection, SLOT)
        await connection.close()


async def confirm(connection: Connection) -> None:
    """As Debezium does once Kafka has everything."""
    await connection.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [SLOT])


async def send(log: EventLog, positions: Iterable[int]) -> None:
    messages = [notes.wire(position, notes.event(position, 1)) for position in positions]
    await log.append(notes.TOPIC, messages)


async def saved(database: Database) -> tuple[int, int]:
    [(position, captured)] = await database.fetch("SELECT position, captured FROM relay")
    return position, captured


async def test_what_is_saved_is_the_lower_of_slot_and_topic(notes_url: str, copy_url: str) -> None:
    async with opened(notes_url) as database, opened_log(copy_url) as log:
        async with captured(notes_url) as connection:
            await begun(notes_url, log)
            for number in range(1, 7):
                await notes.publish(database, notes.event(number, 1))
            await send(log, [1, 2, 4, 5])
            follower = Captured(
                notes_url,
                log,
                source=notes.SOURCE,
                topic=notes.TOPIC,
                slot=SLOT,
                group="notes.relay",
            )

            async def is_saved(
                position: int, upto: int, confirming: Connection | None = None
            ) -> bool:
                if confirming is not None:
                    await confirm(confirming)
                return await saved(database) == (position, upto)

            async with notes.Running(follower.run()):
                await eventually(lambda: is_saved(0, 2), what="the topic's part up to the gap")
                await eventually(lambda: is_saved(2, 2, connection), what="what both say")
                await send(log, [3])
                await eventually(lambda: is_saved(5, 5), what="the gap is filled")
                await notes.publish(database, notes.event(7, 1))
                # Anybody may write what looks like the next events.
                await send(log, [6, 7, 8])
                await eventually(lambda: is_saved(6, 8), what="no more than the slot confirms")
            # A writer repeats an old event behind newer ones.
            await log.append(
                notes.TOPIC, [notes.wire(1, notes.event(number, 1)) for number in (7, 8)]
            )
            # Another worker takes over from what is saved.
            again = Captured(
                notes_url,
                log,
                source=notes.SOURCE,
                topic=notes.TOPIC,
                slot=SLOT,
                group="notes.relay",
            )
            async with notes.Running(again.run()):
                await eventually(lambda: is_saved(7, 8, connection), what="it goes on")


async def test_a_gap_that_stays_is_said(
    notes_url: str, copy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventspine.captured._GAP_WITHIN", 0.3)
    async with opened_log(copy_url) as log, captured(notes_url):
        await begun(notes_url, log)
        await send(log, [2])
        follower = Captured(
            notes_url, log, source=notes.SOURCE, topic=notes.TOPIC, slot=SLOT, group="notes.relay"
        )
        with pytest.raises(MissingPositions, match=r"position 1 of /notes is not in the topic"):
            await asyncio.wait_for(follower._lead(), 30)


async def begun(url: str, log: EventLog) -> None:
    """As `shop cdc begin` does: a relay knows the log."""
    relay = notes.relay(url, log)
    async with notes.Running(relay.run()):
        await eventually(lambda: relay.leads, what="it leads")


async def test_the_first_position_that_is_not_confirmed_is_found_and_the_slot_stays(
    notes_url: str,
) -> None:
    async with opened(notes_url) as database, captured(notes_url) as connection:
        assert await slots.first_not_confirmed(connection, SLOT) is None
        await notes.publish(database, *(notes.event(number, 1) for number in (1, 2, 3)))
        await confirm(connection)
        assert await slots.first_not_confirmed(connection, SLOT) is None
        await notes.publish(database, notes.event(4, 1), notes.event(5, 1))
        await notes.publish(database, notes.event(6, 1))
        for _ in range(2):
            assert await slots.first_not_confirmed(connection, SLOT) == 4
        slot = await slots.find(connection, SLOT)
        assert slot is not None
        assert not slot.is_lost
        assert not slot.active


async def test_a_publication_that_lost_its_table_is_made_again(notes_url: str) -> None:
    connection = await connect(notes_url)
    published = "SELECT tablename, attnames FROM pg_publication_tables WHERE pubname = 'outbox'"
    try:
        await slots.publish(connection)
        await connection.execute("ALTER PUBLICATION outbox DROP TABLE outbox")
        for _ in range(2):
            await slots.publish(connection)
            [(table, columns)] = await (await connection.execute(published)).fetchall()
            assert table == "outbox"
            assert "version" not in columns
        await slots.unpublish(connection)
        assert await (await connection.execute(published)).fetchall() == []
    finally:
        await connection.close()


async def test_a_role_that_may_not_replicate_is_told_what_it_lacks(notes_url: str) -> None:
    role = "notes_without_replication"
    with psycopg.connect(notes_url, autocommit=True) as admin:
        admin.execute(f"DROP ROLE IF EXISTS {role}")
        admin.execute(f"CREATE ROLE {role} LOGIN")
    connection = await connect(psycopg.conninfo.make_conninfo(notes_url, user=role))
    try:
        with pytest.raises(NoCapture, match="role notes_without_replication may not use"):
            await slots.make(connection, SLOT)
    finally:
        await connection.close()
        with psycopg.connect(notes_url, autocommit=True) as admin:
            admin.execute(f"DROP ROLE {role}")
