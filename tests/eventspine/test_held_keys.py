"""What is parked costs those that go on next to nothing, however much it is."""

import psycopg
import pytest

from eventspine import dead_letters
from eventspine.outbox import transaction
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.notes import TOPIC
from tests.support.parking import Copy, has_parked, parked, put
from tests.support.spine import opened

PARKED = """
INSERT INTO parked
SELECT 'copy', 'notes', 0, n, n, (n %% 10)::text, '{}', '', n > 1000, 'ValueError', 'why'
FROM generate_series(1, %(count)s) AS n
"""


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("analyzed", [True, False])
def test_which_keys_are_held_is_found_without_reading_what_is_behind_them(
    notes_url: str, plan: str, analyzed: bool
) -> None:
    with psycopg.connect(notes_url, autocommit=True) as connection:
        connection.execute(PARKED, {"count": 30_000})
        if analyzed:
            connection.execute("VACUUM ANALYZE parked")
        named = dead_letters._HELD.replace("%(consumer)s", "$1")
        connection.execute(f"PREPARE held (text) AS {named}")
        connection.execute(f"SET plan_cache_mode = {plan}")
        found = connection.execute("EXECUTE held ('copy')").fetchall()
        assert sorted(found) == [("notes", str(n)) for n in range(10)]
        (explained,) = connection.execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) EXECUTE held ('copy')"
        ).fetchone() or ([],)
        # Three pages of the index and one of the table, for each key.
        assert explained[0]["Plan"]["Shared Hit Blocks"] < 100, explained


@pytest.mark.parametrize("query", [dead_letters._NEXT, dead_letters._LEFT])
def test_a_keys_parked_events_are_found_without_reading_the_others(
    notes_url: str, query: str
) -> None:
    with psycopg.connect(notes_url, autocommit=True) as connection:
        connection.execute(PARKED, {"count": 30_000})
        connection.execute(b"UPDATE parked SET key = 'mine' WHERE position % 10000 = 7")
        connection.execute("VACUUM ANALYZE parked")
        of_mine = {
            "consumer": "copy", "topic": "notes", "key": "mine", "chunk": 500,
            "position": -1, "partition": 0, "offset": 0,
        }  # fmt: skip
        (explained,) = connection.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {query}", of_mine
        ).fetchone() or ([],)
        assert explained[0]["Plan"]["Shared Hit Blocks"] < 20, explained


async def test_an_odd_key_holds_up_that_key_and_no_other(copy_url: str) -> None:
    async with opened(copy_url) as database:
        keys = [None, "", "0", "a", "b", "'", "x" * 100_000]
        for n, key in enumerate(keys):
            async with transaction(database) as tx:
                for topic, consumer in (("notes", "copy"), ("others", "another")):
                    await tx.execute(
                        "INSERT INTO parked VALUES (%(consumer)s, %(topic)s, 0, %(n)s, %(n)s,"
                        " %(key)s, '{}', '', %(holds)s, 'E', 'why')",
                        {
                            "consumer": consumer, "topic": topic, "n": n, "key": key,
                            "holds": key != "b",
                        },
                    )  # fmt: skip
        async with transaction(database) as tx:
            held = await dead_letters.held_keys(tx, "copy")
            assert await dead_letters.held_keys(tx, "nobody") == set()
        assert held == {(TOPIC, key) for key in keys if key != "b"}


@pytest.mark.parametrize(("at_once", "statements"), [(2**24, 1), (1, 50)])
async def test_a_batch_is_parked_in_one_statement_or_a_few_where_it_is_huge(
    copy_url: str, monkeypatch: pytest.MonkeyPatch, at_once: int, statements: int
) -> None:
    monkeypatch.setattr(dead_letters, "_AT_ONCE", at_once)
    with psycopg.connect(copy_url, autocommit=True) as admin:
        admin.execute(
            """
            CREATE TABLE statements (parked bigint);
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO statements SELECT count(*) FROM new; RETURN NULL;
            END $$;
            CREATE TRIGGER notes AFTER INSERT ON parked REFERENCING NEW TABLE AS new
            FOR EACH STATEMENT EXECUTE FUNCTION note();
            """
        )
    async with opened(copy_url) as database:
        log, copy = MemoryLog(), Copy()
        put(log, *(notes.event(1, version) for version in range(1, 51)))
        with psycopg.connect(copy_url, autocommit=True) as admin:
            admin.execute(
                "INSERT INTO parked VALUES"
                " ('copy', 'notes', 9, 9, 9, '1', '{}', NULL, true, 'E', 'why')"
            )
        await copy.consumer(database, log).apply(log.partitions[0])
        assert await has_parked(database, 51)
        counts = [n for (n,) in await database.fetch("TABLE statements")]
        assert sum(counts) == 51
        assert len(counts) == 1 + statements
        values = [each.value for each in await parked(database) if each.partition == 0]
        assert values == [record.value for record in log.partitions[0]]
