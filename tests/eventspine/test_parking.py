"""An event that can't be applied is parked, its key's later ones behind it, and the line goes on."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from eventspine import backoff, dead_letters
from eventspine.consumer import Consumer
from eventspine.dead_letters import BEHIND
from eventspine.errors import Unavailable
from eventspine.handlers import Handlers
from eventspine.log import Message, Record
from eventspine.outbox import Transaction, transaction
from eventspine.received import Received
from tests.support import notes
from tests.support.members import has_applied
from tests.support.memory_log import MemoryLog
from tests.support.notes import TOPIC, NoteChanged, NoteTaken
from tests.support.parking import Copy, has_parked, parked, passing, places, put
from tests.support.spine import Said, opened
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("impatient")


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
async def test_a_partition_stops_when_too_many_are_parked_and_says_so_once(
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


async def test_a_stopped_partition_keeps_no_other_waiting(
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
