"""A connection whose socket the event loop watches between statements too."""

import asyncio
import resource
from contextlib import suppress

import psycopg
import pytest

from eventspine.database import connect
from tests.support.waiting import eventually

_END = "SELECT pg_terminate_backend(pg_backend_pid())"


@pytest.mark.parametrize("ended", ["by its own statement", "while it was idle", "by a close"])
async def test_a_new_session_on_the_socket_number_of_an_ended_one_is_heard(
    notes_url: str, ended: str
) -> None:
    async with asyncio.timeout(20):
        helper, old = await connect(notes_url), await connect(notes_url)
        row = await (await old.execute("SELECT pg_backend_pid()")).fetchone()
        assert row is not None
        number = old.fileno()
        match ended:
            case "by its own statement":
                with pytest.raises(psycopg.OperationalError):
                    await old.execute(_END)
            case "while it was idle":
                await helper.execute("SELECT pg_terminate_backend(%s)", row)
                with suppress(psycopg.OperationalError):
                    await old.execute("SELECT 1")
            case _:
                await old.close()
        new = await connect(notes_url)
        assert new.fileno() == number
        for value in range(3):
            assert await (await new.execute("SELECT %s::int", [value])).fetchone() == (value,)
        for each in (helper, old, new):
            await each.close()


async def test_a_session_that_ends_while_it_is_idle_costs_no_time(notes_url: str) -> None:
    helper, idle = await connect(notes_url), await connect(notes_url)
    row = await (await idle.execute("SELECT pg_backend_pid()")).fetchone()
    await helper.execute("SELECT pg_terminate_backend(%s)", row)

    async def is_gone() -> bool:
        found = await helper.execute("SELECT FROM pg_stat_activity WHERE pid = %s", row)
        return await found.fetchone() is None

    await eventually(is_gone)
    before = resource.getrusage(resource.RUSAGE_THREAD)
    await asyncio.sleep(0.5)
    after = resource.getrusage(resource.RUSAGE_THREAD)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.05
    await idle.close()
    await helper.close()


async def test_a_session_is_usable_after_a_cancelled_statement(notes_url: str) -> None:
    connection = await connect(notes_url)
    for _ in range(3):
        running = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with asyncio.timeout(5):
            assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
    await connection.close()


async def test_what_is_longer_than_the_sockets_buffer_is_sent(notes_url: str) -> None:
    connection = await connect(notes_url)
    text = "x" * 30_000_000
    async with asyncio.timeout(30):
        row = await (await connection.execute("SELECT length(%s)", [text])).fetchone()
    assert row == (len(text),)
    await connection.close()
