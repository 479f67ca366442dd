"""While a full batch is applied, the next one is read and decoded; after any trouble it is dropped and read again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from eventspine.consumer import Consumer
from eventspine.database import Database
from eventspine.errors import Unavailable
from eventspine.event import Event
from eventspine.handlers import Handlers
from eventspine.log import Record
from eventspine.outbox import Transaction
from eventspine.read_ahead import Prepared, ReadAhead
from eventspine.reading import Checkpoint, Reading
from eventspine.received import Received
from tests.support import notes
from tests.support.members import has_applied
from tests.support.memory_log import MemoryLog
from tests.support.notes import TOPIC, NoteChanged, NoteTaken
from tests.support.parking import put
from tests.support.spine import opened
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("impatient")

Before = Callable[[Sequence[Received[Event]]], Awaitable[None]]


def copying(database: Database, log: MemoryLog, before: Before, **options: int) -> Consumer:
    """A consumer of the notes that awaits `before` in its transaction, before it applies them."""

    async def taken(tx: Transaction, received: Sequence[Received[NoteTaken]]) -> None:
        await before(received)
        await notes.taken(tx, received)

    async def changed(tx: Transaction, received: Sequence[Received[NoteChanged]]) -> None:
        await before(received)
        await notes.changed(tx, received)

    return Consumer(
        database, log, Handlers("copy", {NoteTaken: taken, NoteChanged: changed}), **options
    )


class Ahead:
    """Waits, in the transaction that applies the n-th batch, until the next records have been read."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.batches: list[int] = []
        self.read_meanwhile: list[int] = []
        self.polls: list[int] = []

    async def __call__(self, received: Sequence[Received[Event]]) -> None:
        self.batches.append(len(received))
        (subscription,) = self.log.subscriptions
        last = max(one.record.offset for one in received)
        for _ in range(1000):
            if subscription.next.get(0, 0) > last + 1:
                break
            await asyncio.sleep(0)
        self.read_meanwhile.append(subscription.next.get(0, 0) - last - 1)
        self.polls.append(subscription.polls)


async def test_the_next_batch_is_read_while_a_full_one_is_applied_and_not_otherwise(
    copy_url: str,
) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog()
        events = [notes.event(id_, 1) for id_ in range(1, 26)]
        put(log, *events)
        ahead = Ahead(log)

        async def before(received: Sequence[Received[Event]]) -> None:
            if len(received) == 5:
                events.append(notes.event(26, 1))
                put(log, events[-1])
            await ahead(received)

        async with notes.Running(copying(database, log, before, batch=10).run()):
            await eventually(lambda: has_applied(database, 26))
        await notes.assert_copied(database, *events)
    assert ahead.batches == [10, 10, 5, 1]
    assert ahead.read_meanwhile == [10, 5, 0, 0]
    assert ahead.polls[:3] == [2, 3, 3]


async def test_events_of_one_key_in_batches_read_ahead_are_applied_in_order(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog()
        events = [notes.event(1, version) for version in range(1, 41)]
        put(log, *events)
        consumer = copying(database, log, Ahead(log), batch=3)
        async with notes.Running(consumer.run()):
            await eventually(lambda: has_applied(database, 40))
        await notes.assert_copied(database, *events)
        assert (consumer.records, consumer.applied, consumer.repeats) == (40, 40, 0)


async def test_what_was_read_ahead_of_a_failure_is_dropped_and_read_again(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog()
        events = [notes.event(id_, 1) for id_ in range(1, 31)]
        put(log, *events)
        read_ahead = Ahead(log)
        fails = [False, True, True, False, True]

        async def before(received: Sequence[Received[Event]]) -> None:
            await read_ahead(received)
            if fails and fails.pop():
                raise Unavailable("away for a moment")

        async with notes.Running(copying(database, log, before, batch=8).run()):
            await eventually(lambda: has_applied(database, 30))
        await notes.assert_copied(database, *events)
    assert read_ahead.read_meanwhile[0] == 8, "nothing was read ahead, so nothing was tested"
    assert not fails


async def test_what_was_read_ahead_of_another_members_move_is_not_applied_twice(
    copy_url: str,
) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog()
        events = [notes.event(id_, 1) for id_ in range(1, 31)]
        put(log, *events)
        other = notes.consumer(database, log)
        read_ahead = Ahead(log)
        moved = False

        async def around(records: Sequence[Record], proceed: Callable[[], Awaitable[None]]) -> None:
            nonlocal moved
            if records[0].offset == 8 and not moved:
                moved = True
                await other.apply(log.partitions[0][:20])
            await proceed()

        database.steps = database.steps._replace(receive=around)
        async with notes.Running(copying(database, log, read_ahead, batch=8).run()):
            await eventually(lambda: has_applied(database, 30))
        await notes.assert_copied(database, *events)
    assert moved


async def test_when_a_partition_pauses_what_was_read_ahead_of_others_is_read_again(
    copy_url: str,
) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog(2)
        stopped = [notes.event(2 * n, 1) for n in range(1, 21)]
        good = [notes.event(2 * n + 1, 1) for n in range(40)]
        for position, one in enumerate([*stopped, *good], start=1):
            log.put(one.id % 2, notes.wire(position, one))

        async def before(received: Sequence[Received[Event]]) -> None:
            await Ahead(log)(received)
            if any(one.event.id in (2, 4) for one in received):
                raise ValueError("broken")

        consumer = copying(database, log, before, batch=6, most_parked=1)
        async with notes.Running(consumer.run()):
            await eventually(lambda: has_applied(database, 40))
            (subscription,) = log.subscriptions
            assert subscription.pauses
        # Nothing of the other partition, which stands still before its second event.
        await notes.assert_copied(database, *good)


async def test_a_consumer_stops_while_it_reads_ahead(copy_url: str) -> None:
    async with opened(copy_url) as database:
        log = MemoryLog()
        events = [notes.event(id_, 1) for id_ in range(1, 31)]
        put(log, *events)
        applying = asyncio.Event()

        async def before(received: Sequence[Received[Event]]) -> None:
            await Ahead(log)(received)
            applying.set()
            await asyncio.Event().wait()

        async with notes.Running(copying(database, log, before, batch=10).run()):
            await applying.wait()
        assert await database.fetch("SELECT count(*) FROM applied") == [(0,)]
        async with notes.Running(notes.consumer(database, log, batch=10).run()):
            await eventually(lambda: has_applied(database, 30))
        await notes.assert_copied(database, *events)


async def test_a_checkpoint_is_not_taken_up_while_events_are_applied(copy_url: str) -> None:
    """A partition may be assigned again while its records are applied."""
    async with opened(copy_url) as database:
        log = MemoryLog()
        events = [notes.event(id_, 1) for id_ in range(1, 31)]
        put(log, *events)
        lost = False

        async def before(received: Sequence[Received[Event]]) -> None:
            nonlocal lost
            (subscription,) = log.subscriptions
            if not lost and len(received) == 10:
                lost = True
                del subscription.next[0]  # as if it had been revoked and assigned again
            await asyncio.sleep(0.05)

        consumer = copying(database, log, before, batch=10)
        async with notes.Running(consumer.run()):
            await eventually(lambda: has_applied(database, 30))
        await notes.assert_copied(database, *events)
        assert consumer.repeats == 0
    assert lost


async def test_records_whose_decoding_ahead_fails_are_returned_all_the_same() -> None:
    log = MemoryLog()
    put(log, *(notes.event(id_, 1) for id_ in range(1, 11)))

    async def from_zero(_topic: str, _partition: int) -> int:
        return 0

    def fails(_records: Sequence[Record]) -> Prepared:
        raise RuntimeError("a fault")

    ahead = ReadAhead(log.subscribe("copy", [TOPIC], from_zero), fails)
    ahead.begin(10)
    read = await ahead.poll(10)
    assert [record.offset for record in read.records] == list(range(10))
    assert read.still_right({}, {}) is None


def test_what_was_decided_ahead_holds_only_for_the_same_checkpoints() -> None:
    at, start = (TOPIC, 0), Checkpoint(7, 3)
    earlier, reading = object(), Reading({}, [])
    prepared = Prepared([], {at: start}, {TOPIC: earlier}, reading)  # type: ignore[dict-item]
    of = {TOPIC: earlier}
    assert prepared.still_right({at: Checkpoint(7, 3)}, of) is reading  # type: ignore[arg-type]
    assert prepared.still_right({at: Checkpoint(7, 4)}, of) is None  # type: ignore[arg-type]
    assert prepared.still_right({at: Checkpoint(8, 3)}, of) is None  # type: ignore[arg-type]
    assert prepared.still_right({}, of) is None  # type: ignore[arg-type]
    assert prepared.still_right({at: start}, {TOPIC: object()}) is None  # type: ignore[dict-item]
