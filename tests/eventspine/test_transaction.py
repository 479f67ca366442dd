"""What a transaction that fails tells its caller, and that it leaves nothing behind."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import psycopg
import pytest

from eventspine.batching import Batcher, in_transaction
from eventspine.context import NOBODY, Context, Request
from eventspine.database import Database
from eventspine.errors import OutcomeUnknown, Unavailable
from eventspine.outbox import Transaction, transaction
from tests.support import notes
from tests.support.spine import opened, refusing
from tests.support.waiting import eventually

# A commit that takes as long as an advisory lock is held by somebody else.
_COMMITS_WAIT = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER commits_wait AFTER INSERT ON notes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();
"""


async def stored(database: Database) -> tuple[list[int], list[int]]:
    """The notes' ids, and the positions in the outbox."""
    ids = await database.fetch("SELECT id FROM notes ORDER BY 1")
    positions = await database.fetch("SELECT position FROM outbox ORDER BY 1")
    return [id_ for (id_,) in ids], [position for (position,) in positions]


async def pid_of(tx: Transaction) -> int:
    ((pid,),) = await tx.fetch("SELECT pg_backend_pid()")
    assert isinstance(pid, int)
    return pid


async def gone(database: Database, pid: int) -> None:
    async def is_gone() -> bool:
        return not await database.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE pid = %(pid)s", {"pid": pid}
        )

    await eventually(is_gone)


async def kill(database: Database, pid: int) -> None:
    await database.fetch("SELECT pg_terminate_backend(%(pid)s)", {"pid": pid})
    await gone(database, pid)


async def waiting_for_a_lock(database: Database, count: int = 1) -> list[int]:
    """The backends that wait, once there are so many."""
    pids: list[int] = []

    async def enough() -> bool:
        rows = await database.fetch(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        )
        pids[:] = [pid for (pid,) in rows]
        return len(pids) >= count

    await eventually(enough)
    return pids


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


async def test_of_two_transactions_that_wait_for_each_other_one_is_told_to_try_again(
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
            for (first, second), *_ in requests:
                await notes.save(tx, [notes.event(first, 2)])
                if first_time:
                    await met.wait()
                await notes.save(tx, [notes.event(second, 2)])
            return [1 for _ in requests]

        batchers = [Batcher(in_transaction(database, change)) for _ in range(2)]
        results = await asyncio.gather(
            batchers[0].submit(Request((1, 2))), batchers[1].submit(Request((2, 1)))
        )
        assert list(results) == [1, 1]
        # The second run may meet the other one again.
        assert runs in {3, 4}
        _, positions = await stored(database)
        assert positions == list(range(1, 7))


async def test_who_waits_too_long_for_a_lock_is_told_to_try_again(notes_url: str) -> None:
    async with opened(notes_url, size=2) as database:
        with psycopg.connect(notes_url) as holder:
            holder.execute("UPDATE outbox_head SET position = position")
            with pytest.raises(Unavailable, match="lock timeout"):
                async with transaction(database) as tx:
                    await tx.execute("SET LOCAL lock_timeout = '50ms'")
                    await notes.save(tx, [notes.event(1, 1)])
        assert await stored(database) == ([], [])
        await notes.publish_notes(database, 1, 1)


async def test_a_transaction_that_takes_too_long_is_ended_while_it_publishes_and_did_nothing(
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


# Callers that go away


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
                async with asyncio.timeout(2):
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
                async with asyncio.timeout(2):
                    await committing
        async with asyncio.timeout(2):
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


# Databases that go away


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
                assert time.monotonic() - began < 1.2
        await eventually(lambda: _works(database))
        assert await stored(database) == ([1], [1])


async def test_it_is_said_why_no_connection_is_to_be_had_as_long_as_that_is_why(
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


async def test_who_waits_for_a_database_is_served_when_it_comes_back(notes_url: str) -> None:
    """And not only who asks for the first time after that."""
    async with opened(notes_url, size=3, timeout=15.0) as database:
        async with refusing(database, notes_url):
            waiting = asyncio.create_task(notes.publish_notes(database, 1, 1))
            # Longer than a pool goes on trying by itself.
            await asyncio.sleep(2.0)
            assert not waiting.done()
        async with asyncio.timeout(4):
            await waiting


async def test_connections_that_the_server_has_forgotten_fail_no_transaction(
    notes_url: str,
) -> None:
    """Not even when everybody finds such a one in his hands at the same moment."""
    async with opened(notes_url, size=6) as database:
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
            assert time.monotonic() - began < 2.0
        ids, positions = await stored(database)
        assert len(ids) == 240
        assert positions == list(range(1, 241))
