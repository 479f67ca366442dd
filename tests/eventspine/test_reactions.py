"""A reaction asks outside a transaction, key by key in order, and about nothing that is parked behind another."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from eventspine.consumer import Consumer
from eventspine.dead_letters import find
from eventspine.errors import NoOutcome
from eventspine.event import Event
from eventspine.outbox import Transaction
from eventspine.reactions import Answered, Ask, Reaction
from eventspine.received import Received
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.spine import opened
from tests.support.waiting import eventually

_KEEP = "INSERT INTO applied (id, version, type, text) VALUES (%(id)s, %(version)s, '', %(text)s)"


def reaction(ask: Ask, **options: Any) -> Reaction:
    async def act(tx: Transaction, answered: Sequence[Answered]) -> None:
        for one in answered:
            values = {"id": one.event.id, "version": one.event.version, "text": one.outcome}
            await tx.execute(_KEEP, values)

    kinds: list[type[Event]] = [notes.NoteTaken, notes.NoteChanged]
    steps = dict.fromkeys(kinds, (ask, act))
    return Reaction("notes.provider", steps, **options)


def log_of(*events: notes.NoteEvent) -> MemoryLog:
    log = MemoryLog()
    for position, event in enumerate(events, 1):
        log.put(0, notes.wire(position, event))
    return log


async def outcomes(database: Any) -> list[tuple[int, int, str]]:
    return [tuple(row) for row in await database.fetch("SELECT id, version, text FROM applied ORDER BY n")]  # fmt: skip


async def test_events_of_one_key_are_asked_about_in_order_and_others_at_once(
    notes_url: str,
) -> None:
    under_way: list[int] = []
    together = 0

    async def ask(received: Received[Any], key: str) -> str:
        nonlocal together
        assert received.event.id not in under_way
        under_way.append(received.event.id)
        together = max(together, len(under_way))
        await asyncio.sleep(0.01)
        under_way.remove(received.event.id)
        return key

    events = [notes.event(id_, version) for version in (1, 2) for id_ in (1, 2, 3)]
    async with opened(notes_url) as database:
        log = log_of(*events)
        consumer = Consumer(database, log, reaction(ask, concurrency=2))
        async with notes.Running(consumer.run()):

            async def applied() -> bool:
                return len(await outcomes(database)) == len(events)

            await eventually(applied)
        assert together == 2
        assert sorted(await outcomes(database)) == sorted(
            (event.id, event.version, f"notes.provider/notes/{position}")
            for position, event in enumerate(events, 1)
        )


async def test_an_outcome_is_kept_while_others_are_waited_for(notes_url: str) -> None:
    asked: list[int] = []

    async def ask(received: Received[Any], key: str) -> str:
        asked.append(received.event.id)
        if received.event.id == 2 and asked.count(2) < 3:
            raise NoOutcome("not yet")
        return "ok"

    async with opened(notes_url) as database:
        consumer = Consumer(database, log_of(*(notes.event(n, 1) for n in (1, 2, 3))), reaction(ask))  # fmt: skip
        async with notes.Running(consumer.run()):

            async def applied() -> bool:
                return len(await outcomes(database)) == 3

            await eventually(applied)
        assert (asked.count(1), asked.count(2)) == (1, 3)
        assert asked.count(3) == 1


async def test_an_event_parked_behind_another_is_not_asked_about(notes_url: str) -> None:
    asked: list[tuple[int, int]] = []

    async def ask(received: Received[Any], key: str) -> str:
        asked.append((received.event.id, received.event.version))
        if received.event.id == 1:
            raise ValueError("never")
        return "ok"

    events = [notes.event(1, 1), notes.event(2, 1), notes.event(1, 2), notes.event(2, 2)]
    async with opened(notes_url) as database:
        consumer = Consumer(database, log_of(*events), reaction(ask))
        async with notes.Running(consumer.run()):

            async def done() -> bool:
                return len(await outcomes(database)) == 2

            await eventually(done)
        parked = await find(database, "notes.provider")
        assert [(each.position, each.cause) for each in parked] == [
            (1, "ValueError"), (3, "behind another")
        ]  # fmt: skip
        assert sorted(asked) == [(1, 1), (2, 1), (2, 2)]


@pytest.mark.parametrize(("since", "count"), [(2025, 2), (2027, 0)])
async def test_a_new_reaction_can_pass_over_what_was_before_it(
    notes_url: str, since: int, count: int
) -> None:
    asked: list[int] = []

    async def ask(received: Received[Any], key: str) -> str:
        asked.append(received.event.id)
        return "ok"

    of = reaction(ask, since=datetime(since, 1, 1, tzinfo=UTC))
    async with opened(notes_url) as database:
        log = log_of(notes.event(1, 1), notes.event(2, 1))
        async with notes.Running(Consumer(database, log, of).run()):

            async def read() -> bool:
                return await database.fetch("SELECT last_position FROM cursors") == [(2,)]

            await eventually(read)
        assert len(await outcomes(database)) == len(asked) == count
