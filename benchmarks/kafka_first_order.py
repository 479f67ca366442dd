"""Measures the wait of a new user for the first order, on Kafka, under a load of other orders."""

from contextlib import ExitStack

import psycopg

from benchmarks.first_order import first_orders, percentiles, warm_up
from benchmarks.kafka_stage import broker, empty_shop, left_out
from benchmarks.report import Row, Section
from benchmarks.stage import Stage
from devstack.kafka import KafkaNotPossible

TITLE = "From a new user to the first order, on Kafka, at 500 orders a second"
HOW = """\
As above, with Kafka as the log. A separate process sends 500 orders a second from other customers over 20 connections, on
a fixed schedule, whether earlier ones have been answered or not. The actual number of orders a second is shown.
"""

_RATE = 500
_OTHERS = 50


def run(stage: Stage) -> Section:
    users = stage.number(1000)
    p50s, p99s, rates = [], [], []
    try:
        with ExitStack() as held:
            kafka = held.enter_context(broker(stage))
            shop = empty_shop(stage, kafka)
            for service in ("users", "orders"):
                for part in ("api", "worker"):
                    held.enter_context(stage.shop_process(shop, part, service))
            warm_up(shop, _OTHERS)
            words = ("benchmarks.steady", str(shop.orders_port), str(_RATE), str(_OTHERS))
            held.enter_context(stage.running("steady", *words, env=shop.env))
            first_orders(shop, _OTHERS)
            for number in range(stage.rounds):
                stage.say(f"first order on Kafka: round {number + 1} of {stage.rounds}")
                before = _orders(shop.orders)
                waited = first_orders(shop, users)
                after = _orders(shop.orders)
                p50, p99 = percentiles(waited)
                p50s.append(p50)
                p99s.append(p99)
                rates.append((after[0] - before[0] - users) / (after[1] - before[1]))
    except KafkaNotPossible as why:
        return left_out(TITLE, HOW, why)
    if min(rates) < 0.9 * _RATE:
        raise RuntimeError(f"only {min(rates):.0f} of {_RATE} orders a second came in")
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "the same on Kafka, at 500 orders a second, p50", p50s, "ms", less_is_better=True,
                measured=f"{users} users a round, and {min(rates):.0f}/s or more other orders",
            ),
            Row(
                "the same on Kafka, at 500 orders a second, p99", p99s, "ms", less_is_better=True,
                at_least=100.0, want=25.0,
            ),
        ],
    )  # fmt: skip


def _orders(database: str) -> tuple[int, float]:
    """The number of orders, and the time in seconds."""
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT count(*), extract(epoch FROM clock_timestamp())::float8 FROM orders"
        ).fetchone()
    assert row is not None
    return row[0], row[1]
