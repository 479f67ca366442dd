"""An event that can't be applied is parked, its key's later ones behind it, and the line goes on."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors
from psycopg_pool import PoolTimeout

from eventspine import backoff, dead_letters
from eventspine.consumer import Consumer
from eventspine.database import Database
from eventspine.dead_letters import BEHIND
from eventspine.errors import OutcomeUnknown, Unavailable
from eventspine.handlers import Handlers
from eventspine.log import LogUnavailable, Message, Record
from eventspine.outbox import Transaction, transaction
from eventspine.reading import Received
from tests.support import notes
from tests.support.examples import examples
from tests.support.members import Failure, Member, has_applied, logs, steps
from tests.support.memory_log import MemoryLog
from tests.support.notes import TOPIC, NoteChanged, NoteEvent, NoteTaken
from tests.support.parking import Copy, has_parked, parked, places, put
from tests.support.spine import Said, opened
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(backoff, "_LONGEST_PAUSE", 0.05)


# Parking


async def test_one_event_of_a_batch_that_fails_for_itself_is_parked_alone(
    copy_url: str, said: Said
) -> None:
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy((137, 1))
        firsts = [notes.event(id_, 1) for id_ in range(1, 501)]
        # In the same batch stand later events of the broken one's key, and of others.
        others = [notes.event(138, 2), notes.event(500, 2)]
        put(log, *firsts, notes.event(137, 2), *others, notes.event(137, 3))
        async with notes.Running(copy.consumer(database, log, batch=1000).run()):
            await eventually(lambda: has_applied(database, 501))
            put(log, notes.event(137, 4), notes.event(138, 3))
            await eventually(lambda: has_applied(database, 502))
        others += [one for one in firsts if one.id != 137] + [notes.event(138, 3)]
        others.sort(key=lambda one: one.version)
        await notes.assert_copied(database, *others)
        assert await places(database) == [
            ("137", 137, "ValueError"), ("137", 501, BEHIND), ("137", 504, BEHIND),
            ("137", 505, BEHIND),
        ]  # fmt: skip
        first = (await parked(database))[0]
        assert first.error == "note 137, version 1 is broken"
        assert (first.attempts, first.holds_key) == (1, True)
        was = log.partitions[0][first.offset]
        assert (first.value, first.headers) == (was.value, was.headers)
        # Halving leaves few transactions, not one for each event.
        [(transactions,)] = await database.fetch(
            "SELECT count(DISTINCT xmin::text) FROM applied WHERE version = 1"
        )
        assert transactions < 15
    (error,) = said.troubles()
    assert (error["key"], error["position"], error["cause"]) == ("137", 137, "ValueError")


def passing() -> list[Exception]:
    return [
        Unavailable("away"), OutcomeUnknown("nobody knows"), LogUnavailable("away"),
        TimeoutError(), ConnectionResetError(), MemoryError(), PoolTimeout(),
        psycopg.OperationalError("the connection is lost"),
        errors.DeadlockDetected(), errors.SerializationFailure(), errors.LockNotAvailable(),
        errors.QueryCanceled(), errors.AdminShutdown(), errors.DiskFull(), errors.OutOfMemory(),
        errors.TooManyConnections(), errors.ReadOnlySqlTransaction(),
        errors.IdleInTransactionSessionTimeout(), errors.CannotConnectNow(),
    ]  # fmt: skip


async def test_trouble_that_passes_parks_nothing_however_often_it_comes(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy()
        copy.troubles = [trouble for each in passing() for trouble in (each, each, each)]
        events = [notes.event(id_, 1) for id_ in range(1, 31)]
        put(log, *events)
        async with notes.Running(copy.consumer(database, log, batch=10).run()):
            await eventually(lambda: has_applied(database, 30))
        assert copy.troubles == []
        assert await parked(database) == []
        await notes.assert_copied(database, *events)


async def test_trouble_that_passes_while_a_broken_event_is_isolated_parks_only_that(
    copy_url: str,
) -> None:
    async with opened(copy_url) as database:
        for trouble in passing():
            copy = Copy(13)
            log = MemoryLog()
            events = [notes.event(id_, 1) for id_ in range(1, 31)]
            put(log, *events)
            # The batch, then its halves, meet the trouble at another place each time.
            copy.troubles = [ValueError("?"), trouble, ValueError("?"), trouble]
            async with notes.Running(copy.consumer(database, log).run()):
                await eventually(lambda: has_applied(database, 29))
                await eventually(lambda: has_parked(database, 1))
            assert await places(database) == [("13", 13, "ValueError")]
            events.pop(12)
            await notes.assert_copied(database, *events)
            async with transaction(database) as tx:
                await tx.execute("TRUNCATE notes, applied, cursors, parked")


async def test_a_real_deadlock_is_waited_out(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog()
        put(log, notes.event(1, 1), notes.event(2, 1))
        await notes.consumer(database, log).apply(log.partitions[0])
        holds_one = asyncio.Event()

        async def one_then_two(tx: Transaction, received: Sequence[Received[NoteChanged]]) -> None:
            await tx.execute("SELECT FROM notes WHERE id = 1 FOR UPDATE")
            holds_one.set()
            await tx.execute("SELECT FROM notes WHERE id = 2 FOR UPDATE")
            await notes.changed(tx, received)

        handlers = Handlers("copy", {NoteTaken: notes.taken, NoteChanged: one_then_two})
        async with transaction(database) as other:
            # The consumer is the one who looks for deadlocks first, and so the one who falls.
            await other.execute("SET LOCAL deadlock_timeout = '10s'")
            await other.execute("SELECT FROM notes WHERE id = 2 FOR UPDATE")
            async with notes.Running(Consumer(database, log, handlers).run()):
                put(log, notes.event(1, 2), notes.event(2, 2))
                await holds_one.wait()
                await other.execute("SELECT FROM notes WHERE id = 1 FOR UPDATE")
                await other.execute("COMMIT; BEGIN")
                await eventually(lambda: has_applied(database, 4))
        assert await parked(database) == []


async def test_a_limit_of_postgresql_is_the_events_own_fault(copy_url: str) -> None:
    """Psycopg calls it operational, but it will never pass."""
    async with opened(copy_url) as database:
        async with transaction(database) as tx:
            await tx.execute("CREATE INDEX ON notes (text)")
        log = MemoryLog()
        too_long = random.Random(1).randbytes(20_000).hex()
        put(log, notes.event(1, 1), notes.event(2, 1, too_long), notes.event(3, 1))
        async with notes.Running(notes.consumer(database, log).run()):
            await eventually(lambda: has_applied(database, 2))
            await eventually(lambda: has_parked(database, 1))
        assert await places(database) == [("2", 2, "ProgramLimitExceeded")]


async def test_keys_are_held_up_whatever_they_are_made_of(copy_url: str) -> None:
    """PostgreSQL holds neither U+0000 nor half a pair, and a record may have no key at all."""
    async with opened(copy_url) as database:
        log = MemoryLog()
        keys = ["a\0b", "\ud800", None, "", "x" * 100_000]
        for n, key in enumerate(keys):
            for version in (1, 2):
                wire = notes.wire(2 * n + version, notes.event(n, version))
                headers = {**wire.headers, "odd\0": "a\0\ud800\\u0000"}
                value = b"{" if version == 1 else wire.value
                record = Record(TOPIC, 0, 2 * n + version - 1, key, value, headers)
                log.partitions[0].append(record)
        async with notes.Running(notes.consumer(database, log, batch=3).run()):
            await eventually(lambda: has_parked(database, 10))
        found = await parked(database)
        assert [each.cause for each in found] == ["not an event", BEHIND] * 5
        assert found[0].key == "a\ufffdb"
        assert found[4].key is None
        assert found[0].headers["odd\ufffd"] == "a\ufffd?\\u0000"
        assert await has_applied(database, 0)
        for each in found[::2]:
            gone = await dead_letters.discard(database, "copy", [each])
            done = await dead_letters.retry(
                database, notes.handlers(), TOPIC, each.key, accept_gaps=True
            )
            assert (gone, done.applied, done.left) == (1, 1, 0)
        assert await parked(database) == []


# Too many


@pytest.mark.parametrize("way_out", ["discard", "raise the limit"])
async def test_when_too_many_are_parked_their_partition_stops_and_says_so_once(
    copy_url: str, said: Said, way_out: str
) -> None:
    async def has_tried(log: MemoryLog, pauses: int) -> bool:
        return log.subscriptions[0].pauses >= pauses

    async with opened(copy_url) as database:
        log, copy = MemoryLog(2), Copy(2, 4, 6, 8)
        put(log, *(notes.event(id_, 1) for id_ in range(1, 13)))
        put(log, notes.event(2, 2), notes.event(10, 2))
        async with notes.Running(copy.consumer(database, log, most_parked=3).run()):
            await eventually(lambda: has_parked(database, 3))
            # The other partition goes on, in the same batch and later.
            await eventually(lambda: has_applied(database, 6))
            put(log, *(notes.event(id_, 2) for id_ in range(1, 13, 2)))
            await eventually(lambda: has_applied(database, 12))
            pauses = log.subscriptions[0].pauses
            await eventually(lambda: has_tried(log, pauses + 5))
            assert await has_applied(database, 12), "nothing of it is stepped over"
            (warning,) = said.at("warning")
            assert "4 keys can't be applied, and at most 3 may be parked" in warning["reason"]
            assert "note 8, version 1 is broken" in warning["reason"]
            assert warning["partition"] == 0
            if way_out == "discard":
                found = await parked(database, key="4")
                assert await dead_letters.discard(database, "copy", found) == 1
                await eventually(lambda: has_applied(database, 15))
                (info,) = said.at("info")
                assert info["event"] == "consumer.recovered"
        if way_out != "discard":
            async with notes.Running(copy.consumer(database, log, most_parked=4).run()):
                await eventually(lambda: has_applied(database, 15))
        await eventually(lambda: has_parked(database, 4 + (way_out != "discard")))
        keys = ["2", "6", "8", "2"] if way_out == "discard" else ["2", "4", "6", "8", "2"]
        assert [each.key for each in await parked(database)] == keys


async def test_while_a_stopped_partition_waits_the_others_wait_for_nothing(
    copy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it waits: here until the end of the test."""
    monkeypatch.setattr(backoff, "_FIRST_PAUSE", 3600.0)
    monkeypatch.setattr(backoff, "_LONGEST_PAUSE", 3600.0)
    async with opened(copy_url) as database:
        log, copy = MemoryLog(3), Copy(3, 6)
        put(log, *(notes.event(id_, 1) for id_ in (3, 6, 9, 1, 2)))
        consumer = copy.consumer(database, log, most_parked=1, batch=2)
        async with notes.Running(consumer.run()):
            await eventually(lambda: has_applied(database, 2))
            for version in range(2, 12):
                put(log, *(notes.event(id_, version) for id_ in (1, 2, 3)))
                await eventually(lambda n=version: has_applied(database, 2 * n))
        assert await places(database) == [("3", 1, "ValueError")]
        assert await database.fetch(
            "SELECT next_offset FROM cursors WHERE partition = 0"
        ) == [(1,)]  # fmt: skip
        assert log.subscriptions[0].pauses == 1


async def test_trouble_elsewhere_does_not_wake_a_stopped_partition(
    copy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure a member goes back to its cursors, and that one's is behind what it read."""

    async def has_paused(log: MemoryLog) -> bool:
        return log.subscriptions[0].pauses == 1

    async with opened(copy_url) as database:
        log, copy = MemoryLog(2), Copy(2, 4)
        put(log, notes.event(2, 1), notes.event(4, 1), notes.event(1, 1))
        consumer = copy.consumer(database, log, most_parked=1)
        monkeypatch.setattr(backoff, "_LONGEST_PAUSE", 3600.0)
        monkeypatch.setattr(backoff, "_FIRST_PAUSE", 3600.0)
        async with notes.Running(consumer.run()):
            await eventually(lambda: has_applied(database, 1))
            await eventually(lambda: has_paused(log))
            monkeypatch.setattr(backoff, "_FIRST_PAUSE", 0.001)
            copy.troubles = [Unavailable("away"), Unavailable("away")]
            put(log, notes.event(1, 2))
            await eventually(lambda: has_applied(database, 2))
        assert copy.troubles == []
        assert log.subscriptions[0].pauses == 1


async def test_foreign_records_never_stop_a_partition(copy_url: str) -> None:
    """Or anybody who can write to a topic could."""
    async with opened(copy_url) as database:
        log = MemoryLog()
        for n in range(50):
            log.put(0, Message(str(n), b"hello", {}))
        put(log, notes.event(1, 1))
        async with notes.Running(notes.consumer(database, log, most_parked=1).run()):
            await eventually(lambda: has_applied(database, 1))
        assert await has_parked(database, 50)


# Retry


async def test_a_retry_applies_a_keys_events_in_order_and_the_next_needs_none(
    copy_url: str,
) -> None:
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy(1)
        events = [notes.event(1, version) for version in range(1, 7)]
        put(log, *events[:5], notes.event(2, 1))
        async with notes.Running(copy.consumer(database, log).run()):
            await eventually(lambda: has_parked(database, 5))
            copy.broken.clear()
            assert await copy.retry(database, 1) == (TOPIC, "1", 5, 0, None)
            assert await parked(database) == []
            put(log, events[5])
            await eventually(lambda: has_applied(database, 7))
        await notes.assert_copied(database, *events, notes.event(2, 1))
        assert await copy.retry(database, 1) == (TOPIC, "1", 0, 0, None)


async def test_a_retry_that_fails_again_keeps_what_is_left_and_says_why(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy(1, 2)
        events = [notes.event(1, version) for version in range(1, 6)]
        put(log, *events, notes.event(2, 1))
        async with notes.Running(copy.consumer(database, log).run()):
            await eventually(lambda: has_parked(database, 6))
        done = await copy.retry(database, 1)
        assert (done.applied, done.left) == (0, 5)
        assert (await parked(database, key="1"))[0].attempts == 2
        assert await has_applied(database, 0)
        copy.broken = {(1, 3), 2}
        done = await copy.retry(database, 1)
        assert (done.applied, done.left) == (2, 3)
        assert done.error == "ValueError: note 1, version 3 is broken"
        stopped, *behind = await parked(database, key="1")
        assert (stopped.position, stopped.cause, stopped.attempts) == (3, "ValueError", 2)
        assert stopped.error == "note 1, version 3 is broken"
        assert [(each.position, each.cause, each.attempts) for each in behind] == [
            (4, BEHIND, 1), (5, BEHIND, 1)
        ]  # fmt: skip
        # The other key was not touched.
        assert [each.attempts for each in await parked(database, key="2")] == [1]
        await notes.assert_copied(database, *events[:2])


async def test_trouble_that_passes_ends_a_retry_and_leaves_everything_as_it_was(
    copy_url: str,
) -> None:
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy(1)
        put(log, notes.event(1, 1), notes.event(1, 2))
        async with notes.Running(copy.consumer(database, log).run()):
            await eventually(lambda: has_parked(database, 2))
        before = await parked(database)
        copy.broken.clear()
        for trouble in (errors.DeadlockDetected(), errors.QueryCanceled(), TimeoutError()):
            copy.troubles = [trouble]
            with pytest.raises((Unavailable, TimeoutError)):
                await copy.retry(database, 1)
        assert await parked(database) == before
        assert await has_applied(database, 0)


async def test_while_a_key_is_retried_its_later_events_wait(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy(1)
        put(log, notes.event(1, 1), notes.event(2, 1))
        async with notes.Running(copy.consumer(database, log).run()):
            await eventually(lambda: has_parked(database, 1))
            await eventually(lambda: has_applied(database, 1))
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def slowly(tx: Transaction, received: Sequence[Received[NoteTaken]]) -> None:
            await notes.taken(tx, received)
            inside.set()
            await go_on.wait()

        handlers = Handlers("copy", {NoteTaken: slowly, NoteChanged: notes.changed})
        retries = [
            asyncio.create_task(dead_letters.retry(database, handlers, TOPIC, "1"))
            for _ in range(2)
        ]
        await inside.wait()
        copy.broken.clear()
        put(log, notes.event(1, 2))
        consumer = copy.consumer(database, log)
        applying = asyncio.create_task(consumer.apply(log.partitions[0]))
        _, waiting = await asyncio.wait([*retries, applying], timeout=0.2)
        assert len(waiting) == 3
        go_on.set()
        await applying
        assert sorted([(await each).applied for each in retries]) == [0, 1]
        assert await parked(database) == []
        await notes.assert_copied(database, notes.event(1, 1), notes.event(1, 2), notes.event(2, 1))


async def test_a_long_row_of_parked_events_is_retried_in_chunks_that_let_others_in(
    copy_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_CHUNK", 4)
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy(1)
        # Others write to the key as well, more of them than a chunk holds.
        for _ in range(6):
            log.put(0, Message("1", b"hello", {}))
        events = [notes.event(1, version) for version in range(1, 16)]
        put(log, *events[:14])
        async with notes.Running(copy.consumer(database, log).run()):
            await eventually(lambda: has_parked(database, 20))
            copy.broken = {(1, 10)}
            done = await copy.retry(database, 1)
            assert (done.applied, done.left) == (9, 11)
            assert done.error == "ValueError: note 1, version 10 is broken"
            copy.broken.clear()
            put(log, events[14])
            done = await copy.retry(database, 1)
            assert done.left == 6
            assert "NotAnEvent" in (done.error or "")
            await eventually(lambda: has_parked(database, 6))
            await eventually(lambda: has_applied(database, 15))
        await notes.assert_copied(database, *events)


async def test_retries_and_consumers_at_once_lose_nothing_and_apply_nothing_twice(
    copy_url: str, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_CHUNK", 3)
    async with opened(copy_url, size=8) as database:
        log, copy = MemoryLog(2), Copy()
        dice = random.Random(4)
        history: list[NoteEvent] = []
        versions = dict.fromkeys(range(1, 7), 0)
        retried = 0

        async def feed() -> None:
            # On a busy machine all of 120 rounds can be over before the first is read.
            for round_ in itertools.count(1):
                for id_ in dice.choices(range(1, 7), k=dice.randint(1, 8)):
                    versions[id_] += 1
                    history.append(notes.event(id_, versions[id_]))
                    put(log, history[-1])
                copy.broken = set(dice.sample(range(1, 7), dice.randint(1, 3)))
                await asyncio.sleep(0.01)
                if round_ >= 120 and retried > 5:
                    break
            copy.broken = set()

        async def retry() -> None:
            nonlocal retried
            while True:
                for id_ in range(1, 7):
                    retried += (await copy.retry(database, id_)).applied
                await asyncio.sleep(0)

        members = [copy.consumer(database, log, batch=7).run() for _ in range(2)]
        async with notes.Running(*members, retry(), retry()):
            await feed()
            await eventually(lambda: has_applied(database, len(history)))
            await eventually(lambda: has_parked(database, 0))
        await notes.assert_copied(database, *history)


async def test_what_was_discarded_leaves_a_gap_that_must_be_accepted(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy((1, 2))
        events = [notes.event(1, version) for version in range(1, 7)]
        put(log, *events[:4])
        async with notes.Running(copy.consumer(database, log).run()):
            await eventually(lambda: has_parked(database, 3))
            broken = await parked(database, cause="ValueError")
            assert await dead_letters.discard(database, "copy", broken) == 1
            assert await dead_letters.discard(database, "copy", broken) == 0
            # What stood behind it still holds the key up.
            put(log, events[4], notes.event(2, 1))
            await eventually(lambda: has_applied(database, 2))
            assert await places(database) == [("1", n, BEHIND) for n in (3, 4, 5)]
            done = await copy.retry(database, 1)
            assert (done.applied, done.left) == (0, 3)
            assert "MissingEvents: note 1: version 3 arrived after version 1" in (done.error or "")
            done = await copy.retry(database, 1, accept_gaps=True)
            assert (done.applied, done.left, done.error) == (3, 0, None)
            put(log, events[5])
            await eventually(lambda: has_applied(database, 6))
        del events[1]
        await notes.assert_copied(database, *events, notes.event(2, 1))


# Once


async def test_repeats_restarts_and_several_members_park_nothing_twice(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy(3, 5)
        events = [notes.event(1 + n % 6, 1 + n // 6) for n in range(30)]
        batches = [(0, 12), (4, 20), (0, 20), (17, 30), (2, 30)]
        for start, end in batches:
            for n in range(start, end):
                log.put(0, notes.wire(n + 1, events[n]))
        for _ in range(3):
            members = [copy.consumer(database, log, batch=4).run() for _ in range(2)]
            async with notes.Running(*members):
                await eventually(lambda: has_applied(database, 20))
                await eventually(lambda: has_parked(database, 10))
        expected = [n + 1 for n, one in enumerate(events) if one.id in {3, 5}]
        assert [each.position for each in await parked(database)] == expected
        copy.broken.clear()
        for id_ in (3, 5):
            assert (await copy.retry(database, id_)).left == 0
        await notes.assert_copied(database, *events)


async def test_a_log_that_lost_its_end_and_was_fed_again_parks_nothing_twice_and_loses_nothing(
    copy_url: str,
) -> None:
    """What is parked now may stand where another parked record stood."""
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy(2, 4)
        stranger = Message("9", b"hello", {})
        first = [notes.event(1, 1), notes.event(2, 1), notes.event(3, 1)]
        log.put(0, stranger)
        for n, one in enumerate(first, start=1):
            log.put(0, notes.wire(n, one))
        async with notes.Running(copy.consumer(database, log).run()):
            await eventually(lambda: has_applied(database, 2))
        # From position 3 on it is fed again, and note 4 comes to stand where note 2 stood.
        del log.partitions[0][1:]
        for n, one in ((3, first[2]), (4, notes.event(4, 1)), (5, notes.event(2, 2))):
            log.put(0, notes.wire(n, one))
        log.put(0, stranger)
        log.put(0, notes.wire(6, notes.event(3, 2)))
        async with notes.Running(copy.consumer(database, log).run()):
            await eventually(lambda: has_applied(database, 3))
        assert [(each.offset, each.key, each.position) for each in await parked(database)] == [
            (0, "9", None), (2, "2", 2), (2, "4", 4), (3, "2", 5), (4, "9", None)
        ]  # fmt: skip
        copy.broken.clear()
        assert (await copy.retry(database, 2)).applied == 2
        assert (await copy.retry(database, 4)).applied == 1
        await notes.assert_copied(
            database, *first, notes.event(4, 1), notes.event(2, 2), notes.event(3, 2)
        )


@examples(40)
@given(
    fed=logs(),
    script=steps,
    broken=st.sets(st.integers(1, 5), min_size=1, max_size=4),
    then_broken=st.sets(st.integers(1, 5), max_size=4),
    retries_at=st.sets(st.integers(0, 24), max_size=3),
)
async def test_once_all_is_mended_and_retried_the_tables_are_what_the_log_says(
    database: Database,
    fed: tuple[list[NoteEvent], MemoryLog],
    script: list[tuple[int, Any]],
    broken: set[int],
    then_broken: set[int],
    retries_at: set[int],
) -> None:
    history, log = fed
    ever_broken = broken | then_broken
    async with transaction(database, durable=False) as tx:
        await tx.execute("DELETE FROM notes; DELETE FROM applied; DELETE FROM cursors")
        await tx.execute("DELETE FROM parked")
    members = [Member(database, log, broken) for _ in range(2)]
    for member in members:
        await member.start()

    async def retry_all() -> None:
        for topic, key in {(each.topic, each.key) for each in await parked(database)}:
            with suppress(Failure):
                await dead_letters.retry(database, members[0].handlers, topic, key)

    for n, (which, step) in enumerate(script):
        await members[which].take(step)
        if n in retries_at:
            broken.clear()
            broken.update(then_broken)
            await retry_all()
    longest = max(len(records) for records in log.partitions)
    for _ in range(6):
        for member in members:
            await member.take((longest, longest, longest))
    for member in members:
        await member.stop()
        await member.take(("fails", 0))
    # Only keys that were broken at some time are held up; all others are applied to the last.
    held = {each.key for each in await parked(database) if each.holds_key}
    assert held <= {str(id_) for id_ in ever_broken}
    free = {one.id: (one.version, one.text) for one in history if one.key not in held}
    found, _ = await notes.copy_of(database)
    assert {id_: note for id_, note in found.items() if str(id_) not in held} == free
    broken.clear()
    await retry_all()
    # Nothing is left but foreign records.
    strangers = await parked(database)
    assert not any(each.holds_key for each in strangers)
    await dead_letters.discard(database, "copy", strangers)
    assert await parked(database) == []
    await notes.assert_copied(database, *history)
