"""Parked events are retried in order, or discarded; and nothing is parked or applied twice."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors

from eventspine import dead_letters
from eventspine.database import Database
from eventspine.dead_letters import BEHIND
from eventspine.errors import Unavailable
from eventspine.handlers import Handlers
from eventspine.log import Message
from eventspine.outbox import Transaction, transaction
from eventspine.received import Received
from tests.support import notes
from tests.support.examples import examples
from tests.support.members import Failure, Member, has_applied, logs, steps
from tests.support.memory_log import MemoryLog
from tests.support.notes import TOPIC, NoteChanged, NoteEvent, NoteTaken
from tests.support.parking import Copy, has_parked, parked, places, put
from tests.support.spine import Said, opened
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("impatient")


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


async def test_later_events_of_a_key_wait_while_it_is_retried(copy_url: str) -> None:
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


async def test_a_discarded_event_leaves_a_gap_that_must_be_accepted(copy_url: str) -> None:
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


async def test_a_log_that_was_fed_its_end_again_parks_nothing_twice(
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


@pytest.mark.timeout(300)  # for all examples together
@examples(40)
@given(
    fed=logs(),
    script=steps,
    broken=st.sets(st.integers(1, 5), min_size=1, max_size=4),
    then_broken=st.sets(st.integers(1, 5), max_size=4),
    retries_at=st.sets(st.integers(0, 24), max_size=3),
)
async def test_mended_and_retried_events_make_the_tables_what_the_log_says(
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
