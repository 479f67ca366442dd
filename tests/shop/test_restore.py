"""`shop restore` makes a database from the log: one that is gone, and one from an old backup."""

import asyncio
import multiprocessing
import os
import signal

import psycopg
import pytest

from eventspine import restoring
from shop.cli import restore as command
from shop.cli.main import app
from tests.support.databases import Databases, NewDatabase
from tests.support.living import living, plant, settings, shop
from tests.support.tables import rows, tables
from tests.support.waiting import eventually


@pytest.fixture
def empty(new_database: NewDatabase, templates: dict[str, str]) -> dict[str, str]:
    """A migrated database for each service, as after a loss."""
    return {name: new_database(templates[name]) for name in ("users", "orders")}


async def test_to_an_old_backup_it_adds_what_is_missing(
    copied: Databases, new_database: NewDatabase
) -> None:
    """And no name comes back, nor an answer that holds one."""
    plant(
        copied.orders,
        "INSERT INTO idempotency_keys (key_hash, fingerprint, status, headers, body, about) VALUES"
        " ('\\x01', '\\x01', 201, '[]', 'U 7', '7'), ('\\x02', '\\x02', 201, '[]', '', NULL)",
    )
    backups = {
        name: new_database(str(psycopg.conninfo.conninfo_to_dict(copied[name])["dbname"]))
        for name in ("users", "orders")
    }
    async with living(copied) as system, system.moving():
        await system.create(4)
        await system.update(2, 3)
        await system.erase(7)
        await system.settled()
        await system.place(1, 2, 21)
        await system.cancel(2)
        await system.settled()
    before = {name: await asyncio.to_thread(tables, copied[name]) for name in backups}
    lost = copied.but(**backups)
    for name in ("orders", "users"):
        # Without it the worker does not feed the log, and says why.
        assert (await asyncio.to_thread(shop, lost, "audit", name)).exit_code == 1
        done = await asyncio.to_thread(shop, lost, "restore", name)
        assert done.exit_code == 0, done.output
        assert await asyncio.to_thread(tables, lost[name]) == before[name]
        # Once more changes nothing.
        assert (await asyncio.to_thread(shop, lost, "restore", name)).exit_code == 0
        assert await asyncio.to_thread(tables, lost[name]) == before[name]
    assert await asyncio.to_thread(rows, lost.orders, "SELECT about FROM idempotency_keys") == [
        (None,)
    ]
    assert "1 stored answer(s)" not in done.output  # the users' backup had none
    async with living(lost) as system, system.moving():
        await system.create(1)
        await system.settled()
    assert (await asyncio.to_thread(shop, lost, "audit")).exit_code == 0


def test_a_database_that_went_on_after_its_backup_is_refused(
    copied: Databases, new_database: NewDatabase
) -> None:
    backup = new_database(str(psycopg.conninfo.conninfo_to_dict(copied.users)["dbname"]))

    async def live(urls: Databases, *parts: str, more: int) -> None:
        async with living(urls) as system:
            await system.create(more)
            if parts:
                async with system.moving(*parts):
                    await system.settled("orders")

    asyncio.run(live(copied, "users relay", "orders consumer", more=3))
    lost = copied.but(users=backup)
    asyncio.run(live(lost, more=1))
    before = tables(backup)
    done = shop(lost, "restore", "users")
    assert done.exit_code == 2
    assert "it has given position 27, and 0 more, to other events" in done.output
    assert tables(backup) == before


@pytest.mark.timeout(300)
async def test_it_may_be_killed_anywhere(copied: Databases, empty: dict[str, str]) -> None:
    """Nothing is there, or all of it."""
    lost = copied.but(orders=empty["orders"])
    whole = await asyncio.to_thread(tables, copied.orders)
    nothing = await asyncio.to_thread(tables, lost.orders)
    steps = ["fill", "_set_spine", "_report"]
    for step in steps:
        process = forks.Process(target=die, args=(step, settings(lost)))
        process.start()
        await asyncio.to_thread(process.join, 60)
        assert process.exitcode == -signal.SIGKILL, step
        await eventually(lambda: alone(lost.orders), what="the killed session is gone")
        now = await asyncio.to_thread(tables, lost.orders)
        assert now == (whole if step == "_report" else nothing), step
    assert (await asyncio.to_thread(shop, lost, "restore", "orders")).exit_code == 0
    assert await asyncio.to_thread(tables, lost.orders) == whole


forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload([__name__])


def die(step: str, environment: dict[str, str]) -> None:
    """Restore, in a process that is killed as this step begins."""
    os.environ.update(environment)
    place = command if hasattr(command, step) else restoring
    setattr(place, step, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    app(["restore", "orders", "--data", "/nowhere"])


def alone(url: str) -> bool:
    return (
        rows(url, "SELECT FROM pg_stat_activity WHERE application_name = 'eventspine restore'")
        == []
    )


def test_it_refuses_while_the_service_is_in_use(copied: Databases) -> None:
    with psycopg.connect(copied.orders, application_name="eventspine"):
        done = shop(copied, "restore", "orders")
    assert done.exit_code == 2
    assert "orders is in use (eventspine): stop its APIs and workers" in done.output


def test_what_is_missing_everywhere_is_named_and_can_be_given_up(
    copied: Databases, empty: dict[str, str]
) -> None:
    plant(
        copied.log,
        "DELETE FROM log_records WHERE topic = 'users' AND headers->>'ce_id' IN ('4', '5')",
    )
    lost = copied.but(users=empty["users"])
    done = shop(lost, "restore", "users")
    assert done.exit_code == 2
    assert "topic users lacks the positions 4 to 5" in done.output
    assert rows(lost.users, "SELECT FROM users") == []
    done = shop(lost, "restore", "users", "--give-up")
    assert done.exit_code == 0, done.output
    assert "positions 4 to 5 are lost" in done.output
    assert len(rows(lost.users, "SELECT FROM users")) == 18


def test_the_past_is_restored_beside_and_erased_people_stay_erased(
    copied: Databases, empty: dict[str, str]
) -> None:
    # Users 19 and 20 were erased later than this.
    done = shop(copied, "restore", "orders", "--until", "22", "--into", empty["orders"])
    assert done.exit_code == 0, done.output
    assert "this is the past, up to the positions" in done.output
    assert len(rows(empty["orders"], "SELECT FROM orders WHERE status = 'placed'")) == 22
    assert rows(empty["orders"], "SELECT id FROM customers WHERE name IS NULL ORDER BY id") == [
        (19,), (20,)
    ]  # fmt: skip
    [(time,)] = rows(copied.users, "SELECT time FROM outbox WHERE position = 20")
    done = shop(copied, "restore", "users", "--until", time.isoformat(), "--into", empty["users"])  # type: ignore[attr-defined]
    assert done.exit_code == 0, done.output
    assert rows(empty["users"], "SELECT count(*), max(version), count(name) FROM users") == [
        (20, 1, 18)
    ]
    assert rows(empty["users"], "SELECT position FROM outbox_head") == [(20,)]
    again = shop(copied, "restore", "users", "--until", "3", "--into", empty["users"])
    assert again.exit_code == 2
    assert "this one has rows" in again.output


def test_a_database_of_another_name_is_created(copied: Databases) -> None:
    done = shop(copied, "restore", "users", "--until", "3", "--into", "users_before")
    assert done.exit_code == 0, done.output
    assert "It stays until you drop it" in done.output
    assert 'DROP DATABASE "users_before"' in done.output
    url = psycopg.conninfo.make_conninfo(copied.users, dbname="users_before")
    assert rows(url, "SELECT id FROM users ORDER BY id") == [(1,), (2,), (3,)]


def test_a_role_that_may_not_create_databases_is_told_what_to_do(copied: Databases) -> None:
    with psycopg.connect(copied.users, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS without_createdb")
        admin.execute("CREATE ROLE without_createdb LOGIN")
        try:
            url = copied.users.replace("postgres@", "without_createdb@", 1)
            done = shop(copied.but(users=url), "restore", "users", "--until", "3", "--into", "past")
        finally:
            admin.execute("DROP ROLE without_createdb")
    assert done.exit_code == 2
    assert (
        "cannot create the database past: without_createdb may not create databases (CREATEDB); have an administrator"
        " create it empty, with without_createdb as its owner" in done.output
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--until", "3"], "it needs another database to put it into"),
        (["--until", "soon", "--into", "x"], "--until soon is neither a position nor a time"),
        (["--until", "2026-01-01T00:00:00", "--into", "x"], "has no time zone"),
    ],
)
def test_options_that_make_no_sense_are_explained(
    copied: Databases, options: list[str], said: str
) -> None:
    done = shop(copied, "restore", "users", *options)
    assert done.exit_code == 2
    assert said in done.output


def test_ids_and_positions_go_on_after_those_that_were_given(
    copied: Databases, empty: dict[str, str]
) -> None:
    lost = copied.but(users=empty["users"])
    assert shop(lost, "restore", "users").exit_code == 0
    assert rows(lost.users, "SELECT nextval('users_id_seq')") == [(21,)]
    assert rows(lost.users, "SELECT position FROM outbox_head") == [(26,)]
