"""One event's whole way: outbox, relay, log, consumer."""

import asyncio

from eventspine.consumer import Consumer
from eventspine.database import Database
from eventspine.outbox import transaction
from eventspine.postgres_log import PostgresLog
from eventspine.relay import Relay
from shop.services.orders.handlers import HANDLERS
from shop.services.users import actions
from shop.services.users.schemas import CreateUser
from tests.conftest import Databases


def test_an_event_published_here_is_applied_there(databases: Databases) -> None:
    async def walk() -> list[tuple[object, ...]]:
        users, orders = Database(databases.users), Database(databases.orders)
        log = PostgresLog(databases.log)
        await users.open()
        await orders.open()
        await log.create_topic("users")
        relay = Relay(databases.users, log, source="/users", topics=["users"], batch=100)
        consumer = Consumer(orders, log, HANDLERS)
        async with transaction(users) as tx:
            await actions.create(
                tx, [CreateUser("a@example.com", "A"), CreateUser("b@example.com", "B")]
            )
        tasks = [asyncio.create_task(relay.run()), asyncio.create_task(consumer.run())]
        rows: list[tuple[object, ...]] = []
        for _ in range(500):
            rows = await orders.fetch(
                "SELECT id, name, email, version, erased FROM customers ORDER BY id"
            )
            if len(rows) == 2:
                break
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await log.close()
        await users.close()
        await orders.close()
        return rows

    assert asyncio.run(walk()) == [
        (1, "A", "a@example.com", 1, False),
        (2, "B", "b@example.com", 1, False),
    ]
