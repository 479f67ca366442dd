"""What a transaction that fails tells its caller, and that it leaves nothing behind."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from eventspine.batching import Batcher, in_transaction
from eventspine.context import NOBODY, Context, Request
from eventspine.database import Database
from eventspine.errors import OutcomeUnknown, Unavailable
from eventspine.outbox import Transaction, transaction
from tests.support import notes
from tests.support.backends import _COMMITS_WAIT, gone, kill, pid_of, stored, waiting_for_a_lock
from tests.support.spine import opened
from tests.support.waiting import eventually


async def test_a_block_that_raises_leaves_nothing_and_gives_its_connection_back(
    notes_url: str,
) -> None:
    async with opened(notes_url, size=1) as database:
        for error in (ValueError, KeyboardInterrupt, asyncio.CancelledError):
            with pytest.raises(error):
                async with transaction(database) as tx:
                    await notes.save(tx, [notes.event(1, 1)])
                    raise error
        assert await stored(database) == ([], [])
        await notes.publish_notes(database, 1, 1)
        assert await stored(database) == ([1], [1])


async def test_a_wrong_statement_is_psycopgs_own_error(notes_url: str) -> None:
    async with opened(notes_url, size=1) as database:
        with pytest.raises(psycopg.errors.UndefinedTable):
            async with transaction(database) as tx:
                await tx.execute("SELECT 1 FROM nowhere")
        with pytest.raises(psycopg.errors.UndefinedTable):
            await database.fetch("SELECT 1 FROM nowhere")


async def test_a_statement_that_failed_is_not_forgotten_by_the_commit(notes_url: str) -> None:
    """PostgreSQL would answer COMMIT with ROLLBACK, without an error."""
    async with opened(notes_url, size=1) as database:
        for durable in (True, False):
            with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                async with transaction(database, durable=durable) as tx:
                    await tx.execute("INSERT INTO notes VALUES (1, 1, 'kept?')")
                    with pytest.raises(psycopg.errors.UniqueViolation):
                        await tx.execute("INSERT INTO notes VALUES (1, 1, 'kept?')")
        assert await stored(database) == ([], [])


async def test_an_outbox_statement_that_fails_takes_everything_with_it(notes_url: str) -> None:
    async with opened(notes_url, size=1) as database:
        await notes.publish_notes(database, 1, 1)
        # As after a restore that left the head behind.
        await database.fetch("WITH u AS (UPDATE outbox_head SET position = 0) SELECT 1")
        with pytest.raises(psycopg.errors.UniqueViolation):
            await notes.publish_notes(database, 2, 2)
        assert await stored(database) == ([1], [1])


async def test_an_event_that_postgresql_cannot_hold_fails_its_transaction_only(
    notes_url: str,
) -> None:
    async with opened(notes_url, size=1) as database:
        with pytest.raises(psycopg.DataError):
            async with transaction(database) as tx:
                tx.publish(notes.event(1, 1, "a\0b"), NOBODY)
        texts = [
            "%(count)s %s %% \\u0000 \\' \\\\",
            "'; DROP TABLE outbox; --",
            "ü €\U0001f600",
        ]
        async with transaction(database) as tx:
            for n, text in enumerate(texts):
                tx.publish(notes.event(n + 1, 1, text), Context(text))
        assert await database.fetch(
            "SELECT data->>'text', headers->>'traceparent' FROM outbox ORDER BY position"
        ) == [(text, text) for text in texts]


async def test_a_connection_lost_before_the_commit_certainly_did_nothing(notes_url: str) -> None:
    async with opened(notes_url, size=2) as database:
        with pytest.raises(Unavailable):
            async with transaction(database) as tx:
                await notes.save(tx, [notes.event(1, 1)])
                await kill(database, await pid_of(tx))
                await tx.execute("SELECT 1")
        with pytest.raises(Unavailable):
            async with transaction(database) as tx:
                await notes.save(tx, [notes.event(1, 1)])
                await kill(database, await pid_of(tx))
                # Whoever catches too much must not make it a success.
                with pytest.raises(psycopg.OperationalError):
                    await tx.execute("SELECT 1")
        assert await stored(database) == ([], [])


async def test_a_block_that_thought_too_long_certainly_did_nothing(notes_url: str) -> None:
    async with opened(notes_url, size=2) as database:
        for statements_after in (0, 1):
            with pytest.raises(Unavailable, match="idle-in-transaction"):
                async with transaction(database) as tx:
                    await notes.save(tx, [notes.event(1, 1)])
                    pid = await pid_of(tx)
                    await tx.execute("SET LOCAL idle_in_transaction_session_timeout = '20ms'")
                    await gone(database, pid)
                    for _ in range(statements_after):
                        await tx.execute("SELECT 1")
        assert await stored(database) == ([], [])


@pytest.mark.parametrize("publishes", [True, False])
async def test_a_connection_lost_during_the_commit_leaves_the_outcome_unknown(
    notes_url: str, publishes: bool
) -> None:
    async def keep(database: Database) -> None:
        async with transaction(database) as tx:
            if publishes:
                await notes.save(tx, [notes.event(1, 1)])
            else:
                await tx.execute("INSERT INTO notes VALUES (1, 1, '')")

    async with opened(notes_url, size=2) as database:
        with psycopg.connect(notes_url, autocommit=True) as holder:
            holder.execute(_COMMITS_WAIT)
            for _ in range(5):
                holder.execute("SELECT pg_advisory_lock(1)")
                keeping = asyncio.create_task(keep(database))
                (pid,) = await waiting_for_a_lock(database)
                await kill(database, pid)
                holder.execute("SELECT pg_advisory_unlock(1)")
                with pytest.raises(OutcomeUnknown):
                    await keeping
        assert await stored(database) == ([], [])
        await keep(database)
        assert await stored(database) == ([1], [1] if publishes else [])


async def cross(database: Database, first: int, second: int, met: asyncio.Barrier) -> None:
    """Lock two rows; two that do it crosswise wait for each other for ever."""
    async with transaction(database) as tx:
        await tx.execute("UPDATE notes SET text = 'x' WHERE id = %(id)s", {"id": first})
        await met.wait()
        await tx.execute("UPDATE notes SET text = 'x' WHERE id = %(id)s", {"id": second})


async def test_two_transactions_that_wait_for_each_other_fail_one_which_may_try_again(
    notes_url: str,
) -> None:
    async with opened(notes_url) as database:
        await notes.publish_notes(database, 1, 2)
        met = asyncio.Barrier(2)
        results = await asyncio.gather(
            cross(database, 1, 2, met), cross(database, 2, 1, met), return_exceptions=True
        )
        (victim,) = [result for result in results if result is not None]
        assert isinstance(victim, Unavailable), repr(victim)
        assert "Deadlock" in str(victim)


async def test_a_batch_that_was_a_deadlocks_victim_is_run_again(notes_url: str) -> None:
    async with opened(notes_url) as database:
        await notes.publish_notes(database, 1, 2)
        met = asyncio.Barrier(2)
        runs = 0

        async def change(
            tx: Transaction, requests: Sequence[Request[tuple[int, int]]]
        ) -> list[int]:
            nonlocal runs
            runs += 1
            first_time = runs <= 2
            if not first_time:
                # Or it may take the first row before the one that waits for it, and is a victim again.
                await eventually(lambda: any(each.done() for each in submitted))
            for (first, second), *_ in requests:
                await notes.save(tx, [notes.event(first, 2)])
                if first_time:
                    await met.wait()
                await notes.save(tx, [notes.event(second, 2)])
            return [1 for _ in requests]

        batchers = [Batcher(in_transaction(database, change)) for _ in range(2)]
        submitted = [
            asyncio.ensure_future(batchers[n].submit(Request(ids)))
            for n, ids in enumerate([(1, 2), (2, 1)])
        ]
        assert await asyncio.gather(*submitted) == [1, 1]
        assert runs == 3
        _, positions = await stored(database)
        assert positions == list(range(1, 7))


async def test_a_transaction_that_waits_too_long_for_a_lock_is_told_to_try_again(
    notes_url: str,
) -> None:
    async with opened(notes_url, size=2) as database:
        with psycopg.connect(notes_url) as holder:
            holder.execute("UPDATE outbox_head SET position = position")
            with pytest.raises(Unavailable, match="lock timeout"):
                async with transaction(database) as tx:
                    await tx.execute("SET LOCAL lock_timeout = '50ms'")
                    await notes.save(tx, [notes.event(1, 1)])
        assert await stored(database) == ([], [])
        await notes.publish_notes(database, 1, 1)


async def test_a_transaction_that_takes_too_long_to_publish_is_ended_and_did_nothing(
    notes_url: str,
) -> None:
    async with opened(notes_url, size=2) as database:
        with psycopg.connect(notes_url) as holder:
            holder.execute("UPDATE outbox_head SET position = position")
            with pytest.raises(Unavailable, match="transaction timeout"):
                async with transaction(database) as tx:
                    await tx.execute("SET LOCAL transaction_timeout = '200ms'")
                    await notes.save(tx, [notes.event(1, 1)])
        assert await stored(database) == ([], [])


async def test_a_savepoint_fails_alone_and_takes_back_what_it_published(notes_url: str) -> None:
    async with opened(notes_url, size=1) as database:
        async with transaction(database) as tx:
            await notes.save(tx, [notes.event(1, 1)])
            with pytest.raises(psycopg.errors.UniqueViolation):
                async with tx.savepoint():
                    await notes.save(tx, [notes.event(2, 1)])
                    await tx.execute("INSERT INTO notes VALUES (1, 1, '')")
            async with tx.savepoint():
                await notes.save(tx, [notes.event(3, 1)])
        assert await stored(database) == ([1, 3], [1, 2])
        assert await database.fetch("SELECT key FROM outbox ORDER BY position") == [
            ("1",),
            ("3",),
        ]
