"""What a session brings along from its database, its role and its URL."""

import asyncio
import os
import signal
from collections.abc import Callable
from urllib.parse import quote

import psycopg
import pytest

from devstack.postgres import LocalPostgres
from eventspine.database import Database, connect
from eventspine.session import SESSION_SETTINGS
from tests.support import notes
from tests.support.spine import opened
from tests.support.waiting import eventually, until


def set_for(url: str, whom: str, setting: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        name = connection.info.dbname if whom == "DATABASE" else connection.info.user
        connection.execute(f"ALTER {whom} {name} SET {setting}".encode())


async def show(database: Database, name: str) -> str:
    [(value,)] = await database.fetch("SELECT current_setting(%(name)s)", {"name": name})
    return str(value)


async def test_a_commit_is_on_disk_even_if_the_database_is_set_not_to_wait(
    own_postgres: LocalPostgres, own_notes: Callable[[], str]
) -> None:
    url = own_notes()
    set_for(url, "DATABASE", "synchronous_commit TO off")
    async with opened(url, size=1, timeout=1.0) as database:
        await notes.publish_notes(database, 1, 1)
        assert own_postgres.pid
        os.kill(own_postgres.pid, signal.SIGKILL)
        await eventually(own_postgres.ended)
        own_postgres.start()
        while not own_postgres.ready():
            if own_postgres.ended():
                own_postgres.start()
            await asyncio.sleep(0.02)
        assert await database.fetch("SELECT position FROM outbox") == [(1,)]


async def test_a_database_may_wait_for_more_than_its_own_disk(notes_url: str) -> None:
    set_for(notes_url, "DATABASE", "synchronous_commit TO remote_apply")
    try:
        async with opened(notes_url) as database:
            assert await show(database, "synchronous_commit") == "remote_apply"
    finally:
        with psycopg.connect(notes_url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {connection.info.dbname} RESET ALL".encode())


async def test_settings_of_a_role_or_url_change_only_what_a_session_leaves_open(
    notes_url: str,
) -> None:
    with psycopg.connect(notes_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE settled LOGIN SUPERUSER")
        connection.execute("ALTER ROLE settled SET TimeZone TO 'Asia/Tokyo'")
        connection.execute("ALTER ROLE settled SET work_mem TO '7MB'")
    options = quote("-c DateStyle=German -c maintenance_work_mem=3MB")
    url = f"{notes_url.replace('postgres@', 'settled@')}&options={options}"
    try:
        async with opened(url) as database:
            assert [await show(database, name) for name in ("TimeZone", "work_mem")] == [
                "UTC",
                "7MB",
            ]
            assert await show(database, "DateStyle") == "ISO, MDY"
            assert await show(database, "maintenance_work_mem") == "3MB"
        alone = await connect(url)
        found = await (await alone.execute("SHOW TimeZone")).fetchone()
        await alone.close()
        assert found == ("UTC",)
    finally:
        with psycopg.connect(notes_url, autocommit=True) as connection:
            connection.execute("DROP ROLE settled")


def test_every_setting_that_is_pinned_is_one_of_postgresqls(notes_url: str) -> None:
    with psycopg.connect(notes_url) as connection:
        [(known,)] = connection.execute("SELECT array_agg(lower(name)) FROM pg_settings").fetchall()
    assert {name.lower() for name in SESSION_SETTINGS} <= set(known)


async def test_a_session_that_can_not_be_pinned_is_not_used(notes_url: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="work_mem"):
        await connect(notes_url, work_mem="plenty")
    with psycopg.connect(notes_url, autocommit=True) as connection:

        def is_the_only_session() -> bool:
            sessions = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            )
            return sessions.fetchone() == (1,)

        # The server ends the other's some milliseconds after it was closed.
        until(is_the_only_session, "the session is closed")
