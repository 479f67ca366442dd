"""Databases for the notes, opened and closed with the test, and what the spine has logged."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

from devstack.postgres import LocalPostgres
from eventspine import consumer, relay, turning
from eventspine.database import Database
from eventspine.migrations import steps
from eventspine.postgres_log import PostgresLog
from tests.conftest import NewDatabase
from tests.eventspine import notes


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


@pytest.fixture(scope="session")
def idle_databases() -> list[str]:
    """Used before, to be used again: to empty one takes a third of the time of making one."""
    return []


@pytest.fixture
def new_notes(new_database: NewDatabase, idle_databases: list[str]) -> Iterator[Callable[[], str]]:
    """Each call gives the URL of a database with the spine's tables and the notes', all empty."""
    taken: list[str] = []

    def new() -> str:
        taken.append(idle_databases.pop() if idle_databases else new_database(None))
        make_tables(taken[-1])
        return taken[-1]

    yield new
    idle_databases += taken


@pytest.fixture
def notes_url(new_notes: Callable[[], str]) -> str:
    return new_notes()


@pytest.fixture
def copy_url(new_notes: Callable[[], str]) -> str:
    return new_notes()


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

    await notes.eventually(all_are_back, within=5.0, what="the return of every connection")
    async with asyncio.timeout(10):
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
    await notes.eventually(none_is_in_a_transaction, within=5.0, what="the end of transactions")


@asynccontextmanager
async def opened_log(url: str, partitions: int = 1) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(url)
    try:
        await log.create_tables()
        await log.create_topic(notes.TOPIC, partitions)
        yield log
    finally:
        await log.close()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[LocalPostgres]:
    """A server that these tests may stop and kill. It syncs to disk, as in production.

    What does not wait for the disk gets there late, so that a crash takes it back.
    """
    with tempfile.TemporaryDirectory(prefix="eventshop-test-") as directory:
        Path(directory).chmod(0o711)
        settings = {"shared_buffers": "32MB", "wal_writer_delay": "10s"}
        with LocalPostgres(Path(directory) / "postgres", settings=settings) as server:
            yield server


@pytest.fixture(scope="module")
def own_notes(own_postgres: LocalPostgres) -> Callable[[], str]:
    """Each call makes a database for notes on the server that may be killed."""
    numbers = itertools.count(1)

    def new() -> str:
        name = f"notes_{next(numbers)}"
        with psycopg.connect(own_postgres.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        url = own_postgres.dsn(name, "postgres")
        make_tables(url)
        return url

    return new


class Said(list[dict[str, Any]]):
    """What relay and consumer have logged."""

    def at(self, level: str) -> list[dict[str, Any]]:
        return [entry for entry in self if entry["level"] == level]

    def troubles(self) -> list[dict[str, Any]]:
        return [entry for entry in self if entry["level"] in {"warning", "error"}]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    entries = Said()

    def keep(_: object, method: str, entry: Any) -> Any:
        entries.append({**entry, "level": method})
        raise structlog.DropEvent

    for module in (relay, consumer, turning):
        monkeypatch.setattr(module, "_LOG", structlog.wrap_logger(None, processors=[keep]))
    return entries


def run(scenario: Awaitable[None]) -> None:
    """Play it, but not for ever."""

    async def play() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(play())
