"""Databases for the notes, opened and closed with the test, and what the spine has logged."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

from eventspine import consumer, relay
from eventspine.database import Database
from eventspine.migrations import spine_1
from eventspine.postgres_log import PostgresLog
from shop.kit.local.postgres import LocalPostgres
from tests.conftest import NewDatabase
from tests.eventspine import notes


@pytest.fixture(scope="session")
def notes_template(postgres: LocalPostgres, new_database: NewDatabase) -> str:
    name = "template_notes"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    make_tables(postgres.dsn(name, "postgres"))
    return name


def make_tables(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(spine_1())
        connection.execute(notes.TABLES)


@pytest.fixture
def new_notes(notes_template: str, new_database: NewDatabase) -> Callable[[], str]:
    """Each call makes a database with the spine's tables and the notes'; the URL is given."""
    return lambda: new_database(notes_template)


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
    (row,) = await database.fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%%' "
        "AND datname = current_database() AND %(true)s",
        {"true": True},
    )
    assert row == (0,), "a connection came back inside a transaction"


@asynccontextmanager
async def opened_log(url: str, partitions: int = 1) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(url)
    try:
        await log.create_tables()
        await log.create_topic(notes.TOPIC, partitions)
        yield log
    finally:
        await log.close()


@pytest.fixture
def own_postgres() -> Iterator[LocalPostgres]:
    """A server that this test may stop and kill. It syncs to disk, as in production.

    What does not wait for the disk gets there late, so that a crash takes it back.
    """
    with tempfile.TemporaryDirectory(prefix="eventshop-test-") as directory:
        Path(directory).chmod(0o711)
        settings = {"shared_buffers": "32MB", "wal_writer_delay": "10s"}
        with LocalPostgres(Path(directory) / "postgres", settings=settings) as server:
            yield server


@pytest.fixture
def own_notes(own_postgres: LocalPostgres) -> Callable[[str], str]:
    """`own_notes(name)`: a database for notes on the test's own server."""

    def new(name: str) -> str:
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

    for module in (relay, consumer):
        monkeypatch.setattr(module, "_LOG", structlog.wrap_logger(None, processors=[keep]))
    return entries


Scenario = Callable[..., Awaitable[None]]


def run(scenario: Awaitable[None]) -> None:
    """Play it, but not for ever."""

    async def play() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(play())
