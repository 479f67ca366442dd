"""Measures how fast events go from an outbox through the log into another service's tables."""

import time
from contextlib import ExitStack

import psycopg

from benchmarks.report import Row, Section
from benchmarks.shop_data import add_users
from benchmarks.stage import Shop, Stage, create_topics

TITLE = "Outbox → log → applied"
HOW = """\
The user service's outbox has 100,000 `user.created` events when the workers are started. The time runs from the moment the
worker is ready to the moment the order service's checkpoint has passed the last event. Every event is read,
appended to the log (durably), read from the log, checked, and applied to the `customers` table. The rows are counted.

*One process*: relay and consumer run in a single process and event loop (`benchmarks/one_worker.py`). *Two processes*:
`shop worker users` relays while `shop worker orders` applies, as in the shop.
"""


def run(stage: Stage) -> Section:
    events = stage.number(100_000, least=5_000)
    one, two = [], []
    for number in range(stage.rounds):
        stage.say(f"events applied: round {number + 1} of {stage.rounds}")
        one.append(_one_process(stage, events))
        two.append(_two_processes(stage, events))
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "outbox → log → applied, one worker process", one, "/s",
                at_least=10_000, want=30_000, measured=f"{events:,} events a round",
            ),
            Row(
                "outbox → log → applied, a worker for each service", two, "/s",
                at_least=10_000, want=30_000,
            ),
        ],
    )  # fmt: skip


def _one_process(stage: Stage, events: int) -> float:
    shop = stage.shop()
    create_topics(shop)
    add_users(shop.users, events)
    stage.settle()
    with stage.running("one-worker", "benchmarks.one_worker", env=shop.env):
        return events / applied_after(shop, events)


def _two_processes(stage: Stage, events: int) -> float:
    shop = stage.shop()
    create_topics(shop)
    add_users(shop.users, events)
    stage.settle()
    with ExitStack() as held:
        # Start first the worker that has no work before the other one runs.
        held.enter_context(stage.shop_process(shop, "worker", "orders"))
        held.enter_context(stage.shop_process(shop, "worker", "users"))
        return events / applied_after(shop, events)


def applied_after(shop: Shop, events: int, timeout: float = 300.0) -> float:
    """Seconds until the order service has applied every one of its `events` customers."""
    started = time.perf_counter()
    with psycopg.connect(shop.orders, autocommit=True) as connection:
        while True:
            # Offsets start at 0, so the next offset is the number of applied records.
            row = connection.execute("SELECT sum(next_offset) FROM cursors").fetchone()
            if row and row[0] and row[0] >= events:
                took = time.perf_counter() - started
                break
            if time.perf_counter() - started > timeout:
                raise TimeoutError(f"{events} events were not applied in {timeout:g} s")
            time.sleep(0.01)
        row = connection.execute("SELECT count(*) FROM customers").fetchone()
    if row is None or row[0] < events:
        raise RuntimeError(f"{events} events were applied, there are {row} customers")
    return took
