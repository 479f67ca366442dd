"""What is pruned is old, relayed, and missed by nobody."""

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from eventspine import pruning
from eventspine.database import Database
from eventspine.outbox import transaction
from eventspine.pruning import Pruner
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.spine import opened
from tests.support.waiting import eventually

DAY = 24 * 3600.0


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_CHUNK", 10)
    monkeypatch.setattr(pruning, "_PAUSE", 0.0)


def pruner(database: Database) -> Pruner:
    return Pruner(database, outbox_seconds=DAY, key_seconds=DAY, parked_seconds=DAY)


async def relayed_to(database: Database, position: int) -> None:
    async with transaction(database) as tx:
        await tx.execute("INSERT INTO relay VALUES ('/notes', %(p)s, 1)", {"p": position})


async def grow_old(database: Database, last: int, seconds: float = 2 * DAY) -> None:
    """All up to this position is that old: it was there when so much less time had been counted."""
    async with transaction(database) as tx:
        await tx.execute(
            "INSERT INTO outbox_marks SELECT %(last)s, ms - 1000 * %(seconds)s FROM running_time",
            {"seconds": seconds, "last": last},
        )


async def outbox(database: Database) -> list[int]:
    rows = await database.fetch("SELECT position FROM outbox ORDER BY 1")
    return [position for (position,) in rows]


@pytest.mark.parametrize(
    ("relayed", "old", "left"),
    [
        (None, 100, 1),  # no relay has ever led
        (0, 100, 1),
        (37, 100, 38),  # all are old, and not all are relayed
        (100, 37, 38),  # all are relayed, and not all are old
        (100, 0, 1),
        (40, 40, 41),  # whole chunks
        (100, 100, 101),
    ],
)
async def test_events_are_pruned_only_if_relayed_and_past_their_retention(
    notes_url: str, relayed: int | None, old: int, left: int
) -> None:
    async with opened(notes_url) as database:
        await notes.publish_notes(database, 1, 100)
        await grow_old(database, old)
        await grow_old(database, 101, DAY - 60)
        if relayed is not None:
            await relayed_to(database, relayed)
        assert await pruner(database).prune() == (left - 1, 0, 0)
        assert await outbox(database) == list(range(left, 101))
        assert await pruner(database).prune() == (0, 0, 0)


async def test_each_chunk_is_a_transaction_of_its_own(notes_url: str) -> None:
    async with opened(notes_url) as database:
        await notes.publish_notes(database, 1, 95)
        await grow_old(database, 95)
        await relayed_to(database, 95)
        with psycopg.connect(notes_url, autocommit=True) as admin:
            admin.execute(
                """
                    CREATE TABLE chunks (xid text, gone bigint);
                    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        INSERT INTO chunks SELECT pg_current_xact_id()::text, count(*) FROM gone;
                        RETURN NULL;
                    END $$;
                    CREATE TRIGGER notes AFTER DELETE ON outbox REFERENCING OLD TABLE AS gone
                    FOR EACH STATEMENT EXECUTE FUNCTION note();
                    """
            )
        assert await pruner(database).prune() == (95, 0, 0)
        chunks = await database.fetch("SELECT gone FROM chunks ORDER BY xid::xid8")
        assert [gone for (gone,) in chunks] == [10] * 9 + [5]
        assert await database.fetch("SELECT count(DISTINCT xid) FROM chunks") == [(10,)]


async def test_two_requests_with_one_key_do_it_once_and_keep_no_other_waiting(
    notes_url: str,
) -> None:
    async with opened(notes_url) as database:
        await notes.publish_notes(database, 1, 500)
        await grow_old(database, 480)
        await relayed_to(database, 500)
        async with transaction(database) as busy:
            # Another's chunk is under way.
            await busy.execute(pruning._LOCK)
            async with asyncio.timeout(30):
                assert await pruner(database).prune() == (0, 0, 0)
        rounds = await asyncio.gather(*(pruner(database).prune() for _ in range(4)))
        assert sum(gone.outbox for gone in rounds) <= 480
        await pruner(database).prune()
        assert await outbox(database) == list(range(481, 501))


async def test_idempotency_keys_expire_and_not_sooner(notes_url: str) -> None:
    async with opened(notes_url) as database:
        async with transaction(database) as tx:
            await tx.execute(
                """
                    INSERT INTO idempotency_keys
                    SELECT int4send(n), 'f', 201, '[]', '', now(), NULL,
                        -1000 * (86400 + %(margin)s + CASE WHEN n <= 33 THEN 0 ELSE -1 END)
                    FROM generate_series(1, 45) AS n
                    """,
                {"margin": int(pruning.KEY_MARGIN)},
            )
        assert await pruner(database).prune() == (0, 33, 0)
        keys = await database.fetch("SELECT key_hash FROM idempotency_keys ORDER BY 1")
        assert keys == [(n.to_bytes(4, "big"),) for n in range(34, 46)]


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(
    "statement", [pruning._PRUNE_OUTBOX, pruning._PRUNE_KEYS, pruning._PRUNE_PARKED]
)
def test_a_chunk_is_found_by_an_index_whatever_plan_is_taken(
    notes_url: str, statement: str, plan: str
) -> None:
    with psycopg.connect(notes_url, autocommit=True) as connection:
        connection.execute(
            """
            INSERT INTO relay VALUES ('/notes', 50000, 1);
            INSERT INTO outbox
            SELECT n, 'notes', n, 'note.taken', 1, 1, '2026-01-01'::timestamptz + n * interval '1 s',
                '{}' FROM generate_series(1, 50000) AS n;
            INSERT INTO outbox_marks SELECT 500 * n, n FROM generate_series(1, 100) AS n;
            INSERT INTO idempotency_keys
            SELECT int4send(n), 'f', 201, '[]', '', now(), NULL, n
            FROM generate_series(1, 50000) AS n;
            INSERT INTO parked
            SELECT 'copy', 'notes', 0, n, 0, n, '{}', '', false, 'E', 'why', 1, now(), n
            FROM generate_series(1, 50000) AS n;
            ANALYZE;
            """
        )
        named = statement.replace("%(chunk)s", "$1").replace("%(before)s", "$2")
        connection.execute(f"PREPARE prune (bigint, bigint) AS {named}")
        connection.execute(f"SET plan_cache_mode = {plan}")
        lines = connection.execute("EXPLAIN EXECUTE prune (500, 30000)").fetchall()
    explained = "\n".join(line for (line,) in lines)
    assert "Seq Scan on outbox" not in explained, explained
    assert "Seq Scan on idempotency_keys" not in explained, explained
    assert "Seq Scan on parked" not in explained, explained


def test_looking_for_old_keys_stays_cheap_once_their_pages_are_used_again(notes_url: str) -> None:
    with psycopg.connect(notes_url, autocommit=True) as connection:

        def store(running_ms: int) -> None:
            connection.execute(
                "INSERT INTO idempotency_keys SELECT uuid_send(gen_random_uuid()), 'f', 201, '[]', '',"
                " now(), NULL, %(running_ms)s FROM generate_series(1, 20000)",
                {"running_ms": running_ms},
            )
            connection.execute("VACUUM ANALYZE idempotency_keys")

        store(-1)
        connection.execute("DELETE FROM idempotency_keys")
        connection.execute("VACUUM idempotency_keys")
        store(1)
        (plan,) = connection.execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) " + pruning._PRUNE_KEYS,
            {"chunk": 500, "before": 0},
        ).fetchone() or ([],)
        assert plan[0]["Plan"]["Shared Hit Blocks"] < 20


def test_rows_kept_for_a_short_time_are_pruned_often(notes_url: str) -> None:
    def every(outbox: float, keys: float, parked: float) -> float:
        return Pruner(
            Database(notes_url), outbox_seconds=outbox, key_seconds=keys, parked_seconds=parked
        )._every

    assert every(7 * DAY, DAY, 30 * DAY) == 30
    assert every(60, DAY, DAY) == 6
    assert every(DAY, 60, DAY) == 6
    assert every(DAY, DAY, 60) == 6
    assert every(0, DAY, DAY) == 1


PARKED = """
INSERT INTO parked
SELECT 'copy', 'notes', 0, n, CASE WHEN ours THEN n ELSE 0 END, n::text, '{}', '', ours, 'E', 'why',
    1, now(), -1000 * age
FROM (VALUES (1, 35, true, 31536000::bigint), (101, 135, false, 86400), (201, 220, false, 86399))
    AS of(first, last, ours, age), generate_series(first, last) AS n
"""


async def still_parked(database: Database) -> list[int]:
    rows = await database.fetch('SELECT "offset" FROM parked ORDER BY 1')
    return [offset for (offset,) in rows]


async def test_parked_records_are_pruned_only_if_old_and_without_a_held_key(notes_url: str) -> None:
    async with opened(notes_url) as database:
        async with transaction(database) as tx:
            await tx.execute(PARKED)
        assert await pruner(database).prune() == (0, 0, 35)
        assert await still_parked(database) == [*range(1, 36), *range(201, 221)]
        assert await pruner(database).prune() == (0, 0, 0)


async def test_a_record_that_is_being_retried_is_not_pruned_and_not_waited_for(
    notes_url: str,
) -> None:
    async with opened(notes_url) as database:
        async with transaction(database) as tx:
            await tx.execute(PARKED)
        async with transaction(database) as busy:
            await busy.execute('UPDATE parked SET attempts = 2 WHERE "offset" = 105')
            async with asyncio.timeout(60):
                gone = await pruner(database).prune()
            assert gone.parked == 34
        assert 105 in await still_parked(database)
        assert (await pruner(database).prune()).parked == 1


async def test_every_event_arrives_once_while_writers_relay_and_pruner_run(
    notes_url: str, new_notes: Callable[[], str]
) -> None:
    """With no retention at all: what is relayed goes at once."""

    async def arrived(copy: Database, count: int) -> bool:
        return await copy.fetch("SELECT count(*) FROM applied") == [(count,)]

    copy_url = new_notes()
    async with opened(notes_url) as database, opened(copy_url) as copy:
        log = MemoryLog()
        greedy = Pruner(database, outbox_seconds=0, key_seconds=DAY, parked_seconds=DAY)

        async def prune() -> None:
            while True:
                await greedy.prune()
                await asyncio.sleep(0)

        async def prunes_to_nothing() -> bool:
            return await outbox(database) == []

        relay = notes.relay(notes_url, log, batch=7)
        consumer = notes.consumer(copy, log)
        async with notes.Running(relay.run(), consumer.run(), prune(), prune()):
            for n in range(40):
                await notes.publish_notes(database, 10 * n + 1, 10 * n + 10)
            await eventually(prunes_to_nothing)
            await eventually(lambda: arrived(copy, 400))
        # A relay that starts again finds its place though the outbox is empty.
        async with notes.Running(notes.relay(notes_url, log).run(), consumer.run()):
            await notes.publish_notes(database, 401, 410)
            await eventually(lambda: arrived(copy, 410))
        await notes.assert_copied(copy, *(notes.event(id_, 1) for id_ in range(1, 411)))
        assert await notes.positions_in(log) == [list(range(1, 411))]


async def test_a_pruner_waits_for_a_database_that_is_away(notes_url: str) -> None:
    async def has_failed(pruner: Pruner) -> bool:
        return pruner._backoff._failures > 0

    async def is_empty(database: Database) -> bool:
        return await outbox(database) == []

    async with opened(notes_url) as database:
        await notes.publish_notes(database, 1, 5)
        await grow_old(database, 5)
        await relayed_to(database, 5)
        with psycopg.connect(notes_url, autocommit=True) as admin:
            admin.execute("ALTER TABLE outbox RENAME TO elsewhere")
            waiting = pruner(database)
            async with notes.Running(waiting.run()):
                await eventually(lambda: has_failed(waiting))
                admin.execute("ALTER TABLE elsewhere RENAME TO outbox")
                await eventually(lambda: is_empty(database))
