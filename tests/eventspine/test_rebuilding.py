"""Rebuilding under load: it may be killed anywhere, its tables are right, and readers see no gap."""

import asyncio
import multiprocessing
import signal
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from eventspine import shadow_tables
from eventspine.consumer import Consumer
from eventspine.database import Connection, Database
from eventspine.handlers import Handlers
from eventspine.log import EventLog
from eventspine.outbox import Transaction
from eventspine.postgres_log import PostgresLog
from eventspine.projections import Aggregate, Projection, keep_latest
from eventspine.pruning import Aged
from eventspine.rebuilding import Rebuild
from eventspine.received import Received
from eventspine.recomputing import tables_of
from eventspine.staging import Source
from tests.support import notes
from tests.support.phases import PHASES, die_in
from tests.support.spine import opened, opened_log
from tests.support.waiting import SLOWER, eventually

NOTES = Projection("notes", topic=notes.TOPIC, columns={"text": "text"})
CHANGES = Aggregate(
    "changes",
    topics=[notes.TOPIC],
    key=["id"],
    values=["count"],
    rows="SELECT (data->>'id')::bigint AS id, count(*) AS count FROM events GROUP BY 1",
)
DECLARED = (NOTES, CHANGES)
TABLE = "CREATE TABLE changes (id bigint PRIMARY KEY, count bigint NOT NULL)"


def handlers(loses: int) -> Handlers:
    """It keeps notes and counts their changes. With a bug: each event at a multiple of `loses` is dropped."""

    async def changed(tx: Transaction, received: Sequence[Received[Any]]) -> None:
        kept = [one for one in received if not loses or one.position % loses]
        tx.accepts_gaps = True
        await keep_latest(tx, NOTES, kept)
        for one in kept:
            await tx.execute(
                "INSERT INTO changes AS c VALUES (%(id)s, 1)"
                " ON CONFLICT (id) DO UPDATE SET count = c.count + 1",
                {"id": one.event.id},
            )

    return Handlers("copy", {notes.NoteTaken: changed, notes.NoteChanged: changed})


def source() -> Source:
    return Source("copy", "/copies", "copies", handlers(0), {})


def rebuild(url: str, log: EventLog) -> Rebuild:
    return Rebuild(url, log, source(), tables_of(DECLARED), lambda *_: None)


async def rebuilt(url: str, log: EventLog) -> Rebuild:
    one = rebuild(url, log)
    async with one.prepared():
        await one.compare()
        if one.result.differ:
            await one.swap()
    return one


async def fed(notes_url: str, database: Database, log: EventLog, loses: int) -> None:
    """Sixty notes, each changed twice, all applied to the copy."""
    async with opened(notes_url) as publisher:
        for version in (1, 2, 3):
            await notes.publish(publisher, *(notes.event(id_, version) for id_ in range(1, 61)))
    consumer = Consumer(database, log, handlers(loses))

    async def applied() -> bool:
        return await database.fetch("SELECT last_position FROM cursors") == [(180,)]

    async with notes.Running(notes.relay(notes_url, log).run(), consumer.run()):
        await eventually(applied)


async def assert_right(database: Database, versions: int = 3) -> None:
    found = await database.fetch("SELECT id, version, text FROM notes ORDER BY id")
    assert found == [(n, versions, notes.event(n, versions).text) for n in range(1, 61)]
    counted = await database.fetch("SELECT id, count FROM changes ORDER BY id")
    assert counted == [(n, versions) for n in range(1, 61)]


async def test_a_sum_that_a_bug_made_wrong_is_right_afterwards(
    notes_url: str, copy_url: str, postgres_log_url: str
) -> None:
    plant(copy_url, TABLE)
    async with opened(copy_url) as database, opened_log(postgres_log_url) as log:
        await fed(notes_url, database, log, loses=7)
        done = await rebuilt(copy_url, log)
        assert {each.table: each.different for each in done.result.compared} == {
            "notes": 60 // 7, "changes": 180 // 7
        }  # fmt: skip
        await assert_right(database)
        assert not (await rebuilt(copy_url, log)).result.differ


async def test_rows_that_were_deleted_as_old_are_not_made_again(
    notes_url: str, copy_url: str, postgres_log_url: str
) -> None:
    aged = Projection(
        "notes", topic=notes.TOPIC, columns={"text": "text"}, aged=Aged("notes", "changed_ms", 1.0)
    )
    plant(copy_url, TABLE)
    async with opened(copy_url) as database, opened_log(postgres_log_url) as log:
        await fed(notes_url, database, log, loses=0)
        plant(copy_url, "DELETE FROM notes WHERE id > 50")
        one = Rebuild(copy_url, log, source(), tables_of([aged]), lambda *_: None)
        async with one.prepared():
            [compared] = await one.compare()
        assert (compared.rows_before, compared.different, one.result.differ) == (50, 0, False)


async def test_others_wait_for_few_answers_of_the_server(
    copy_url: str, postgres_log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the service has written in the last moment."""
    plant(copy_url, TABLE)
    sent: list[str] = []
    execute, lock = Connection.execute, shadow_tables.lock

    async def and_note(self: Connection, sql: bytes, *given: Any, **more: Any) -> Any:
        if self is one._connection:
            sent.append(sql.decode())
        return await execute(self, sql, *given, **more)

    async def write_and_lock(connection: Connection, names: Sequence[str]) -> None:
        await notes.publish(database, *(notes.event(id_, 2) for id_ in range(1, 10)))
        await lock(connection, names)

    own = Source("notes", notes.SOURCE, notes.TOPIC, Handlers("notes", {}), {})
    async with opened(copy_url) as database, opened_log(postgres_log_url) as log:
        async with notes.Running(notes.relay(copy_url, log).run()):
            await notes.publish(database, *(notes.event(id_, 1) for id_ in range(1, 10)))
            one = Rebuild(copy_url, log, own, tables_of([NOTES]), lambda *_: None)

            async def relayed() -> bool:
                return await database.fetch("SELECT position FROM relay") == [(9,)]

            await eventually(relayed)
            async with one.prepared():
                monkeypatch.setattr(shadow_tables, "lock", write_and_lock)
                monkeypatch.setattr(Connection, "execute", and_note)
                await one.swap()
        found = await database.fetch("SELECT id, version FROM notes ORDER BY id")
    assert found == [(id_, 2) for id_ in range(1, 10)]
    [locked] = [at for at, sql in enumerate(sent) if sql.startswith("LOCK TABLE")]
    held = sent[locked : sent.index("COMMIT", locked) + 1]
    assert len(held) <= 8, held


async def test_nobody_waits_behind_a_swap_that_would_wait_itself(
    notes_url: str, copy_url: str, postgres_log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(copy_url, TABLE)
    locked: list[Sequence[str]] = []
    lock = shadow_tables.lock

    async def and_note(connection: Connection, names: Sequence[str]) -> None:
        locked.append(names)
        await lock(connection, names)

    monkeypatch.setattr(shadow_tables, "lock", and_note)
    async with opened(copy_url) as database, opened_log(postgres_log_url) as log:
        await fed(notes_url, database, log, loses=7)
        one = rebuild(copy_url, log)
        async with one.prepared():
            with psycopg.connect(copy_url) as reader:
                reader.execute("SELECT FROM notes")
                await asyncio.sleep(1.1)  # it has lasted
                swapping = asyncio.create_task(one.swap())

                async def looked() -> bool:
                    return one.tries > 2

                await eventually(looked)
                assert locked == []
            await swapping
        assert one.result.swapped
        await assert_right(database)


def die(phase: str, url: str, log_url: str, *, after: bool) -> None:
    """Rebuild, in a process that is killed as this phase begins, or when it is done."""
    die_in(phase, after=after)
    asyncio.run(rebuilt(url, PostgresLog(log_url)))


async def test_it_may_be_killed_in_each_phase_while_others_write_and_read(
    notes_url: str, copy_url: str, postgres_log_url: str
) -> None:
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])

    async def kill(phase: str, *, after: bool) -> None:
        process = forks.Process(
            target=die, args=(phase, copy_url, postgres_log_url), kwargs={"after": after}
        )
        process.start()
        await asyncio.to_thread(process.join, 120)
        assert process.exitcode == -signal.SIGKILL, phase

    plant(copy_url, TABLE)
    async with opened(copy_url) as database, opened_log(postgres_log_url) as log:
        await fed(notes_url, database, log, loses=7)
        consumer = Consumer(database, log, handlers(0))
        async with opened(notes_url) as publisher:
            async with notes.Running(notes.relay(notes_url, log).run(), consumer.run()):
                changing = Changing(publisher)
                working = [
                    asyncio.create_task(changing.run()),
                    asyncio.create_task(read(database)),
                ]
                for phase in PHASES:
                    await kill(phase, after=False)
                    [(count,)] = await database.fetch("SELECT sum(count) FROM changes WHERE id = 7")
                    assert count < changing.version  # still the wrong one
                await kill("tables are locked", after=True)
                done = await rebuilt(copy_url, log)
                changing.stops = True
                await working.pop(0)

                async def applied() -> bool:
                    last = await database.fetch("SELECT last_position FROM cursors")
                    return last == [(60 * changing.version,)]

                await eventually(applied)
                assert not working[0].done()
                await notes.cancel(working)
        assert done.result.swapped
        assert done.result.held < SLOWER
        await assert_right(database, changing.version)
        assert not (await rebuilt(copy_url, log)).result.differ
        assert await database.fetch("SELECT FROM pg_namespace WHERE nspname = 'rebuild'") == []


class Changing:
    """Changes every note, again and again: hundreds of events a second."""

    def __init__(self, publisher: Database) -> None:
        self._publisher = publisher
        self.version = 3
        self.stops = False

    async def run(self) -> None:
        while not self.stops:
            events = [notes.event(id_, self.version + 1) for id_ in range(1, 61)]
            await notes.publish(self._publisher, *events)
            self.version += 1
            await asyncio.sleep(0.1)


async def read(database: Database) -> None:
    """There is always a table, and never fewer notes than before."""
    while True:
        [(count,)] = await database.fetch("SELECT count(*) FROM notes")
        assert count == 60
        await asyncio.sleep(0.01)


def plant(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())
