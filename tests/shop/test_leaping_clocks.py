"""The whole shop, while its databases' clock leaps."""

import asyncio

import pytest

from eventspine.database import Database
from eventspine.log_tables import metadata as log_metadata
from eventspine.pruning import Pruner
from shop.platform import discovery
from shop.platform.migrations import migrate
from tests.support.clocks import LeapingPostgres
from tests.support.databases import LOG_MIGRATIONS, Databases
from tests.support.living import living, shop
from tests.support.serving import serving


@pytest.fixture
def leaping_databases(leaping_postgres: LeapingPostgres) -> Databases:
    urls = {}
    for name in discovery.names():
        urls[name] = leaping_postgres.new_database()
        service = discovery.load(name)
        migrate(urls[name], service.tables(), service.migrations)
    urls["log"] = leaping_postgres.new_database()
    migrate(urls["log"], log_metadata, LOG_MIGRATIONS)
    return Databases(urls)


@pytest.mark.heavy
@pytest.mark.timeout(300)
async def test_every_event_is_applied_once_in_order_whatever_the_date(
    leaping_postgres: LeapingPostgres, leaping_databases: Databases
) -> None:
    """Relays take office anew after each leap, and look whether the log's end is their outbox's."""
    async with living(leaping_databases) as system:
        for n, hours in enumerate([0, 26, -26, 0, 24 * 400, 0]):
            leaping_postgres.leap(hours)
            async with system.moving():
                await system.create(3)
                await system.update(1, 2, 3 * n + 1)
                await system.settled()
                await system.place(1, 2, 3 * n + 2)
                await system.cancel(3 * n + 1)
                await system.settled()
            result = await asyncio.to_thread(shop, leaping_databases, "audit")
            assert result.exit_code == 0, result.output
    leaping_postgres.leap(0)
    with serving("orders", leaping_databases.orders) as orders:
        listed = orders.client.get("/orders", params={"limit": 100}).json()
        ids = [order["id"] for order in listed["items"]]
        dates = [order["placed_at"] for order in listed["items"]]
        assert ids == sorted(ids) or ids == sorted(ids, reverse=True)
        assert dates != sorted(dates)
        assert dates != sorted(dates, reverse=True)


async def test_one_key_places_one_order_whatever_the_date(
    leaping_postgres: LeapingPostgres, leaping_databases: Databases
) -> None:
    async def prune() -> None:
        database = Database(leaping_databases.orders)
        await database.open()
        pruner = Pruner(database, outbox_seconds=60, key_seconds=60, parked_seconds=60)
        for _ in range(3):
            await pruner.prune()
        await database.close()

    async with living(leaping_databases) as system, system.moving():
        await system.create(1)
        await system.settled()
    order = {"product": "tea", "quantity": 1, "total_price": "1.50", "user_id": 1}
    with serving("orders", leaping_databases.orders) as orders:

        def place(key: str) -> bytes:
            answer = orders.client.post("/orders", json=order, headers={"Idempotency-Key": key})
            assert answer.status_code == 201
            return answer.content

        answers = {}
        for n, hours in enumerate([0, 26, -26, 0]):
            leaping_postgres.leap(hours)
            answers[f"key-{n}"] = place(f"key-{n}")
            await prune()
            assert all(place(key) == first for key, first in answers.items())
        assert orders.rows("SELECT count(*) FROM orders") == [(4,)]
