"""An API has a database connection for each batch that may be under way, however many there are."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest
from fastapi import APIRouter

from eventspine.batching import Batcher
from eventspine.database import Database
from shop.platform import discovery
from shop.platform.processes import files
from shop.platform.processes.api import make_app
from shop.platform.service import Endpoints
from shop.platform.settings import Settings
from tests.support.serving import settings_of


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_the_lanes_of_twelve_batchers_never_wait_for_each_others_connections(
    users_url: str, concurrency: int
) -> None:
    batchers: list[Batcher[int, int]] = []
    count = 12 * concurrency

    def endpoints(settings: Settings, database: Database) -> Endpoints:
        async def meet(commands: Sequence[int]) -> Sequence[int]:
            async with database.connection() as connection:
                await connection.execute("SELECT 1")
                await asyncio.wait_for(all_hold_one.wait(), 20)
            return commands

        batchers.extend(
            Batcher(meet, **settings.bounds(), max_batch=1, concurrency=concurrency)
            for _ in range(12)
        )
        return Endpoints(APIRouter(), tuple(batchers))

    all_hold_one = asyncio.Barrier(count)
    service = replace(discovery.load("users"), endpoints=endpoints)
    app = make_app(service, settings_of("users", users_url))
    async with app.router.lifespan_context(app):
        await asyncio.gather(
            *(batcher.submit(n) for batcher in batchers for n in range(concurrency))
        )
        with psycopg.connect(users_url) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
        assert found is not None
        # One more for the question whether it is ready.
        assert count <= found[0] <= count + 1


def test_more_connections_to_the_database_leave_fewer_files_to_clients() -> None:
    assert files.for_connections(100, database=40) - files.for_connections(100, database=10) == 60
