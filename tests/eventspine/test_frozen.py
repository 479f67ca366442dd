"""A frozen process holds nobody up for long, even if the server's clock is set back meanwhile."""

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from eventspine import frozen
from eventspine.frozen import end_frozen_sessions
from eventspine.postgres_log import PostgresLog
from eventspine.relay import Relay
from tests.support import notes
from tests.support.clocks import LeapingPostgres
from tests.support.memory_log import MemoryLog
from tests.support.records import from_offsets
from tests.support.spine import make_tables, opened
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(frozen, "FROZEN_AFTER", 1.5)


@pytest.fixture
def leaping_notes(leaping_postgres: LeapingPostgres) -> str:
    url = leaping_postgres.new_database()
    make_tables(url)
    return url


_LEADS = """
    import asyncio, sys
    from tests.support import notes
    from tests.support.memory_log import MemoryLog

    async def main():
        relay = notes.relay(sys.argv[1], MemoryLog(), frozen_after=1.0)
        asyncio.create_task(relay.run())
        while relay.position < 1:
            await asyncio.sleep(0.01)
        print("holds", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""

_IN_A_TRANSACTION = """
    import asyncio, sys, time
    from eventspine.database import Database
    from eventspine.outbox import transaction

    async def main():
        database = Database(sys.argv[1])
        await database.open()
        async with transaction(database) as tx:
            await tx.execute("SELECT FROM outbox_head FOR UPDATE")
            print("holds", flush=True)
            time.sleep(60)

    asyncio.run(main())
"""

_READS = """
    import asyncio, sys
    from eventspine.postgres_log import PostgresLog
    from tests.support.records import from_offsets

    async def main():
        member = PostgresLog(sys.argv[1]).subscribe("group", ["notes"], from_offsets())
        while not await member.poll(10, 1.0):
            pass
        print("holds", flush=True)
        while True:
            await member.poll(10, 1.0)

    asyncio.run(main())
"""


@asynccontextmanager
async def frozen_while_the_clock_is_set_back(
    server: LeapingPostgres, program: str, url: str
) -> AsyncIterator[None]:
    """Frozen with something in its hands. As far as its session's limits go, 26 hours are left."""
    server.leap(26)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), url], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        while await asyncio.to_thread(process.stdout.readline) != "holds\n":
            assert process.poll() is None
        process.send_signal(signal.SIGSTOP)
        server.leap(0)
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.heavy
async def test_a_frozen_leader_loses_its_office(
    leaping_postgres: LeapingPostgres, leaping_notes: str
) -> None:
    async def leads(relay: Relay) -> bool:
        return relay.leads

    async with opened(leaping_notes) as database:
        await notes.publish_notes(database, 1, 1)
        async with frozen_while_the_clock_is_set_back(leaping_postgres, _LEADS, leaping_notes):
            relay = notes.relay(leaping_notes, MemoryLog())
            async with notes.Running(relay.run(), end_frozen_sessions(database)):
                await eventually(lambda: leads(relay), within=40.0)


async def test_a_frozen_transaction_is_rolled_back(
    leaping_postgres: LeapingPostgres, leaping_notes: str
) -> None:
    async with (
        opened(leaping_notes) as database,
        frozen_while_the_clock_is_set_back(leaping_postgres, _IN_A_TRANSACTION, leaping_notes),
        notes.Running(end_frozen_sessions(database)),
    ):
        async with asyncio.timeout(40):
            await notes.publish_notes(database, 1, 1)


@pytest.mark.heavy
async def test_a_frozen_reader_of_the_log_loses_its_partitions(
    leaping_postgres: LeapingPostgres,
) -> None:
    url = leaping_postgres.new_database()
    log = PostgresLog(url)
    await log.create_tables()
    await log.create_topic(notes.TOPIC, 1)
    await log.append(notes.TOPIC, [notes.wire(1, notes.event(1, 1))])
    async with frozen_while_the_clock_is_set_back(leaping_postgres, _READS, url):
        member = log.subscribe("group", [notes.TOPIC], from_offsets())
        async with asyncio.timeout(40):
            while not await member.poll(10, 0.5):
                pass
        await member.close()
    await log.close()


async def test_a_process_that_only_takes_long_is_left_alone(notes_url: str) -> None:
    """Others' sessions, those of commands that may take all the time there is, and busy ones."""
    relay = notes.relay(notes_url, MemoryLog())
    async with opened(notes_url) as database:
        with psycopg.connect(notes_url) as person:
            person.execute("SELECT pg_advisory_lock(1)")
            async with notes.Running(relay.run(), end_frozen_sessions(database)):
                await asyncio.sleep(4.0)
                assert relay.leads
            [(epoch,)] = await database.fetch("SELECT epoch FROM relay")
            assert epoch == 1, "it has led all the time"
            person.execute("SELECT 1")
