"""Runs the users' relay and the orders' consumer in one process and one event loop.

It does the work of `shop worker` for two services. So one process does all the work for an event: outbox → log →
applied.
"""

import asyncio
import sys

import uvloop

from eventspine.consumer import Consumer
from eventspine.database import Database
from eventspine.relay import Relay
from shop.platform import discovery
from shop.platform.event_log import database_url, open_event_log, relay_batch
from shop.platform.logging import configure_logging
from shop.platform.processes import garbage
from shop.platform.processes.ready import notify_ready
from shop.platform.settings import read_settings


async def work(parts: list[str]) -> None:
    settings = read_settings(discovery.sections())
    log = open_event_log(settings)
    users, orders = discovery.load("users"), discovery.load("orders")
    tasks = []
    if "relay" in parts:
        relay = Relay(
            database_url(settings, "users"), log,
            source=users.source, topics=[users.topic], batch=relay_batch(settings),
        )  # fmt: skip
        tasks.append(asyncio.create_task(relay.run()))
    if "consumer" in parts:
        database = Database(database_url(settings, "orders"), size=3, timeout=10.0)
        await database.open()
        consumer = Consumer(database, log, orders.handlers, batch=settings.consumer_batch)
        tasks.append(asyncio.create_task(consumer.run()))
    garbage.settle()
    notify_ready()
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    configure_logging("one worker", level="warning")
    from shop.platform.processes import garbage

    garbage.settle()
    uvloop.run(work(sys.argv[1:] or ["relay", "consumer"]))
