"""Positions without holes, in commit order, whatever happens to those who write."""

import asyncio
import random
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest

from eventspine.database import Database
from eventspine.errors import OutcomeUnknown, Unavailable
from eventspine.migrations import PUBLISH_EVENTS
from eventspine.outbox import transaction
from tests.support import notes
from tests.support.spine import opened
from tests.support.waiting import SLOWER

WRITERS = 8
TRANSACTIONS = 20

# As if the disk were slow: a commit takes its time, and not each the same.
_SLOW_COMMITS = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(random() * 0.006); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER commits_slowly AFTER INSERT ON notes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();
"""


class Changed(Exception):
    """The writer has changed its mind."""


def _change_mind(chance: random.Random) -> None:
    if chance.random() < 0.2:
        raise Changed


async def _write(database: Database, writer: int, troubles: list[str]) -> None:
    chance = random.Random(writer)
    for n in range(TRANSACTIONS):
        first = (writer * TRANSACTIONS + n) * 10
        events = [notes.event(first + m, 1) for m in range(chance.choice([1, 1, 2, 5]))]
        try:
            async with transaction(database) as tx:
                await notes.save(tx, events)
                _change_mind(chance)
        except (Changed, Unavailable, OutcomeUnknown):
            continue
        except psycopg.Error as error:
            troubles.append(f"a writer failed: {error!r}")


async def _read(database: Database, seen: list[int], done: asyncio.Event) -> None:
    """Follow the outbox as a relay does: never look back."""
    while True:
        last_round = done.is_set()
        rows = await database.fetch(
            "SELECT position FROM outbox WHERE position > %(last)s ORDER BY position",
            {"last": seen[-1] if seen else 0},
        )
        seen += [position for (position,) in rows]
        if last_round:
            return


async def _kill_one_now_and_then(database: Database, done: asyncio.Event, kills: int) -> None:
    """Backends of writers, most of them while they commit."""
    for _ in range(kills):
        await asyncio.sleep(0.05)
        await database.fetch(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
            ORDER BY random() LIMIT 1
            """
        )


async def troubles_of_eight_writers(url: str, *, kills: int = 8) -> list[str]:
    """What an outbox must not show, after eight have written to it at once. Nothing is wanted."""
    troubles: list[str] = []
    seen: list[int] = []
    done = asyncio.Event()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(_SLOW_COMMITS)
    async with AsyncExitStack() as stack:
        watching = await stack.enter_async_context(opened(url, size=2))
        writers = [await stack.enter_async_context(opened(url, size=1)) for _ in range(WRITERS)]
        reading = asyncio.create_task(_read(watching, seen, done))
        await asyncio.gather(
            _kill_one_now_and_then(watching, done, kills),
            *(_write(database, writer, troubles) for writer, database in enumerate(writers)),
        )
        done.set()
        await reading
        positions = [p for (p,) in await watching.fetch("SELECT position FROM outbox ORDER BY 1")]
        published = await watching.fetch("SELECT key::bigint FROM outbox ORDER BY 1")
        stored = await watching.fetch("SELECT id FROM notes ORDER BY 1")
        head = await watching.fetch("SELECT position FROM outbox_head")
    if positions != list(range(1, len(positions) + 1)):
        troubles.append("the positions are not 1 to N")
    if head != [(len(positions),)]:
        troubles.append("the head is not N")
    if seen != positions:
        troubles.append("a reader of `position > last` stepped over an event")
    if published != stored:
        troubles.append("events and rows are not of the same commits")
    if len(stored) < WRITERS * TRANSACTIONS / 2:
        troubles.append("hardly anything was written")
    return troubles


async def test_eight_writers_leave_neither_a_hole_nor_an_event_without_its_row(
    notes_url: str,
) -> None:
    assert await troubles_of_eight_writers(notes_url) == []


_TAKE_THE_HEAD = (
    "UPDATE outbox_head SET position = position + count RETURNING position - count INTO STRICT base"
)
_FROM_A_SEQUENCE = "base := setval('numbers', nextval('numbers') + count - 1) - count"
_WITHOUT_THE_LOCK = "base := coalesce(max(position), 0) FROM outbox"


@pytest.mark.parametrize("take", [_FROM_A_SEQUENCE, _WITHOUT_THE_LOCK])
async def test_the_head_lock_mutation_lets_the_same_writers_do_damage(
    notes_url: str, take: str
) -> None:
    """That is what shows that the test above would see it."""
    assert _TAKE_THE_HEAD in PUBLISH_EVENTS
    with psycopg.connect(notes_url, autocommit=True) as admin:
        admin.execute("CREATE SEQUENCE numbers; DROP FUNCTION publish_events")
        admin.execute(PUBLISH_EVENTS.replace(_TAKE_THE_HEAD, take))
    troubles = await troubles_of_eight_writers(notes_url, kills=0)
    assert set(troubles) - {"the head is not N"}


async def test_a_database_without_its_head_publishes_nothing_and_says_so(notes_url: str) -> None:
    """Or the rows would be stored and their events would be lost without a word."""
    async with opened(notes_url) as database:
        await database.fetch("WITH gone AS (DELETE FROM outbox_head) SELECT 1")
        with pytest.raises(psycopg.errors.NoDataFound):
            await notes.publish_notes(database, 1, 1)
        assert await database.fetch("SELECT id FROM notes") == []


# Processes that freeze


@asynccontextmanager
async def frozen(program: str, *arguments: str) -> AsyncIterator["subprocess.Popen[str]"]:
    """A process that has said that it is stopping, and has sent itself SIGSTOP."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout
        line = await asyncio.to_thread(process.stdout.readline)
        assert line == "stopping\n", line
        yield process
    finally:
        process.kill()
        process.communicate()


async def thawed(process: "subprocess.Popen[str]") -> str:
    process.send_signal(signal.SIGCONT)
    output, _ = await asyncio.to_thread(process.communicate, timeout=60)
    return output.strip()


_HOLDS_THE_HEAD = """
    import asyncio, os, signal, sys
    from eventspine import outbox
    from eventspine.database import Database
    from tests.support import notes

    async def main():
        database = Database(sys.argv[1])
        await database.open()
        try:
            async with outbox.transaction(database) as tx:
                await notes.save(tx, [notes.event(1, 1)])
                write = {"count": len(tx._events), "events": "[" + ",".join(tx._events) + "]"}
                await tx.execute(outbox._WRITE, write)
                tx._events.clear()
                print("stopping", flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)
                await tx.execute("SELECT 1")
        except Exception as error:
            print(type(error).__name__, error)
        await database.close()

    asyncio.run(main())
"""


async def test_a_process_frozen_with_the_head_in_its_hands_costs_the_others_a_pause(
    notes_url: str,
) -> None:
    async with opened(notes_url) as database, frozen(_HOLDS_THE_HEAD, notes_url) as process:
        began = time.monotonic()
        await asyncio.gather(*(notes.publish_notes(database, n, n) for n in range(2, 6)))
        assert time.monotonic() - began < 2 + SLOWER
        said = await thawed(process)
        assert said.startswith("Unavailable"), said
        assert "idle-in-transaction" in said
        outbox_rows = await database.fetch("SELECT position FROM outbox ORDER BY 1")
        assert outbox_rows == [(1,), (2,), (3,), (4,)]
        assert await database.fetch("SELECT id FROM notes WHERE id = 1") == []


_WAITS_FOR_THE_HEAD = """
    import asyncio, os, signal, sys
    from eventspine.database import Database
    from tests.support import notes

    async def main():
        database = Database(sys.argv[1])
        await database.open()
        publishing = asyncio.create_task(notes.publish_notes(database, 1, 1))
        while not await database.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database() AND query LIKE '%publish_events%'"
        ):
            await asyncio.sleep(0.01)
        print("stopping", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        await publishing
        print("published")
        await database.close()

    asyncio.run(main())
"""


async def test_a_process_frozen_while_it_waits_for_the_head_holds_no_other_up(
    notes_url: str,
) -> None:
    """Its write and its commit are one message: the server finishes both without it."""
    async with opened(notes_url) as database:
        with psycopg.connect(notes_url) as holder:
            holder.execute("UPDATE outbox_head SET position = position")
            async with frozen(_WAITS_FOR_THE_HEAD, notes_url) as process:
                holder.rollback()
                began = time.monotonic()
                await notes.publish_notes(database, 2, 2)
                assert time.monotonic() - began < SLOWER
                assert await thawed(process) == "published"
        assert await database.fetch("SELECT position FROM outbox ORDER BY 1") == [(1,), (2,)]


class StoppingProxy:
    """The database, as seen by clients that stop sending once they have sent certain bytes.

    What a client hands to its socket in one go is passed on in one go.
    """

    def __init__(self, url: str, stop_after: bytes) -> None:
        address = urlsplit(url)
        self._server = f"{parse_qs(address.query)['host'][0]}/.s.PGSQL.5432"
        self._stop_after = stop_after
        self._directory = tempfile.TemporaryDirectory(prefix="eventshop-")
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.url = f"postgresql://postgres@/{address.path[1:]}?host={quote(self._directory.name)}&port=5432"
        self.stopped = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._directory.name}/.s.PGSQL.5432")
        self._listener.listen()
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()
        self._directory.cleanup()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._sockets += [client, server]
                self._start(self._pass_on, client, server, self._stop_after)
                self._start(self._pass_on, server, client, None)

    def _pass_on(self, source: socket.socket, sink: socket.socket, stop: bytes | None) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                sink.sendall(data)
                if stop and stop in data:
                    self._loop.call_soon_threadsafe(self.stopped.set)
                    return


async def _be_slow() -> None:
    """Make every turn of the event loop take its time, so that what can come apart does."""
    while True:
        time.sleep(0.005)
        await asyncio.sleep(0)


@pytest.mark.parametrize("events", [1, 5000])
async def test_a_publisher_that_stops_at_any_moment_lets_go_of_the_head(
    notes_url: str, events: int
) -> None:
    """Inside a batch of messages the server would wait for the rest for ever: there no time limit
    runs, neither that of statements nor that of idle transactions."""
    async with opened(notes_url) as database:
        with StoppingProxy(notes_url, stop_after=b"publish_events") as proxy:
            stopping = Database(proxy.url)
            await stopping.open()
            slow = asyncio.create_task(_be_slow())
            stopped = asyncio.create_task(notes.publish_notes(stopping, 1, events))
            await proxy.stopped.wait()
            slow.cancel()
            async with asyncio.timeout(2.0):
                for n in range(10):
                    await notes.publish_notes(database, 10_001 + n, 10_001 + n)
            await stopping.close()
        stopped.cancel()
        await asyncio.gather(stopped, return_exceptions=True)
