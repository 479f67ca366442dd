"""PostgreSQL is stopped and killed under everybody's feet."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence

import psycopg
import pytest

from devstack.postgres import LocalPostgres
from eventspine import backoff
from eventspine.consumer import Consumer
from eventspine.database import Database
from eventspine.errors import OutcomeUnknown, SpineError, Unavailable
from eventspine.handlers import Handlers
from eventspine.log import LogUnavailable
from eventspine.outbox import Transaction
from eventspine.postgres_log import PostgresLog
from eventspine.received import Received
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.notes import NoteTaken
from tests.support.spine import opened, opened_log
from tests.support.waiting import SLOWER, eventually

OwnNotes = Callable[[], str]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "_LONGEST_PAUSE", 0.3)


async def start(server: LocalPostgres) -> None:
    server.start()
    deadline = time.monotonic() + 20
    while not server.ready():
        if server.ended():
            # Backends of a killed server may still be leaving: then it has to be tried again.
            server.start()
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def kill_and_start(server: LocalPostgres) -> None:
    assert server.pid
    os.kill(server.pid, signal.SIGKILL)
    await eventually(server.ended)
    await start(server)


async def has_copied(copy: Database, count: int) -> bool:
    try:
        return await copy.fetch("SELECT count(*) FROM notes") == [(count,)]
    except Unavailable:
        return False


@pytest.mark.heavy
async def test_a_server_that_was_stopped_and_started_again_is_used_again(
    own_postgres: LocalPostgres, own_notes: OwnNotes
) -> None:
    async with opened(own_notes(), size=4, timeout=1.0) as database:
        await asyncio.gather(*(notes.publish_notes(database, n, n) for n in range(8)))
        own_postgres.stop()
        for ask in (notes.publish_notes(database, 8, 8), database.fetch("SELECT 1")):
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await ask
            assert time.monotonic() - began < 1 + SLOWER
        await start(own_postgres)
        # Not the first that asks is refused, nor any of the others.
        await asyncio.gather(*(notes.publish_notes(database, n, n) for n in range(10, 18)))
        own_postgres.stop()
        await start(own_postgres)
        await asyncio.gather(
            *(notes.publish_notes(database, n, n) for n in range(20, 28)),
            *(database.fetch("SELECT 1") for _ in range(8)),
        )
        positions = await database.fetch("SELECT position FROM outbox ORDER BY 1")
        assert positions == [(n,) for n in range(1, 25)]


async def test_a_consumer_applies_again_what_a_killed_server_has_forgotten(
    own_postgres: LocalPostgres, own_notes: OwnNotes
) -> None:
    """Its effects and its cursor are forgotten together, and no new event need remind it."""
    async with opened(own_notes(), timeout=1.0) as copy:
        handled = 0

        async def count(tx: Transaction, received: Sequence[Received[NoteTaken]]) -> None:
            nonlocal handled
            await notes.taken(tx, received)
            handled += len(received)

        log = MemoryLog(2)
        for n in range(1, 301):
            log.put(n % 2, notes.wire(n, notes.event(n, 1)))
        consumer = Consumer(copy, log, Handlers("copy", {NoteTaken: count}), batch=20)
        async with notes.Running(consumer.run()):
            await eventually(lambda: has_copied(copy, 300))
            assert handled == 300
            await kill_and_start(own_postgres)
            await eventually(lambda: has_copied(copy, 300))
        assert handled > 300, "the crash took nothing back"
        await notes.assert_copied(copy, *(notes.event(n, 1) for n in range(1, 301)))


async def test_a_server_killed_while_everything_runs_on_it_loses_and_doubles_nothing(
    own_postgres: LocalPostgres, own_notes: OwnNotes
) -> None:
    with psycopg.connect(own_postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE log")
    url, log_url = own_notes(), own_postgres.dsn("log", "postgres")
    async with (
        opened(url, timeout=1.0) as database,
        opened(own_notes(), timeout=1.0) as copy,
        opened_log(log_url, 3) as log,
    ):
        committed: set[int] = set()
        unknown: set[int] = set()
        stopping = asyncio.Event()

        async def write(writer: int) -> None:
            n = writer
            while not stopping.is_set():
                n += 10
                try:
                    await notes.publish_notes(database, n, n)
                    committed.add(n)
                except OutcomeUnknown:
                    unknown.add(n)
                except SpineError:
                    await asyncio.sleep(0.05)

        async def crash() -> None:
            for _ in range(2):
                await asyncio.sleep(0.7)
                await kill_and_start(own_postgres)
            before = len(committed)
            await eventually(lambda: has_grown(committed, before + 30))
            stopping.set()

        relay = notes.relay(url, log)
        async with notes.Running(relay.run(), notes.consumer(copy, log).run()):
            await asyncio.gather(crash(), *(write(writer) for writer in range(4)))
            rows = await database.fetch("SELECT id FROM notes")
            stored = {id_ for (id_,) in rows}
            await eventually(lambda: has_copied(copy, len(stored)))
        assert committed <= stored <= committed | unknown
        outbox = await database.fetch("SELECT position, key::bigint FROM outbox ORDER BY 1")
        assert [position for position, _ in outbox] == list(range(1, len(stored) + 1))
        assert {key for _, key in outbox} == stored
        await assert_log_holds(log, len(stored))
        await notes.assert_copied(copy, *(notes.event(n, 1) for n in sorted(stored)))


async def has_grown(numbers: set[int], to: int) -> bool:
    return len(numbers) >= to


async def assert_log_holds(log: PostgresLog, last: int) -> None:
    async def is_there() -> bool:
        try:
            partitions = await notes.positions_in(log)
        except LogUnavailable:
            return False
        return {p for positions in partitions for p in positions} == set(range(1, last + 1))

    await eventually(is_there)
