"""Databases for the notes, opened and closed with the test, and what the spine has logged."""

import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

from devstack.kafka import LocalKafka
from devstack.postgres import LocalPostgres
from eventspine import applying, backoff, consumer, relay, turning
from eventspine.database import Database
from tests.support.databases import NewDatabase
from tests.support.spine import Said, make_tables
from tests.support.topics import make_topic, new_name


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


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    entries = Said()

    def keep(_: object, method: str, entry: Any) -> Any:
        entries.append({**entry, "level": method})
        raise structlog.DropEvent

    for module in (relay, consumer, applying, turning):
        monkeypatch.setattr(module, "_LOG", structlog.wrap_logger(None, processors=[keep]))
    return entries


@pytest.fixture
async def database(copy_url: str) -> AsyncIterator[Database]:
    """One for many examples."""
    database = Database(copy_url)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again almost at once."""
    monkeypatch.setattr(backoff, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(backoff, "_LONGEST_PAUSE", 0.05)


@pytest.fixture
def topic(kafka: LocalKafka) -> str:
    """A topic of three partitions in the session's broker."""
    name = new_name()
    make_topic(kafka, name)
    return name
