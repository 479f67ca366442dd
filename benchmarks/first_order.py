"""Measures how long a new user waits until the order service accepts an order."""

import json
import time
from contextlib import ExitStack
from statistics import quantiles

from benchmarks.client import Client
from benchmarks.report import Row, Section
from benchmarks.stage import Shop, Stage, create_topics, wait_for

TITLE = "From a new user to the first order"
HOW = """\
All four processes of the shop run. New users are created one after the other. The time runs from the answer to
`POST /users` (its last byte) to the 201 of an order from that user, sent at once on another kept-alive connection.
It includes the relay, the log, the order service's consumer, the time that an order waits for its customer, and the
order's own commit. A 404 fails the run.
"""


def run(stage: Stage) -> Section:
    users = stage.number(1000)
    p50s, p99s = [], []
    with ExitStack() as held:
        shop = stage.shop()
        create_topics(shop)
        for service in ("users", "orders"):
            for part in ("api", "worker"):
                held.enter_context(stage.shop_process(shop, part, service))
        warm_up(shop, 50)
        for number in range(stage.rounds):
            stage.say(f"first order: round {number + 1} of {stage.rounds}")
            stage.settle()
            p50, p99 = percentiles(first_orders(shop, users))
            p50s.append(p50)
            p99s.append(p99)
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "`POST /users` answered → an order accepted, p50", p50s, "ms", less_is_better=True,
                measured=f"{users} users a round",
            ),
            Row(
                "`POST /users` answered → an order accepted, p99", p99s, "ms", less_is_better=True,
                at_least=50.0, want=15.0,
            ),
        ],
    )  # fmt: skip


def warm_up(shop: Shop, count: int) -> None:
    """Create `count` users with one order each. The first order waits until the workers are connected."""
    users, orders = Client(shop.users_port), Client(shop.orders_port)
    user = _new_user(users)
    wait_for(lambda: orders.post("/orders", _order(user))[0] == 201, timeout=60)
    users.close()
    orders.close()
    first_orders(shop, count - 1)


def first_orders(shop: Shop, count: int) -> list[float]:
    """For each new user, the milliseconds from the answer for the user to the 201 of the order."""
    users, orders = Client(shop.users_port), Client(shop.orders_port)
    waited = []
    for _ in range(count):
        user = _new_user(users)
        answered = time.perf_counter()
        status, body = orders.post("/orders", _order(user))
        waited.append((time.perf_counter() - answered) * 1000)
        if status != 201:
            raise RuntimeError(f"POST /orders: {status} {body!r}")
    users.close()
    orders.close()
    return waited


def _new_user(client: Client) -> int:
    email = f"user-{time.time_ns()}@example.com"
    status, body = client.post("/users", json.dumps({"email": email, "name": "New"}).encode())
    if status != 201:
        raise RuntimeError(f"POST /users: {status} {body!r}")
    return int(json.loads(body)["id"])


def _order(user: int) -> bytes:
    return b'{"user_id":%d,"product":"coffee","quantity":1,"total_price":"4.50"}' % user


def percentiles(values: list[float]) -> tuple[float, float]:
    cuts = quantiles(values, n=100)
    return cuts[49], cuts[98]
