"""A server that says nothing any more and closes nothing: a dead machine, a network that swallows
everything, a frozen server. Nobody waits for it for ever."""

import asyncio
import ctypes
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from devstack.postgres import LocalPostgres
from eventspine import database as database_module
from eventspine.context import NOBODY
from eventspine.database import Connection, Database, connect, read_whole, translated
from eventspine.errors import OutcomeUnknown, SpineError, Unavailable
from eventspine.outbox import transaction
from tests.support import notes
from tests.support.proxy import Proxy
from tests.support.spine import Said, opened, opened_log
from tests.support.waiting import SLOWER, eventually

LIMIT = 0.5
"""Seconds that a statement may take here."""


@pytest.fixture
def proxy(postgres: LocalPostgres) -> Iterator[Proxy]:
    with Proxy(str(postgres.socket_dir / ".s.PGSQL.5432")) as proxy:
        yield proxy
        proxy.heal()


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "silent_after", LIMIT)


def by(proxy: Proxy, url: str) -> str:
    """The same database, by way of the proxy."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"


@asynccontextmanager
async def distant(proxy: Proxy, url: str, **options: object) -> AsyncIterator[Database]:
    """A database behind the proxy, with one connection open."""
    database = Database(by(proxy, url), **{"size": 3, "timeout": 0.5, **options})  # type: ignore[arg-type]
    await database.open()
    async with asyncio.timeout(60):
        await database._pool.wait()
    try:
        yield database
    finally:
        proxy.heal()
        await database.close()


async def failed(doing: Awaitable[object], *, within: float) -> SpineError:
    """What it ends with, in time."""
    with pytest.raises(SpineError) as raised:
        async with asyncio.timeout(within):
            await doing
    return raised.value


async def keep(database: Database, before: Callable[[str], None]) -> None:
    """A transaction that publishes; `before` is told what comes next."""
    before("begin")
    async with transaction(database) as tx:
        before("statement")
        await notes.save(tx, [notes.event(1, 1)])
        before("commit")


@pytest.mark.parametrize("moment", ["begin", "statement", "commit"])
async def test_a_transaction_without_an_answer_is_given_up_for_what_it_is(
    proxy: Proxy, notes_url: str, moment: str
) -> None:
    async with distant(proxy, notes_url) as database:
        error = await failed(
            keep(database, lambda now: proxy.hold() if now == moment else None),
            within=LIMIT + SLOWER,
        )
        # Only in its commit may it have been done.
        assert type(error) is (OutcomeUnknown if moment == "commit" else Unavailable)
        assert "does not answer" in str(error)
        proxy.heal()

        async def works() -> bool:
            try:
                await notes.publish_notes(database, 2, 2)
            except Unavailable:
                return False
            return True

        await eventually(works, what="the return of the database")
    async with opened(notes_url) as database:
        rows = await database.fetch("SELECT id FROM notes ORDER BY id")
        assert rows in ([[(2,)]] if moment != "commit" else [[(2,)], [(1,), (2,)]])


@pytest.mark.parametrize("moment", ["statement", "commit"])
async def test_a_query_that_cannot_even_be_sent_is_given_up_likewise(
    proxy: Proxy, notes_url: str, moment: str
) -> None:
    """More than the sockets take of a message for a server that does not read."""
    async with distant(proxy, notes_url) as database:

        async def keep_much() -> None:
            async with transaction(database) as tx:
                await tx.execute("SELECT 1")
                proxy.hold()
                if moment == "statement":
                    await tx.execute("SELECT %(much)s", {"much": "x" * 30_000_000})
                tx.publish(notes.event(1, 1, "x" * 30_000_000), NOBODY)

        error = await failed(keep_much(), within=LIMIT + SLOWER)
        assert type(error) is (OutcomeUnknown if moment == "commit" else Unavailable)
        assert "does not answer" in str(error)


async def test_a_transaction_ends_in_time_however_long_its_statements_may_take(
    proxy: Proxy, notes_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "silent_after", 60.0)
    async with distant(proxy, notes_url, timeout=0.2, transaction_within=0.3) as database:
        assert database.within == pytest.approx(0.2 + 0.2 + 0.3 + 0.5)
        error = await failed(
            keep(database, lambda now: proxy.hold() if now == "statement" else None),
            within=database.within + SLOWER,
        )
        assert type(error) is Unavailable


async def test_a_read_without_an_answer_is_not_asked_again(proxy: Proxy, notes_url: str) -> None:
    async with distant(proxy, notes_url) as database:
        proxy.hold()
        error = await failed(database.fetch("SELECT 1"), within=LIMIT + SLOWER)
        assert type(error) is Unavailable and "does not answer" in str(error)


async def lend_all(database: Database) -> None:
    """Open as many connections as there may be."""
    met = asyncio.Barrier(3)

    async def use() -> None:
        async with database.connection():
            await met.wait()

    await asyncio.gather(use(), use(), use())


async def test_one_silence_is_enough_for_all_connections(proxy: Proxy, notes_url: str) -> None:
    async with distant(proxy, notes_url, timeout=2.0) as database:
        await lend_all(database)
        database._pool.timeout = 0.1
        proxy.hold()
        assert "does not answer" in str(
            await failed(database.fetch("SELECT 1"), within=LIMIT + SLOWER)
        )
        # There were two more to be silent.
        assert "PoolTimeout" in str(await failed(database.fetch("SELECT 1"), within=LIMIT + SLOWER))


async def test_looking_for_stale_connections_ends_though_they_are_silent(
    proxy: Proxy, notes_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "silent_after", 60.0)
    monkeypatch.setattr(database_module, "_CHECK_WITHIN", 0.2)
    async with distant(proxy, notes_url, timeout=2.0) as database:
        await lend_all(database)
        proxy.hold()
        async with asyncio.timeout(3 * 0.2 + SLOWER):
            await database.drop_stale()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
async def test_an_answer_that_came_while_this_process_was_frozen_is_taken(
    proxy: Proxy, notes_url: str
) -> None:
    async with distant(proxy, notes_url) as database:
        asking = asyncio.create_task(database.fetch("SELECT repeat('x', 1000000)"))
        while not database._in_use:
            await asyncio.sleep(0)
        # As SIGSTOP would: the answer comes, and the limit passes, before anybody looks.
        asyncio.get_running_loop().call_soon(time.sleep, 2 * LIMIT)
        async with asyncio.timeout(60):
            assert await asking == [("x" * 1_000_000,)]


@asynccontextmanager
async def one_connection(proxy: Proxy, url: str) -> AsyncIterator[Connection]:
    connection = await connect(by(proxy, url))
    try:
        yield connection
    finally:
        proxy.heal()
        await connection.close()


async def read_much(connection: Connection, count: bytes = b"1000") -> int:
    """How many rows of 1 kB came."""
    with translated():
        result = await read_whole(
            connection, b"SELECT repeat('x', 1000) FROM generate_series(1, $1::int)", [count]
        )
    return result.ntuples


async def test_a_result_that_a_thread_reads_is_given_up_likewise(
    proxy: Proxy, notes_url: str
) -> None:
    async with one_connection(proxy, notes_url) as connection:
        assert await read_much(connection) == 1000
        proxy.hold()
        error = await failed(read_much(connection), within=LIMIT + SLOWER)
        assert type(error) is Unavailable and "does not answer" in str(error)


async def test_a_result_that_a_thread_reads_and_nobody_wants_any_more_keeps_nobody_waiting(
    proxy: Proxy, notes_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "silent_after", 60.0)
    async with one_connection(proxy, notes_url) as connection:
        proxy.hold()
        reading = asyncio.create_task(read_much(connection))
        await asyncio.sleep(0.2)
        reading.cancel()
        await asyncio.wait([reading], timeout=SLOWER)
        assert reading.cancelled()


async def test_a_result_that_came_while_this_process_was_frozen_is_taken(
    proxy: Proxy, notes_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_LOOKS_EVERY", SLOWER)
    async with one_connection(proxy, notes_url) as connection:
        reading = asyncio.create_task(
            read_whole(connection, b"SELECT pg_sleep($1::float8)", [b"%g" % (LIMIT / 2)])
        )
        await asyncio.sleep(LIMIT / 5)
        # As SIGSTOP would: no thread runs, because this call keeps the GIL.
        ctypes.PyDLL(None).usleep(int(2 * LIMIT * 1e6))
        async with asyncio.timeout(60):
            assert (await reading).ntuples == 1


async def test_a_thread_that_reads_a_result_raises_what_the_server_says(
    proxy: Proxy, notes_url: str
) -> None:
    async with one_connection(proxy, notes_url) as connection:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            await read_much(connection, b"many")
        assert await read_much(connection) == 1000
        with psycopg.connect(notes_url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
        assert type(await failed(read_much(connection), within=SLOWER)) is Unavailable


async def test_a_query_that_waits_can_be_told_that_no_answer_will_come(
    proxy: Proxy, notes_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "silent_after", 60.0)
    async with distant(proxy, notes_url) as database:
        for moment, expected in (("statement", Unavailable), ("commit", OutcomeUnknown)):
            reached = asyncio.Event()

            def hold(now: str, at: str = moment, reached: asyncio.Event = reached) -> None:
                if now == at:
                    proxy.hold()
                    reached.set()

            keeping = asyncio.create_task(keep(database, hold))
            await reached.wait()
            await asyncio.sleep(0.2)
            database.cut()
            assert type(await failed(keeping, within=SLOWER)) is expected
            proxy.heal()


async def test_a_dead_machine_is_noticed_by_the_kernel(proxy: Proxy, notes_url: str) -> None:
    async with distant(proxy, notes_url) as database, database.connection() as pooled:
        alone = await connect(by(proxy, notes_url))
        for connection in (pooled, alone):
            with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as sock:
                tcp = {
                    name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                    for name in ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
                }  # fmt: skip
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert list(tcp.values()) == [10_000, 5, 2, 3]
        await alone.close()


async def assert_waits(said: Said, component: str) -> None:
    async def does() -> bool:
        return any(
            entry["event"] == f"{component}.waiting" and "does not answer" in entry["reason"]
            for entry in said.troubles()
        )

    await eventually(does, what=f"{component}.waiting")


@pytest.mark.parametrize("silent", ["its database", "its log"])
async def test_a_relay_waits_for_what_has_fallen_silent_and_goes_on(
    proxy: Proxy, notes_url: str, postgres_log_url: str, said: Said, silent: str
) -> None:
    async with opened(notes_url) as database, opened_log(postgres_log_url) as log:
        log._database = Database(by(proxy, postgres_log_url), timeout=0.2)
        log._opened = False
        url = notes_url if silent == "its log" else by(proxy, notes_url)
        relay = notes.relay(url, log)
        relaying = asyncio.create_task(relay.run())

        async def relayed(position: int) -> None:
            async def is_relayed() -> bool:
                return relay.position == position

            await eventually(is_relayed)

        await notes.publish_notes(database, 1, 10)
        await relayed(10)
        proxy.hold()
        await notes.publish_notes(database, 11, 20)
        await assert_waits(said, "relay")
        proxy.heal()
        await relayed(20)
        assert not await notes.cancel([relaying])


@pytest.mark.parametrize("silent", ["its database", "its log"])
async def test_a_consumer_waits_for_what_has_fallen_silent_and_goes_on(
    proxy: Proxy, copy_url: str, postgres_log_url: str, said: Said, silent: str
) -> None:
    events = [notes.event(n, 1) for n in range(1, 21)]
    wires = [notes.wire(n, event) for n, event in enumerate(events, 1)]
    async with opened(copy_url) as direct, opened_log(postgres_log_url) as log:
        async with distant(proxy, copy_url) as database:
            if silent == "its log":
                reading = type(log)(by(proxy, postgres_log_url))
                consumer = notes.consumer(direct, reading)
            else:
                consumer = notes.consumer(database, log)
            consuming = asyncio.create_task(consumer.run())

            async def copied(count: int) -> None:
                async def are_there() -> bool:
                    return (await notes.copy_of(direct))[1].total() == count

                await eventually(are_there)
                await notes.assert_copied(direct, *events[:count])

            await log.append(notes.TOPIC, wires[:10])
            await copied(10)
            proxy.hold()
            await log.append(notes.TOPIC, wires[10:])
            await assert_waits(said, "consumer")
            proxy.heal()
            await copied(20)
            assert not await notes.cancel([consuming])
            if silent == "its log":
                await reading.close()
