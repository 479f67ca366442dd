"""Every event is applied once, in its key's order, whatever becomes of those who apply it."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventspine import dead_letters
from eventspine.applying import CheckpointConflict
from eventspine.consumer import Consumer
from eventspine.database import Database
from eventspine.event import NotAnEvent, decode
from eventspine.handlers import Handlers
from eventspine.outbox import Transaction, transaction
from eventspine.received import Received
from tests.support import notes
from tests.support.examples import examples
from tests.support.members import (
    POISON,
    Member,
    changed,
    has_applied,
    is_foreign,
    logs,
    steps,
)
from tests.support.memory_log import MemoryLog
from tests.support.notes import NoteEvent, NoteTaken
from tests.support.spine import Said, opened
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.slow
@pytest.mark.timeout(300)  # for all examples together
@examples(60)
@given(fed=logs(), script=steps)
async def test_any_interleaving_applies_each_event_once_and_in_order(
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


async def test_two_members_in_the_same_batch_apply_it_once_and_one_reads_again(
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


async def test_an_unreadable_record_is_parked_whole_and_reported(copy_url: str, said: Said) -> None:
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


async def test_text_that_only_looks_like_u0000_is_applied(copy_url: str) -> None:
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


async def test_events_of_types_without_a_handler_are_skipped_silently(
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
