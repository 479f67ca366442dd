"""What is kept for a time is kept for that time, whatever happens to clocks."""

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from eventspine import pruning, running_time
from eventspine.answers import Answer, Key
from eventspine.context import NOBODY, Request
from eventspine.database import Database
from eventspine.errors import Unavailable
from eventspine.idempotency import once_in_transaction
from eventspine.outbox import Transaction, transaction
from eventspine.pruning import KEY_MARGIN, Pruner
from eventspine.running_time import LONGEST_STEP, RunningTime
from tests.support import notes
from tests.support.clocks import LeapingPostgres
from tests.support.spine import make_tables, opened
from tests.support.waiting import eventually

DAY = 24 * 3600


@dataclass
class Clock:
    """A clock that only measures, in seconds."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(running_time, "_now", clock)
    return clock


async def count(database: Database) -> int:
    [(ms,)] = await database.fetch("SELECT ms FROM running_time")
    return int(ms)


async def set_count(database: Database, ms: int) -> None:
    async with transaction(database) as tx:
        await tx.execute("UPDATE running_time SET ms = %(ms)s", {"ms": ms})


async def test_a_workers_clock_counts_the_time_between_two_looks(
    notes_url: str, clock: Clock
) -> None:
    async with opened(notes_url) as database:
        worker = RunningTime(database)
        assert await worker.look() == 0
        clock.now += 30.5
        assert await worker.look() == 30_500
        # A machine that is suspended, and its clock with it.
        assert await worker.look() == 30_500
        clock.now += 1
        assert await worker.look() == 31_500 == await count(database)


async def test_the_real_clock_is_counted(notes_url: str) -> None:
    async with opened(notes_url) as database:
        worker = RunningTime(database)
        await worker.look()
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.3)
        counted = await worker.look()
        assert 250 < counted <= 1000 * (asyncio.get_running_loop().time() - began) + 1


async def test_the_first_look_at_a_clock_adds_nothing(notes_url: str, clock: Clock) -> None:
    async with opened(notes_url) as database:
        for _ in range(5):
            restarted = RunningTime(database)
            await restarted.look()
            clock.now += DAY
        assert await count(database) == 0


async def test_one_that_was_frozen_adds_a_step_and_no_more(notes_url: str, clock: Clock) -> None:
    async with opened(notes_url) as database:
        frozen = [RunningTime(database) for _ in range(3)]
        for worker in frozen:
            await worker.look()
        clock.now += DAY
        for worker in frozen:
            await worker.look()
        assert await count(database) == 1000 * LONGEST_STEP


async def test_workers_together_count_no_faster_than_one(notes_url: str, clock: Clock) -> None:
    async with opened(notes_url) as database:
        workers = [RunningTime(database) for _ in range(4)]
        for n in range(41):
            for worker in workers:
                await worker.look()
                clock.now += 0.25
            if n < 40:
                clock.now += 29
        # None is lost either, but the last moments.
        assert 40 * 29_000 <= await count(database) <= 40 * 30_000


async def test_workers_at_once_count_once(notes_url: str, clock: Clock) -> None:
    async with opened(notes_url, size=6) as database:
        workers = [RunningTime(database) for _ in range(6)]
        for _ in range(20):
            await asyncio.gather(*(worker.look() for worker in workers))
            clock.now += 10
        assert await count(database) <= 19 * 10_000


async def test_after_a_failover_to_an_older_count_it_goes_on_from_there(
    notes_url: str, clock: Clock
) -> None:
    async with opened(notes_url) as database:
        worker = RunningTime(database)
        await worker.look()
        clock.now += 30
        assert await worker.look() == 30_000
        await set_count(database, 10_000)
        clock.now += 30
        assert await worker.look() == 10_000
        clock.now += 30
        assert await worker.look() == 40_000


async def test_a_pruner_without_its_row_prunes_nothing_and_says_so(notes_url: str) -> None:
    async with opened(notes_url) as database:
        async with transaction(database) as tx:
            await tx.execute("DELETE FROM running_time")
        with pytest.raises(Unavailable, match="shop migrate"):
            await RunningTime(database).look()


@pytest.mark.parametrize("seed", range(3))
async def test_no_row_is_ever_counted_older_than_it_is_by_more_than_a_step(
    notes_url: str, clock: Clock, seed: int
) -> None:
    """Workers come and go, look early and late, freeze, and lose connections; rows are stored."""
    dice = random.Random(seed)
    rows: list[tuple[float, int]] = []
    async with opened(notes_url) as database:
        workers = [RunningTime(database) for _ in range(3)]
        for _ in range(150):
            clock.now += dice.choice([0.0, 0.1, 1.0, 29.0, 31.0, dice.uniform(0, 4000)])
            rows.append((clock.now, await count(database)))
            at = dice.randrange(len(workers))
            if dice.random() < 0.1:
                workers[at] = RunningTime(database)
            now = await workers[at].look()
            for stored_at, stored_with in rows:
                really = 1000 * (clock.now - stored_at)
                assert now - stored_with <= really + 1000 * LONGEST_STEP
    assert now > 0


# With a server whose clock leaps


@pytest.fixture
def leaping_notes(leaping_postgres: LeapingPostgres) -> str:
    url = leaping_postgres.new_database()
    make_tables(url)
    return url


_FOREIGN = """
INSERT INTO parked
    (consumer, topic, "partition", "offset", position, headers, holds_key, cause, error)
SELECT 'copy', 'notes', 0, count(*), 0, '{}', false, 'E', 'why' FROM parked
"""

ROWS = """
SELECT (SELECT count(*) FROM idempotency_keys), (SELECT count(*) FROM outbox),
    (SELECT count(*) FROM parked)
"""


async def store(database: Database, n: int) -> None:
    """A key, an event that is relayed, and a foreign record."""

    async def act(tx: Transaction, commands: object) -> list[str]:
        tx.publish(notes.event(n, 1), NOBODY)
        await tx.execute(_FOREIGN)
        return ["done"]

    key = Key(f"key {n}", b"asked", lambda result: Answer(201, (), str(result).encode()))
    await once_in_transaction(database, act)([Request(n, key=key)])
    async with transaction(database) as tx:
        await tx.execute(
            "INSERT INTO relay VALUES ('/notes', %(n)s, 1)"
            " ON CONFLICT (source) DO UPDATE SET position = %(n)s",
            {"n": n},
        )


@pytest.mark.parametrize("wrong", [[26], [-26], [24 * 365], [26, -26], [-26, 26]])
async def test_a_clock_that_leaps_prunes_nothing_early_and_nothing_late(
    leaping_postgres: LeapingPostgres, leaping_notes: str, wrong: list[int]
) -> None:
    async with opened(leaping_notes) as database:
        pruner = Pruner(database, outbox_seconds=DAY, key_seconds=DAY, parked_seconds=DAY)
        stored = 0
        for hours in [0, *wrong, 0]:
            leaping_postgres.leap(hours)
            [(now,)] = await database.fetch("SELECT clock_timestamp()")
            ahead = (now - datetime.now(UTC)).total_seconds()
            assert abs(ahead - 3600 * hours) < 60, "the clock has leapt"
            stored += 1
            await store(database, stored)
            for _ in range(3):
                assert await pruner.prune() == (0, 0, 0)
        assert await database.fetch(ROWS) == [(stored, stored, stored)]
        # What was stored while the clock was wrong goes like all else, when its time is over.
        at = await count(database)
        await set_count(database, at + 1000 * (DAY - 5))
        assert await pruner.prune() == (0, 0, 0)
        await set_count(database, at + 1000 * DAY)
        # Of the outbox only what stands before the first mark.
        assert await pruner.prune() == (1, 0, stored)
        await set_count(database, at + int(1000 * (DAY + KEY_MARGIN)))
        assert await pruner.prune() == (0, stored, 0)
        await set_count(database, at + 1000 * 2 * DAY)
        assert await pruner.prune() == (stored - 1, 0, 0)


async def test_a_pruner_that_goes_on_while_the_clock_leaps_forgets_no_key(
    leaping_postgres: LeapingPostgres, leaping_notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_SELDOM", 0.02)

    async def has_counted(database: Database, ms: int) -> bool:
        return await count(database) > ms

    async with opened(leaping_notes) as database:
        pruners = [
            Pruner(database, outbox_seconds=DAY, key_seconds=60, parked_seconds=DAY)
            for _ in range(2)
        ]
        pruners[0]._every = pruners[1]._every = 0.02
        await store(database, 1)
        async with notes.Running(*(pruner.run() for pruner in pruners)):
            for hours in (26, 0, -26, 0):
                leaping_postgres.leap(hours)
                at = await count(database)
                await eventually(lambda at=at: has_counted(database, at + 100))
        assert await database.fetch(ROWS) == [(1, 1, 1)]
