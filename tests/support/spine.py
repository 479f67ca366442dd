"""A database of the notes, opened and checked for leaks; and what the spine has logged."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from eventspine.database import Database
from eventspine.migrations import steps
from eventspine.postgres_log import PostgresLog
from tests.support import notes
from tests.support.waiting import eventually


def make_tables(url: str) -> None:
    """The spine's tables and the notes', in a database where nothing else is left."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        for step in steps():
            connection.execute(step.encode())
        connection.execute(notes.TABLES)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Database]:
    """The database, which must have all its connections back when the block ends."""
    database = Database(url, **options)
    await database.open()
    try:
        yield database
        await assert_nothing_leaked(database)
    finally:
        await database.close()


async def assert_nothing_leaked(database: Database) -> None:
    async def all_are_back() -> bool:
        stats = database._pool.get_stats()
        return bool(stats["pool_available"] == stats["pool_size"] and not stats["requests_waiting"])

    await eventually(all_are_back, within=30.0, what="the return of every connection")
    async with asyncio.timeout(30):
        rows = await database.fetch("SELECT 1")
    assert rows == [(1,)]

    async def none_is_in_a_transaction() -> bool:
        (row,) = await database.fetch(
            "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%%' "
            "AND datname = current_database() AND %(true)s",
            {"true": True},
        )
        return bool(row == (0,))

    # A client that has only just been cut off may still have a session.
    await eventually(none_is_in_a_transaction, within=30.0, what="the end of transactions")


@asynccontextmanager
async def opened_log(url: str, partitions: int = 1) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(url)
    try:
        await log.create_tables()
        await log.create_topic(notes.TOPIC, partitions)
        yield log
    finally:
        await log.close()


class Said(list[dict[str, Any]]):
    """What relay and consumer have logged."""

    def at(self, level: str) -> list[dict[str, Any]]:
        return [entry for entry in self if entry["level"] == level]

    def troubles(self) -> list[dict[str, Any]]:
        return [entry for entry in self if entry["level"] in {"warning", "error"}]


@asynccontextmanager
async def refusing(database: Database, url: str) -> AsyncIterator[None]:
    """While it lasts, nobody new gets in, and who was in is put out."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    admin_url = psycopg.conninfo.make_conninfo(url, dbname="postgres")
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        put_out = (
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        admin.execute(put_out)
        try:
            yield
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
