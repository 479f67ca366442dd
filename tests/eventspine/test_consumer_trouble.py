"""A database or a log that fails, or has lost its end: a consumer waits, reads again, and goes on."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from eventspine import dead_letters
from eventspine.consumer import Consumer
from eventspine.database import Database
from eventspine.errors import Unavailable
from eventspine.handlers import Handlers
from eventspine.outbox import Transaction, transaction
from eventspine.received import Received
from tests.support import notes
from tests.support.members import (
    PARTITIONS,
    Failure,
    has_applied,
)
from tests.support.memory_log import MemoryLog
from tests.support.notes import NoteTaken
from tests.support.received import heard
from tests.support.spine import Said, opened, refusing
from tests.support.waiting import SLOWER, eventually

pytestmark = pytest.mark.usefixtures("impatient")


async def test_a_consumer_without_its_database_reads_past_nothing_unapplied(
    copy_url: str, said: Said
) -> None:
    """The batch that failed must come again, though nobody could say where it began."""
    async with opened(copy_url, timeout=0.2) as database:
        log = MemoryLog(PARTITIONS)
        events = [notes.event(id_, 1) for id_ in range(1, 301)]
        for n, one in enumerate(events[:100]):
            log.put(one.id % PARTITIONS, notes.wire(n + 1, one))
        async with notes.Running(notes.consumer(database, log, batch=10).run()):
            await eventually(lambda: has_applied(database, 100))
            (subscription,) = log.subscriptions
            async with refusing(database, copy_url):
                for n, one in enumerate(events[100:], start=100):
                    log.put(one.id % PARTITIONS, notes.wire(n + 1, one))
                polls = subscription.polls
                await eventually(lambda: waits(said))
                await asyncio.sleep(1.0)
                assert subscription.polls <= polls + 2, "it must not read on"
            await eventually(lambda: has_applied(database, 300))
        await notes.assert_copied(database, *events)
        assert await dead_letters.find(database, "copy") == []
    # Perhaps once for the connection that was lost, and once for there being none.
    assert 1 <= len(said.troubles()) <= 3, said
    assert said.at("info")[-1]["event"] == "consumer.recovered"


async def waits(said: Said) -> bool:
    return bool(said.troubles())


async def test_a_consumer_can_be_stopped_while_its_database_is_away(
    copy_url: str, said: Said
) -> None:
    async with opened(copy_url, timeout=30.0) as database:
        log = MemoryLog()
        async with notes.Running(notes.consumer(database, log).run()) as running:
            await eventually(lambda: is_reading(log))
            async with refusing(database, copy_url):
                log.put(0, notes.wire(1, notes.event(1, 1)))
                await asyncio.sleep(0.3)
                running.tasks[0].cancel()
                async with asyncio.timeout(1 + SLOWER):
                    await asyncio.wait(running.tasks)


async def is_reading(log: MemoryLog) -> bool:
    return bool(log.subscriptions and log.subscriptions[0].polls)


async def test_a_handler_that_raises_has_its_work_undone_and_done_again(
    copy_url: str, said: Said
) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog(PARTITIONS)
        calls = 0

        async def clumsy(tx: Transaction, received: Sequence[Received[NoteTaken]]) -> None:
            nonlocal calls
            calls += 1
            await notes.taken(tx, received)
            if calls < 10:
                raise Failure

        events = [notes.event(id_, 1) for id_ in range(1, 31)]
        for n, one in enumerate(events):
            log.put(one.id % PARTITIONS, notes.wire(n + 1, one))
        consumer = Consumer(database, log, Handlers("copy", {NoteTaken: clumsy}), batch=7)
        async with notes.Running(consumer.run()):
            await eventually(lambda: has_applied(database, 30))
        await notes.assert_copied(database, *events)
        assert await dead_letters.find(database, "copy") == []
    assert len(said.at("warning")) == 1
    assert "Failure" in said.at("warning")[0]["reason"]


async def test_a_missing_event_raises_the_alarm_and_holds_up_its_key(
    copy_url: str, said: Said
) -> None:
    """Every other key goes on in the meantime, those of the same partition too."""
    async with opened(copy_url) as database:
        log = MemoryLog(2)
        log.put(0, notes.wire(1, notes.event(2, 1)))
        async with notes.Running(notes.consumer(database, log).run()):
            await eventually(lambda: has_applied(database, 1))
            log.put(0, notes.wire(3, notes.event(2, 3)))
            log.put(0, notes.wire(4, notes.event(4, 1)))
            log.put(0, notes.wire(5, notes.event(2, 4)))
            log.put(1, notes.wire(6, notes.event(1, 1)))
            await eventually(lambda: has_applied(database, 3))
            log.put(0, notes.wire(7, notes.event(4, 2)))
            log.put(0, notes.wire(8, notes.event(2, 5)))
            log.put(0, notes.wire(9, notes.event(4, 3)))
            await eventually(lambda: has_applied(database, 5))
            (alarm,) = said.troubles()
            assert "note 2: version 3 arrived after version 1; 1 event" in alarm["reason"]
            parked = await dead_letters.find(database, "copy")
            assert [(each.position, each.key, each.cause) for each in parked] == [
                (3, "2", "MissingEvents"), (5, "2", dead_letters.BEHIND), (8, "2", dead_letters.BEHIND)
            ]  # fmt: skip
            # Somebody finds it, and applies it.
            async with transaction(database) as tx:
                await notes.handlers().apply(tx, heard(notes.event(2, 2)))
            done = await dead_letters.retry(database, notes.handlers(), notes.TOPIC, "2")
            assert (done.applied, done.left, done.error) == (3, 0, None)
            log.put(0, notes.wire(10, notes.event(2, 6)))
            await eventually(lambda: has_applied(database, 10))
        await notes.assert_copied(
            database,
            *(notes.event(1, 1), *(notes.event(2, n) for n in range(1, 7))),
            *(notes.event(4, n) for n in range(1, 4)),
        )
    assert len(said.troubles()) == 1


async def test_a_cursor_that_a_crash_took_back_is_noticed_though_no_event_comes(
    copy_url: str,
) -> None:
    """Its transactions do not wait for the disk, so the server may forget the last of them."""
    async with opened(copy_url) as database:
        log = MemoryLog(2)
        for n in range(10):
            log.put(n % 2, notes.wire(n + 1, notes.event(n + 1, 1)))
        async with notes.Running(notes.consumer(database, log).run()):
            await eventually(lambda: has_applied(database, 10))
            async with transaction(database) as tx:
                await tx.execute("DELETE FROM notes WHERE id > 6")
                await tx.execute("DELETE FROM applied WHERE id > 6")
                await tx.execute(
                    "UPDATE cursors SET next_offset = 3, last_position = 5 WHERE partition = 0"
                )
                await tx.execute(
                    "UPDATE cursors SET next_offset = 3, last_position = 6 WHERE partition = 1"
                )
            await eventually(lambda: has_applied(database, 10))
        await notes.assert_copied(database, *(notes.event(n, 1) for n in range(1, 11)))


async def test_a_lost_outcome_is_settled_by_the_cursor(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog()
        consumer = notes.consumer(database, log)
        with psycopg.connect(copy_url, autocommit=True) as admin:
            admin.execute(
                """
                    CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        IF random() < 0.5 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
                        RETURN NULL;
                    END $$;
                    CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON applied
                    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die();
                    """
            )
        events = [notes.event(n, 1) for n in range(1, 21)]
        for n, one in enumerate(events):
            log.put(0, notes.wire(n + 1, one))
        consumer = notes.consumer(database, log, batch=1)
        async with notes.Running(consumer.run()):
            await eventually(lambda: has_applied(database, 20))
        await notes.assert_copied(database, *events)


def feed(log: MemoryLog, first: int, last: int) -> None:
    for n in range(first, last + 1):
        log.put(0, notes.wire(n, notes.event(n, 1)))


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("kept", [0, 5])
async def test_a_log_that_lost_its_end_and_was_fed_again_is_read_again(
    copy_url: str, said: Said, kept: int, restarts: bool
) -> None:
    """New events may stand at offsets that have been passed already."""

    async def is_reading_again(log: MemoryLog) -> bool:
        return log.subscriptions[-1].polls > 0

    async with opened(copy_url) as database:
        log = MemoryLog()
        feed(log, 1, 10)
        feed(log, 4, 12)  # a relay that had crashed
        async with notes.Running(notes.consumer(database, log).run()):
            await eventually(lambda: has_applied(database, 12))
        del log.partitions[0][kept:]
        feed(log, kept + 1, 12)
        if not restarts:
            async with notes.Running(notes.consumer(database, log).run()):
                await eventually(lambda: is_reading_again(log))
                feed(log, 13, 40)
                await eventually(lambda: has_applied(database, 40))
        else:
            feed(log, 13, 40)
            async with notes.Running(notes.consumer(database, log).run()):
                await eventually(lambda: has_applied(database, 40))
        await notes.assert_copied(database, *(notes.event(n, 1) for n in range(1, 41)))
    (report,) = said.troubles()
    assert report["event"] == "consumer.log_truncated"


async def test_a_log_that_is_away_is_waited_for(copy_url: str, said: Said) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog()
        log.away = True
        feed(log, 1, 10)
        async with notes.Running(notes.consumer(database, log).run()):
            await eventually(lambda: waits(said))
            await asyncio.sleep(0.3)
            log.away = False
            await eventually(lambda: has_applied(database, 10))
    assert [entry["event"] for entry in said] == ["consumer.waiting", "consumer.recovered"]


async def test_a_batch_that_is_too_much_is_read_in_parts_until_it_is_not(notes_url: str) -> None:
    """A statement that takes too long looks like trouble that passes."""

    async def applied(database: Database, count: int) -> bool:
        [(there,)] = await database.fetch("SELECT count(*) FROM applied")
        return bool(there == count)

    async with opened(notes_url) as database:
        log = MemoryLog()
        events = [notes.event(id_, 1) for id_ in range(1, 301)]
        for position, one in enumerate(events, start=1):
            log.put(0, notes.wire(position, one))
        tried: list[int] = []

        async def taken(tx: Transaction, given: Sequence[Received[NoteTaken]]) -> None:
            tried.append(len(given))
            if len(given) > 20 and len(tried) < 50:
                raise Unavailable("canceling statement due to statement timeout")
            await notes.taken(tx, given)

        consumer = Consumer(database, log, Handlers("copy", {NoteTaken: taken}), batch=100)
        async with notes.Running(consumer.run()):
            await eventually(lambda: applied(database, 300))
        await notes.assert_copied(database, *events)
        # A little more each time, and back again when it is too much.
        assert tried[:15] == [100, 50, 25, 12, 14, 16, 19, 22, 11, 13, 15, 17, 20, 23, 11]
