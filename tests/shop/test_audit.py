"""`shop audit` says that all is well if and only if it is, and what is not."""

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

import pytest

from eventspine import postgres_log
from eventspine.pruning import Pruner
from tests.support.databases import Databases, NewDatabase
from tests.support.living import Living, impatient, living, plant, settings, shop
from tests.support.shop import run_shop
from tests.support.waiting import eventually

HOLDS = "No event is lost, and none was applied twice"


def verdict(urls: Databases, status: int) -> dict[str, Any]:
    result = shop(urls, "audit", "--json")
    assert result.exit_code == status, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["holds"] == (status == 0)
    return found


def problems(found: dict[str, Any]) -> list[str]:
    return [problem for section in found["sections"] for problem in section["problems"]]


def facts(found: dict[str, Any], title: str) -> dict[str, int]:
    (section,) = [section for section in found["sections"] if section["title"] == title]
    assert section["holds"]
    of: dict[str, int] = section["facts"]
    return of


# All is well


def test_the_audit_of_a_system_at_rest_finds_that_everything_holds(copied: Databases) -> None:
    result = shop(copied, "audit")
    assert result.exit_code == 0, result.output
    assert HOLDS in result.stdout
    found = verdict(copied, 0)
    assert facts(found, "users: events in topic users") == {
        "published": 26, "relayed": 26, "in_log": 26, "repeats": 0, "not_events": 0
    }  # fmt: skip
    assert (
        facts(found, "orders: table customers is the latest version of every key in topic users")[
            "rows"
        ]
        == 20
    )
    assert (
        facts(found, "users: table orders is the latest version of every key in topic orders")[
            "rows"
        ]
        == 22
    )
    assert facts(found, "orders: checkpoints on topic users")["behind"] == 0
    one = shop(copied, "audit", "orders", "--json")
    titles = [section["title"] for section in json.loads(one.stdout)["sections"]]
    assert titles and all(title.startswith("orders: ") for title in titles)


def test_a_pattern_chooses_what_is_printed_and_not_the_verdict(copied: Databases) -> None:
    plant(copied.orders, "UPDATE customers SET name = 'X' WHERE id = 2")
    result = shop(copied, "audit", "--grep", "checkpoints", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert not found["holds"]
    assert found["sections"]
    assert all("checkpoints" in each["title"] for each in found["sections"])
    shown = shop(copied, "audit", "--grep", "name is 'X'").stdout
    assert "differs: name is 'X' and must be" in shown
    assert "checkpoints" not in shown


async def test_the_audit_of_a_working_system_finds_that_everything_holds(
    databases: Databases,
) -> None:
    async def write(system: Living) -> None:
        dice = random.Random(7)
        while True:
            await system.create(5)
            await system.update(*dice.sample(range(1, 6), 3))
            known = await system.orders.fetch("SELECT id FROM customers WHERE NOT erased")
            if known:
                await system.place(*(dice.choice(known)[0] for _ in range(8)))
                await system.cancel(*(dice.randint(1, 30) for _ in range(2)))
            await asyncio.sleep(0.05)  # or the audit has to share its processors

    async with living(databases) as system:
        greedy = [
            Pruner(database, outbox_seconds=0, key_seconds=60, parked_seconds=60)
            for database in (system.users, system.orders)
        ]
        async with system.moving(), system.moving("users relay", "orders consumer"):
            tasks = [asyncio.create_task(write(system))]
            tasks += [asyncio.create_task(pruner.run()) for pruner in greedy]
            for _ in range(2):
                result = await asyncio.to_thread(
                    run_shop, "audit", "--data", "/nowhere", timeout=120, **settings(databases)
                )
                assert result.returncode == 0, result.stdout + result.stderr
                for pruner in greedy:
                    await pruner.prune()
            for task in tasks:
                assert not task.done(), task.exception()
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await system.settled()
        assert system.users_created > 50
    found = await asyncio.to_thread(verdict, databases, 0)
    assert facts(found, "orders: checkpoints on topic users")["behind"] == 0


async def test_events_not_yet_relayed_or_applied_are_no_fault(copied: Databases) -> None:
    async with living(copied) as system:
        await system.create(2)
        await system.update(4)
        async with system.moving("users relay"):
            # Not by the log's end: the relay saves its position after that.
            await eventually(lambda: system.users.fetch("SELECT FROM relay WHERE position = 29"))
        await system.create(1)
        await system.update(5)
    found = await asyncio.to_thread(verdict, copied, 0)
    of = facts(found, "users: events in topic users")
    assert (of["published"], of["relayed"]) == (31, 29)
    assert facts(found, "orders: checkpoints on topic users")["behind"] == 3


# The log of these tests has one partition, so a position's offset is one less.
REPEAT = """
    INSERT INTO log_records SELECT topic, partition, "offset" + 16, key, value, headers, now()
    FROM log_records WHERE topic = 'users' AND "offset" >= 10
"""
MORE = "UPDATE log_heads SET next_offset = next_offset + {} WHERE topic = '{}'"


async def test_repeats_are_counted_and_fine(copied: Databases) -> None:
    plant(copied.log, REPEAT, MORE.format(16, "users"))
    of = facts(await asyncio.to_thread(verdict, copied, 0), "users: events in topic users")
    assert (of["in_log"], of["repeats"]) == (26, 16)
    await settle(copied)
    found = await asyncio.to_thread(verdict, copied, 0)
    assert facts(found, "orders: checkpoints on topic users")["behind"] == 0


async def settle(urls: Databases) -> None:
    async with living(urls) as system, system.moving():
        await system.settled()


def stranger(offset: int, value: str, headers: str, topic: str = "users") -> tuple[str, str]:
    return (
        f"INSERT INTO log_records VALUES ('{topic}', 0, {offset}, '1', '{value}', '{headers}')",
        MORE.format(1, topic),
    )


OTHERS = '{"ce_id": "999999", "ce_source": "/others", "ce_type": "user.created"}'


def ours(position: int) -> str:
    """Headers of an event of the user service; whoever forges one writes just that."""
    return OTHERS.replace("/others", "/users").replace("999999", str(position))


@pytest.mark.parametrize("position", [1, 3, 26])
async def test_a_record_taken_for_a_repeat_changes_nothing_whatever_it_says(
    copied: Databases, position: int
) -> None:
    forged = (
        '{"id": 1, "version": 9, "email": "f@example.com", "name": "Forged",'
        ' "created_at": "2026-01-01T00:00:00Z"}'
    )
    plant(copied.log, *stranger(26, forged, ours(position)))
    await settle(copied)
    of = facts(await asyncio.to_thread(verdict, copied, 0), "users: events in topic users")
    assert of["repeats"] == 1


async def test_foreign_records_are_counted_and_named_and_change_nothing_else(
    copied: Databases,
) -> None:
    others = '{"id": 1, "version": 99, "email": "x", "name": "x"}'
    plant(copied.log, *stranger(26, others, OTHERS), *stranger(27, "hello", "{}"))
    await settle(copied)
    found = await asyncio.to_thread(verdict, copied, 1)
    readers = ("orders", "greetings")
    assert len(problems(found)) == 2 * len(readers)
    for problem in problems(found):
        assert problem.startswith("foreign record (key 1, users/0@2")
    assert facts(found, "users: events in topic users")["not_events"] == 2
    for reader in readers:
        assert (
            await asyncio.to_thread(
                shop, copied, "parked", "discard", reader, "--cause", "not an event"
            )
        ).exit_code == 0
    await asyncio.to_thread(verdict, copied, 0)


# All is not well


def of_users(position: int) -> str:
    return f"topic = 'users' AND \"offset\" = {position - 1}"


LAST_USERS = """UPDATE log_heads SET next_offset = next_offset - 1 WHERE topic = 'users'"""

FAULTS: dict[str, tuple[str, list[str], list[str]]] = {
    "a deleted row": (
        "orders", ["DELETE FROM orders WHERE id = 3"], ["orders 3 is missing; the log says"],
    ),
    "a deleted row of a copy": (
        "users", ["DELETE FROM orders WHERE id = 3"], ["orders 3 is missing; the log says"],
    ),
    "a changed amount": (
        "orders",
        ["UPDATE orders SET total_price = 1.51 WHERE id = 4"],
        ["orders 4 differs: total_price is 1.51 and must be 1.5"],
    ),
    "an extra row": (
        "orders",
        ["INSERT INTO customers VALUES (999, 'a@example.com', 'A', 1, false)"],
        ["customers 999 is in the table but not in the log"],
    ),
    "an erased person who is back": (
        "users",
        ["UPDATE users SET email = 'a@b.c', name = 'A', erased_at = NULL WHERE id = 20"],
        ["users 20 differs: name is 'A' and must be None, email is 'a@b.c' and must be None"],
    ),
    "a copy one version behind": (
        "orders",
        ["UPDATE customers SET version = 1, name = 'U 2' WHERE id = 2"],
        ["customers 2 differs: ", "version is 1 and must be 2", "name is 'U 2' and must be 'U 2!'"],
    ),
    "a record gone from the middle of the log": (
        "log", [f"DELETE FROM log_records WHERE {of_users(7)}"],
        ["position 7 is missing from topic users"],
    ),
    "records gone from the end of the log": (
        "log", [f"DELETE FROM log_records WHERE {of_users(25)} OR {of_users(26)}"],
        ["positions 25 to 26 are missing from topic users"],
    ),
    "a log that lost its end, and forgot it": (
        "log", [f"DELETE FROM log_records WHERE {of_users(26)}", LAST_USERS],
        ["position 26 is missing from topic users",
         "the checkpoint of users/0 is at offset 26 but the log ends at 25: the log has lost records"],
    ),
    "a whole log gone": (
        "log", ["DELETE FROM log_records"],
        ["positions 1 to 26 are missing", "positions 1 to 25 are missing"],
    ),
    "a cursor moved back": (
        "orders", ["UPDATE cursors SET next_offset = next_offset - 2"],
        ["the checkpoint of users/0 says that position 26 was applied last, but before its offset 24"],
    ),
    "a cursor moved back with its position": (
        "orders",
        ["UPDATE cursors SET next_offset = next_offset - 2, last_position = last_position - 2"],
        ["customers 19 differs", "customers 20 differs"],
    ),
    "a position moved by hand": (
        "orders", ["UPDATE cursors SET last_position = last_position + 1"],
        ["the checkpoint of users/0 says that position 27 was applied last, but before its offset 26"],
    ),
    "a cursor moved beyond the log": (
        "orders", ["UPDATE cursors SET next_offset = next_offset + 5"],
        ["the checkpoint of users/0 is at offset 31 but the log ends at 26"],
    ),
    "a parked event": (
        "users",
        ["INSERT INTO parked VALUES ('users', 'orders', 0, 24, 25, '9', '{}', '', true, 'E', 'why')"],
        ["position 25 of topic orders (key 9, orders/0@24) is parked: why"],
    ),
    "a database behind its log": (
        "users", ["UPDATE outbox_head SET position = 20"],
        ["topic users holds position 26 but the database has only given out 20"],
    ),
    "values that no column can hold": (
        "log",
        ["""UPDATE log_records SET value = replace(value, '"quantity": 2', '"quantity": 9999999999')
            WHERE topic = 'orders' AND "offset" = 3"""],
        ["orders: table orders is the latest version of every key in topic orders",
         'topic orders holds values that no column of orders can hold (value "9999999999" is out',
         "orders 4 is in the table but not in the log"],
    ),
    "a skipped version": (
        "log",
        [f"""UPDATE log_records SET value = replace(value, '"version": 2', '"version": 4')
             WHERE {of_users(22)}"""],
        ["key 2: version 4 follows version 1 in topic users"],
    ),
    "a forged position": (
        "log",
        [*stranger(26, "{}", ours(2**63 - 1))],
        ["topic users holds position 9223372036854775807 but the database has only given out 26"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_named(copied: Databases, fault: str) -> None:
    where, statements, said = FAULTS[fault]
    plant(getattr(copied, where), *statements)
    result = shop(copied, "audit")
    assert result.exit_code == 1, result.output
    for words in said:
        assert words in result.stdout, result.stdout
    assert HOLDS not in result.stdout
    assert "problem(s) found" in result.stdout
    assert result.stdout.count("\n    ") == len(problems(verdict(copied, 1)))


async def test_a_cursor_moved_forward_over_what_was_not_applied_is_found(copied: Databases) -> None:
    await test_events_not_yet_relayed_or_applied_are_no_fault(copied)
    plant(copied.orders, "UPDATE cursors SET next_offset = next_offset + 2")
    assert (
        "before its offset 28 the log's highest is 28"
        in problems(await asyncio.to_thread(verdict, copied, 1))[0]
    )
    plant(copied.orders, "UPDATE cursors SET last_position = last_position + 2")
    found = problems(await asyncio.to_thread(verdict, copied, 1))
    assert [problem.partition(";")[0] for problem in found] == [
        "customers 21 is missing", "customers 22 is missing"
    ]  # fmt: skip


ODD_VALUES = [
    "", "{", "[1]", "null", '"x"', "{}", '{"id": "x", "version": 1}', '{"id": 1, "version": "x"}',
    '{"id": 1, "version": 9223372036854775808}', '{"id": {}, "version": []}',
    '{"id": 1, "version": 9, "name": "\\u0000"}', '{"id": 1, "version": 9, "name": "\\ud800"}',
]  # fmt: skip


def test_an_unreadable_record_does_not_prevent_a_verdict(copied: Databases) -> None:
    for offset, value in enumerate(ODD_VALUES, start=26):
        plant(copied.log, *stranger(offset, value, ours(offset + 1)))
    last = 26 + len(ODD_VALUES)
    plant(copied.users, f"UPDATE outbox_head SET position = {last}")
    plant(copied.orders, f"UPDATE cursors SET next_offset = {last}, last_position = {last}")
    of = facts(verdict(copied, 0), "users: events in topic users")
    assert of["in_log"] == last


async def test_a_discarded_event_that_could_not_be_understood_is_no_reason_either(
    copied: Databases,
) -> None:
    async with living(copied) as system:
        await system.create(1)
        async with system.moving("users relay"):
            await eventually(lambda: system.users.fetch("SELECT FROM relay WHERE position = 27"))
        plant(
            copied.log,
            f"UPDATE log_records SET value = replace(value, '\"U 21\"', '\"{'x' * 201}\"')"
            f" WHERE {of_users(27)}",
        )
        async with system.moving("orders consumer"):
            await system.settled("orders")
    listed = (await asyncio.to_thread(shop, copied, "parked", "list", "orders")).stdout
    assert (
        "not an event: its data is not a user.created: name: String should have at most" in listed
    )
    assert (
        await asyncio.to_thread(shop, copied, "parked", "discard", "orders", "--key", "21")
    ).exit_code == 0
    (said,) = problems(await asyncio.to_thread(verdict, copied, 1))
    assert said.startswith("users 21 differs: name is 'U 21' and must be 'xxx")


async def test_an_invented_position_is_named_with_the_records_it_made_readers_drop(
    copied: Databases,
) -> None:
    plant(copied.log, *stranger(26, '{"id": 1}', ours(10**18)))
    async with living(copied) as system:
        async with system.moving("orders consumer"):
            await until_read(system, 27)
        await system.create(2)
        rows = await system.users.fetch(
            "SELECT position, time, data::text FROM outbox WHERE position > 26 ORDER BY 1"
        )
        for position, time, data in rows:
            # As a relay appends that was leading already: a new one refuses this log.
            headers = {"ce_id": str(position), "ce_source": "/users"}
            headers |= {"ce_type": "user.created", "ce_time": time.isoformat()}
            plant(copied.log, *stranger(position, data, json.dumps(headers)))
        plant(copied.users, "UPDATE relay SET position = 28")
        async with system.moving("orders consumer"):
            await until_read(system, 29)
    found = problems(await asyncio.to_thread(verdict, copied, 1))
    said = [problem.partition(":")[0] for problem in found]
    assert f"topic users holds position {10**18} but the database has only given out 28" in said
    assert (
        "2 record(s) of users/0, of positions from 27 to 28, were dropped as repeats, but are not repeats,"
        " so no table has their data"
    ) in said
    assert f"position {10**18}, at offset 26, came before them" in "".join(found)
    # What docs/operations.md says to do about it.
    plant(copied.log, f"DELETE FROM log_records WHERE {of_users(27)}")
    plant(copied.orders, "UPDATE cursors SET next_offset = 27, last_position = 26")
    assert (
        await asyncio.to_thread(shop, copied, "parked", "discard", "orders", "--key", "1")
    ).exit_code == 0
    async with living(copied) as system, system.moving():
        await system.create(1)
        await eventually(lambda: system.orders.fetch("SELECT FROM customers HAVING count(*) = 23"))
    await asyncio.to_thread(verdict, copied, 0)


async def until_read(system: Living, offset: int) -> None:
    await eventually(
        lambda: system.orders.fetch(
            "SELECT FROM cursors WHERE next_offset = %(offset)s", {"offset": offset}
        )
    )


# No verdict


COMMANDS = {
    "audit": ("no verdict", ("users", "orders", "log")),
    "events --no-follow": ("cannot read the log", ("log",)),
    "parked list orders": ("cannot use the database", ("orders",)),
    "parked retry orders": ("cannot use the database", ("orders",)),
}


@pytest.mark.parametrize(
    ("command", "empty"), [(command, one) for command in COMMANDS for one in COMMANDS[command][1]]
)
def test_a_database_that_is_not_migrated_is_one_sentence_that_says_what_to_do(
    settled: Databases, new_database: NewDatabase, command: str, empty: str
) -> None:
    result = shop(settled.but(**{empty: new_database(None)}), *command.split())
    assert result.exit_code == 2, result.output
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith(
        f"shop: {COMMANDS[command][0]}: a database is not migrated (relation"
    )
    assert sentence.endswith("; run `shop migrate`")
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["audit", "events --no-follow"])
def test_a_topic_that_is_not_there_is_one_sentence_too(
    settled: Databases, new_database: NewDatabase, templates: dict[str, str], command: str
) -> None:
    result = shop(settled.but(log=new_database(templates["log"])), *command.split())
    assert result.exit_code == 2, result.output
    assert result.stderr.endswith(": there is no topic greetings; `shop migrate` creates it\n")


@pytest.mark.parametrize("away", ["users", "orders", "log"])
def test_a_database_or_log_out_of_reach_is_no_verdict(
    settled: Databases, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch, postgres_log)
    result = shop(settled.but(**{away: "postgresql://shop:secret@/shop?host=/nowhere"}), "audit")
    assert result.exit_code == 2, result.output
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("shop: no verdict: ")
    assert "secret" not in sentence
    assert HOLDS not in result.stdout
