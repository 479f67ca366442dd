"""`shop rebuild` makes tables what the log says, while they are in use, and changes nothing else."""

import asyncio
import json
from pathlib import Path

import psycopg
import pytest

from eventspine import shadow_tables, staging
from tests.support.databases import Databases
from tests.support.living import Living, living, plant, shop


def rows(url: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


SHAPE = """
SELECT relname, relkind::text, pg_get_userbyid(relowner), relacl::text,
    (SELECT string_agg(pg_get_indexdef(indexrelid), ';' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid = c.oid),
    (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ';' ORDER BY conname)
        FROM pg_constraint WHERE conrelid = c.oid),
    (SELECT string_agg(pg_get_triggerdef(oid), ';' ORDER BY tgname) FROM pg_trigger
        WHERE tgrelid = c.oid AND NOT tgisinternal),
    (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attidentity::text,
        attcollation::text, attnotnull::text), ';' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S', 'i') ORDER BY 1
"""


def everything(url: str) -> dict[str, list[tuple[object, ...]]]:
    """The schema, and every table's rows; without stamps of changes."""
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        ).fetchall()
        found = {"": connection.execute(SHAPE).fetchall()}
        for (table,) in tables:
            if table in ("running_time", "outbox_marks"):
                continue
            columns = connection.execute(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
                " AND attname NOT IN ('changed_in', 'changed_ms', 'running_ms')",
                [table],
            ).fetchall()[0][0]
            found[table] = connection.execute(
                f"SELECT {columns} FROM {table} ORDER BY ROW({columns})::text".encode()
            ).fetchall()
        return found


def test_tables_that_are_right_stay_as_they_are(copied: Databases, tmp_path: Path) -> None:
    before = {name: everything(copied[name]) for name in ("users", "orders")}
    file = tmp_path / "differences"
    file.write_text("of an earlier run")
    for service in ("users", "orders"):
        for options in ([], ["--dry-run", "--differences", str(file)]):
            done = shop(copied, "rebuild", service, *options)
            assert done.exit_code == 0, done.output
            assert "every table is what the log says, so nothing was changed" in done.output
    assert file.read_text() == ""
    assert {name: everything(copied[name]) for name in before} == before
    assert rows(copied.orders, "SELECT FROM pg_namespace WHERE nspname = 'rebuild'") == []


ORDER_OF_NOBODY = (
    "INSERT INTO orders SELECT 99, user_id, product, quantity, total_price, status, version, placed_at"
    " FROM orders WHERE id = 1"
)


@pytest.mark.parametrize(
    ("service", "table", "damage"),
    [
        ("orders", "customers", "DELETE FROM customers WHERE id = 3"),
        ("orders", "customers", "UPDATE customers SET name = 'Eve', version = 9 WHERE id = 4"),
        ("orders", "orders", "UPDATE orders SET quantity = 7 WHERE id % 2 = 0"),
        ("users", "users", "UPDATE users SET name = 'Eve' WHERE id = 2"),
        ("users", "orders", ORDER_OF_NOBODY),
    ],
)  # fmt: skip
def test_a_damaged_table_is_compared_then_replaced(
    copied: Databases, tmp_path: Path, service: str, table: str, damage: str
) -> None:
    url = copied[service]
    before = everything(url)
    plant(url, damage)
    damaged = everything(url)
    assert shop(copied, "audit", service).exit_code == 1
    tried = shop(copied, "rebuild", service, "--dry-run")
    assert tried.exit_code == 1
    assert "nothing was changed (--dry-run)" in tried.output
    assert everything(url) == damaged
    file = tmp_path / "differences"
    done = shop(copied, "rebuild", service, table, "--differences", str(file))
    assert done.exit_code == 0, done.output
    assert "the tables were replaced: readers and writers waited" in done.output
    differences = [json.loads(line) for line in file.read_text().splitlines()]
    assert {each["table"] for each in differences} == {table}
    assert len(differences) == sum(a != b for a, b in zip(*aligned(before, damaged, table), strict=True))  # fmt: skip
    after = everything(url)
    assert [pair for pair in zip(before[""], after[""], strict=True) if pair[0] != pair[1]] == []
    assert after == before
    assert shop(copied, "audit", service).exit_code == 0


def aligned(
    before: dict[str, list[tuple[object, ...]]], after: dict[str, list[tuple[object, ...]]], table: str
) -> tuple[list[object], list[object]]:  # fmt: skip
    keys = sorted({row[0] for row in (*before[table], *after[table])})  # type: ignore[type-var]
    sides = [{row[0]: row for row in side[table]} for side in (before, after)]
    return [sides[0].get(key) for key in keys], [sides[1].get(key) for key in keys]


def test_what_was_parked_stays_out_and_what_was_retried_is_in(copied: Databases) -> None:
    """It would be applied a second time when it is retried."""
    head = rows(copied.users, "SELECT position, key, type FROM outbox WHERE type = 'user.updated' ORDER BY 1 DESC LIMIT 1")  # fmt: skip
    [(position, key, _)] = head
    # As if this update had failed: the copy is a version behind, and the event is parked.
    plant(
        copied.orders,
        f"UPDATE customers SET version = version - 1, name = 'U {key}!' WHERE id = {key}",
        'INSERT INTO parked (consumer, topic, partition, "offset", position, key, headers, holds_key,'
        f" cause, error) VALUES ('orders', 'users', 0, {position} - 1, {position}, '{key}', '{{}}', true, '', '')",
    )
    before = rows(copied.orders, f"SELECT name, version FROM customers WHERE id = {key}")
    plant(copied.orders, "DELETE FROM customers WHERE id = 7")
    done = shop(copied, "rebuild", "orders", "customers")
    assert done.exit_code == 0, done.output
    assert rows(copied.orders, f"SELECT version FROM customers WHERE id = {key}") == [
        (before[0][1],)
    ]
    plant(copied.orders, "DELETE FROM parked")
    done = shop(copied, "rebuild", "orders", "customers")
    assert f"customers {key} differs: name is" in done.output
    assert shop(copied, "audit", "orders").exit_code == 0


async def test_events_that_come_between_are_applied_whatever_moves(
    copied: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between all of its steps others write, and two users exchange their addresses."""

    plant(copied.orders, "UPDATE customers SET name = '' WHERE id < 5")
    plant(copied.users, "UPDATE users SET name = 'X' WHERE id = 9")
    take = staging.Staging.take

    async def and_write(self: staging.Staging, *given: object, **more: object) -> dict[str, int]:
        if self.turn in (1, 2):
            async with living(copied) as system, system.moving():
                await disturb(system, self.turn)
        return await take(self, *given, **more)  # type: ignore[arg-type]

    async def disturb(system: Living, turn: int) -> None:
        await system.create(3)
        await system.update(1, 2, 3)
        await system.settled("orders")
        await system.place(1, 2, 3)
        await system.erase(10 + turn)
        await system.settled()

    async def write_and_lock(*given: object) -> None:
        """Who writes in the last moment, consumers waiting already, is not forgotten either."""
        async with living(copied) as system:
            await system.create(2)
            await system.place(1, 2)
        await lock(*given)  # type: ignore[arg-type]

    lock = shadow_tables.lock
    monkeypatch.setattr(shadow_tables, "lock", write_and_lock)
    monkeypatch.setattr(staging.Staging, "take", and_write)
    from eventspine.rebuilding import Rebuild
    from eventspine.recomputing import tables_of
    from shop.cli.rebuild_report import source_of
    from shop.platform import discovery

    async def scenario(name: str) -> None:
        service = discovery.load(name)
        async with living(copied) as system:
            rebuild = Rebuild(
                copied[name], system.log, source_of(service), tables_of(service.projections),
                lambda *_: None,
            )  # fmt: skip
            async with rebuild.prepared():
                await rebuild.compare()
                assert rebuild.result.differ
                async with system.moving():
                    await disturb(system, 3)
                await rebuild.swap()

    for name in ("orders", "users"):
        await scenario(name)
    async with living(copied) as system, system.moving():
        await system.settled()
    audited = await asyncio.to_thread(shop, copied, "audit")
    assert audited.exit_code == 0, audited.output


def test_what_cannot_be_done_is_said_in_one_sentence(copied: Databases) -> None:
    assert "it declares: orders, customers" in shop(copied, "rebuild", "orders", "nothing").output
    plant(copied.orders, "CREATE VIEW known AS SELECT id FROM customers")
    done = shop(copied, "rebuild", "orders")
    assert done.exit_code == 2
    assert "the table customers can't be replaced, since this depends on it" in done.output
    plant(copied.orders, "DROP VIEW known", "ALTER TABLE orders ADD COLUMN gift boolean")
    done = shop(copied, "rebuild", "orders")
    assert "no declaration of the table orders says what gift must be" in done.output
    assert done.exit_code == 2
    nowhere = shop(copied, "rebuild", "orders", "--differences", "/nowhere/differences")
    assert nowhere.exit_code == 2
    assert (
        "--differences /nowhere/differences: cannot write it: No such file or directory; name another file"
        in nowhere.output
    )
