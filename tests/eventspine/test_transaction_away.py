"""Callers and databases that go away in the middle of a transaction."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from eventspine.database import Database
from eventspine.errors import Unavailable
from eventspine.outbox import Transaction, transaction
from tests.support import notes
from tests.support.backends import _COMMITS_WAIT, stored, waiting_for_a_lock
from tests.support.spine import opened, refusing
from tests.support.waiting import SLOWER, eventually

Step = Callable[[Transaction], Awaitable[object]]


@pytest.mark.parametrize(
    "step",
    [
        lambda tx: asyncio.sleep(60),
        lambda tx: tx.execute("SELECT pg_sleep(60)"),
    ],
)
async def test_a_cancelled_transaction_is_rolled_back_at_once(notes_url: str, step: Step) -> None:
    async with opened(notes_url, size=2) as database:

        async def work() -> None:
            async with transaction(database) as tx:
                await notes.save(tx, [notes.event(1, 1)])
                await step(tx)

        async def is_under_way() -> bool:
            (row,) = await database.fetch(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
                "(wait_event = 'PgSleep' OR state = 'idle in transaction'"
                # Not only between two statements: a cancel sent then may miss the second.
                " AND state_change < clock_timestamp() - interval '0.1 s')"
            )
            return row == (1,)

        for _ in range(3):
            working = asyncio.create_task(work())
            await eventually(is_under_way)
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                async with asyncio.timeout(2 + SLOWER):
                    await working
        assert await stored(database) == ([], [])


async def test_a_transaction_cancelled_in_its_commit_frees_the_head(notes_url: str) -> None:
    async with opened(notes_url, size=2) as database:
        with psycopg.connect(notes_url, autocommit=True) as holder:
            holder.execute(_COMMITS_WAIT)
            holder.execute("SELECT pg_advisory_lock(1)")
            committing = asyncio.create_task(notes.publish_notes(database, 1, 1))
            await waiting_for_a_lock(database)
            committing.cancel()
            with pytest.raises(asyncio.CancelledError):
                async with asyncio.timeout(2 + SLOWER):
                    await committing
        async with asyncio.timeout(2 + SLOWER):
            await notes.publish_notes(database, 2, 2)
        assert await stored(database) == ([2], [1])


async def test_callers_cancelled_at_any_moment_leak_no_connection(notes_url: str) -> None:
    async with opened(notes_url, size=3) as database:
        for round_ in range(40):
            callers = [
                asyncio.create_task(notes.publish_notes(database, n, n + 2))
                for n in range(round_ * 100, round_ * 100 + 24, 3)
            ]
            await asyncio.sleep(0.0005 * (round_ % 20))
            for caller in callers:
                caller.cancel()
            for result in await asyncio.gather(*callers, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), result
        ids, positions = await stored(database)
        assert positions == list(range(1, len(ids) + 1))


async def test_a_database_that_is_away_is_said_to_be_in_time(notes_url: str) -> None:
    async with opened(notes_url, size=3, timeout=0.5) as database:
        await notes.publish_notes(database, 1, 1)
        async with refusing(database, notes_url):
            for ask in (
                lambda: notes.publish_notes(database, 2, 2),
                lambda: database.fetch("SELECT 1"),
                lambda: notes.publish_notes(database, 2, 2),
            ):
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    await ask()
                assert time.monotonic() - began < 0.5 + SLOWER
        await eventually(lambda: _works(database))
        assert await stored(database) == ([1], [1])


async def test_the_reason_why_no_connection_is_to_be_had_is_said_while_it_holds(
    notes_url: str,
) -> None:
    async with opened(notes_url, size=1, timeout=0.5) as database:
        async with refusing(database, notes_url):
            with pytest.raises(Unavailable, match=r"PoolTimeout.*not currently accepting"):
                await database.fetch("SELECT 1")
        await eventually(lambda: _works(database))
        async with database.connection():
            with pytest.raises(Unavailable, match=r"PoolTimeout: [^:]* 0\.50 sec$"):
                await database.fetch("SELECT 1")


async def _works(database: Database) -> bool:
    try:
        return bool(await database.fetch("SELECT 1"))
    except Unavailable:
        return False


async def test_a_request_that_waits_for_a_database_is_served_when_it_is_back(
    notes_url: str,
) -> None:
    """And not only who asks for the first time after that."""
    async with opened(notes_url, size=3, timeout=15.0) as database:
        async with refusing(database, notes_url):
            waiting = asyncio.create_task(notes.publish_notes(database, 1, 1))
            # Longer than a pool goes on trying by itself.
            await asyncio.sleep(2.0)
            assert not waiting.done()
        async with asyncio.timeout(4 + SLOWER):
            await waiting


async def test_connections_that_the_server_has_forgotten_fail_no_transaction(
    notes_url: str,
) -> None:
    """Not even when everybody finds such a one in his hands at the same moment."""
    timeout = 20.0  # seconds, of which none is waited for
    async with opened(notes_url, size=6, timeout=timeout) as database:
        for round_ in range(3):
            first = round_ * 1000
            await asyncio.gather(
                *(notes.publish_notes(database, first + n, first + n) for n in range(40))
            )
            async with refusing(database, notes_url):
                pass
            began = time.monotonic()
            await asyncio.gather(
                *(notes.publish_notes(database, first + n, first + n) for n in range(100, 140)),
                *(database.fetch("SELECT 1") for n in range(10)),
            )
            assert time.monotonic() - began < timeout / 2
        ids, positions = await stored(database)
        assert len(ids) == 240
        assert positions == list(range(1, 241))
