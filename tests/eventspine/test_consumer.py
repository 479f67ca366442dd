"""Every event is applied once, in its key's order, whatever becomes of those who apply it."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventspine import backoff, dead_letters
from eventspine.consumer import CheckpointConflict, Consumer
from eventspine.database import Database
from eventspine.errors import Unavailable
from eventspine.event import NotAnEvent, decode
from eventspine.handlers import Handlers
from eventspine.outbox import Transaction, transaction
from eventspine.reading import Received
from tests.support import notes
from tests.support.examples import examples
from tests.support.members import (
    PARTITIONS,
    POISON,
    Failure,
    Member,
    changed,
    has_applied,
    is_foreign,
    logs,
    steps,
)
from tests.support.memory_log import MemoryLog
from tests.support.notes import NoteEvent, NoteTaken
from tests.support.received import heard
from tests.support.spine import Said, opened, refusing
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(backoff, "_LONGEST_PAUSE", 0.05)


# What may stand in a log besides the events of ours


# Any interleaving


@examples(60)
@given(fed=logs(), script=steps)
async def test_any_interleaving_gives_what_each_event_once_and_in_order_gives(
    database: Database,
    fed: tuple[list[NoteEvent], MemoryLog],
    script: list[tuple[int, Any]],
) -> None:
    history, log = fed
    async with transaction(database, durable=False) as tx:
        for table in ("notes", "applied", "cursors", "parked"):
            await tx.execute(f"DELETE FROM {table}")
    members = [Member(database, log) for _ in range(2)]
    for member in members:
        await member.start()
    for which, step in script:
        await members[which].take(step)
    longest = max(len(records) for records in log.partitions)
    for _ in range(6):
        for member in members:
            await member.take((longest, longest, longest))
    for member in members:
        await member.stop()
    await notes.assert_copied(database, *history)
    # A foreign record is parked where it stands, and holds nothing up.
    odd = {
        (n, record.offset)
        for n, records in enumerate(log.partitions)
        for record in records
        if is_foreign(record)
    }
    parked = await dead_letters.find(database, "copy")
    assert {(each.partition, each.offset) for each in parked} == odd
    assert len(parked) == len(odd)
    assert not any(each.holds_key for each in parked)
    ends = await database.fetch("SELECT partition, next_offset FROM cursors ORDER BY 1")
    assert [end for _, end in ends] == [
        len(records) for n, records in enumerate(log.partitions) if (n in dict(ends))
    ]


async def test_of_two_members_in_the_same_stretch_at_the_same_moment_one_has_to_read_again(
    copy_url: str,
) -> None:
    def is_there(*_: object) -> Any:
        async def yes() -> bool:
            return True

        return yes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Consumer, "_is_in_log", is_there)
        async with opened(copy_url) as database:
            log = MemoryLog()
            events = [notes.event(1, version) for version in range(1, 31)]
            records = [notes.record(n, n + 1, one) for n, one in enumerate(events)]
            members = [notes.consumer(database, log) for _ in range(4)]
            for member in members:  # or one that asks late would find nothing left to do
                await member._start_at(notes.TOPIC, 0)
            for start in range(0, 30, 3):
                results = await asyncio.gather(
                    *(
                        member.apply(records[start : start + 1 + n % 3])
                        for n, member in enumerate(members)
                    ),
                    return_exceptions=True,
                )
                assert [type(result) for result in results].count(CheckpointConflict) == 3, results
                # They learn where they stand, and the rest is nobody's yet.
                for member in members:
                    await member._start_at(notes.TOPIC, 0)
                    await member.apply(records[start : start + 3])
            await notes.assert_copied(database, *events)


async def test_the_loser_waits_for_the_winner_and_then_leaves_nothing_behind(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog()
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def slowly(tx: Transaction, received: Sequence[Received[NoteTaken]]) -> None:
            await notes.taken(tx, received)
            inside.set()
            await go_on.wait()

        slow = Consumer(database, log, Handlers("copy", {NoteTaken: slowly}))
        winner = asyncio.create_task(slow.apply([notes.record(0, 1, notes.event(1, 1))]))
        await inside.wait()
        loser = asyncio.create_task(
            notes.consumer(database, log).apply([notes.record(0, 1, notes.event(1, 1))])
        )
        done, _ = await asyncio.wait([loser], timeout=0.2)
        assert not done
        go_on.set()
        await winner
        with pytest.raises(CheckpointConflict):
            await loser
        await notes.assert_copied(database, notes.event(1, 1))


# Poison


async def test_what_can_not_be_understood_is_parked_whole_and_reported(
    copy_url: str, said: Said
) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog(2)
        events = [notes.event(1, version) for version in range(1, 2 + len(POISON))]
        # Each with a position of its own, for those that need one to be looked at.
        log.put(1, notes.wire(1, events[0]))
        for n, odd in enumerate(POISON.values(), start=1):
            has_place = odd and odd.headers.get("ce_id") == "2"
            log.put(1, changed(odd, ce_id=str(10 * n)) if odd and has_place else odd)
            log.put(1, notes.wire(10 * n + 1, events[n]))
        async with notes.Running(notes.consumer(database, log, batch=25).run()):
            await eventually(lambda: has_applied(database, len(events)))
        await notes.assert_copied(database, *events)
        parked = await dead_letters.find(database, "copy")
        records = {2 * n + 1: log.partitions[1][2 * n + 1] for n in range(len(POISON))}
        assert {each.offset: (each.key, each.value, each.headers) for each in parked} == {
            offset: (record.key, record.value, record.headers) for offset, record in records.items()
        }
        # Who claims one of our positions holds up the key it claims; a foreign record nothing.
        assert {each.offset for each in parked if each.holds_key} == {
            offset for offset, record in records.items() if not is_foreign(record)
        }
    reports = {(entry["topic"], entry["partition"], entry["offset"]) for entry in said}
    assert reports == {(notes.TOPIC, 1, 2 * n + 1) for n in range(len(POISON))}
    assert len(said) == len(POISON)
    assert {entry["level"] for entry in said} == {"error"}
    assert max(len(entry["reason"]) for entry in said) < 300


async def test_what_only_looks_like_u0000_is_applied(copy_url: str) -> None:
    async with opened(copy_url) as database:
        texts = ["\\u0000", "\\\\u0000", "a\\", "u0000"]
        events = [notes.event(n, 1, text) for n, text in enumerate(texts, start=1)]
        for one in events:
            assert decode(NoteTaken, [notes.as_json(one)]) == [one]
        await notes.consumer(database, MemoryLog()).apply(
            [notes.record(n, n + 1, one) for n, one in enumerate(events)]
        )
        await notes.assert_copied(database, *events)


@given(st.text(st.sampled_from("\\u0\0a"), max_size=12))
def test_u0000_is_found_if_and_only_if_it_is_there(text: str) -> None:
    for value in (notes.as_json(notes.event(1, 1, text or "a")),):
        there = "\0" in json.loads(value)["text"]
        try:
            decode(NoteTaken, [value])
        except NotAnEvent:
            assert there
        else:
            assert not there


async def test_events_of_types_that_nobody_here_wants_are_passed_over_in_silence(
    copy_url: str, said: Said
) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog()
        log.put(0, changed(notes.wire(1, notes.event(1, 1)), ce_type="note.burnt"))
        log.put(0, notes.wire(2, notes.event(2, 1)))
        async with notes.Running(notes.consumer(database, log).run()):
            await eventually(lambda: has_applied(database, 1))
        assert await database.fetch("SELECT next_offset, last_position FROM cursors") == [(2, 2)]
    assert said.troubles() == []


# Trouble


async def test_while_the_database_is_away_nothing_is_read_past_what_was_not_applied(
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
    async with opened(copy_url, timeout=5.0) as database:
        log = MemoryLog()
        async with notes.Running(notes.consumer(database, log).run()) as running:
            await eventually(lambda: is_reading(log))
            async with refusing(database, copy_url):
                log.put(0, notes.wire(1, notes.event(1, 1)))
                await asyncio.sleep(0.3)
                running.tasks[0].cancel()
                async with asyncio.timeout(1):
                    await asyncio.wait(running.tasks)


async def is_reading(log: MemoryLog) -> bool:
    return bool(log.subscriptions and log.subscriptions[0].polls)


async def test_what_a_handler_did_before_it_raised_is_undone_and_done_again(
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


async def test_a_missing_event_raises_the_alarm_and_holds_up_its_key_until_it_is_there(
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


# A log that lost its end


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
