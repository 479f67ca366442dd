"""Measures orders per second that also reach Kafka, compared with a hand-written service."""

from contextlib import ExitStack
from importlib.util import find_spec

import psycopg

from benchmarks.baseline_service import create_tables
from benchmarks.kafka_stage import broker, create_topic, empty_shop, in_log, left_out
from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import Shop, Stage, wait_for
from devstack.kafka import KafkaNotPossible, LocalKafka

TITLE = "Orders a second that reach Kafka"
HOW = """\
As in the first benchmark, with Kafka as the log and the order service's worker running. So every order's event is relayed
to the broker during the load. At the end all events are waited for and counted. The **service written by hand**
(`benchmarks/baseline_service.py`, `BASELINE=kafka`) commits the order in a synchronous SQLAlchemy session, in
FastAPI's thread pool. Then it awaits aiokafka's `send_and_wait` (idempotent, `acks=all`) before it answers. Both use the
same broker and the same PostgreSQL.
"""


def run(stage: Stage) -> Section:
    require_wrk()
    if find_spec("aiokafka") is None:
        return Section(TITLE, HOW, left_out="aiokafka is not installed (requirements/dev.txt)")
    seconds = stage.seconds(6)
    ours, theirs = [], []
    behind = 0
    try:
        with ExitStack() as held:
            kafka = held.enter_context(broker(stage))
            shop = empty_shop(stage, kafka)
            add_customers(shop.orders, CUSTOMERS)
            for part in ("api", "worker"):
                held.enter_context(stage.shop_process(shop, part, "orders"))
            create_topic(kafka, "by-hand")
            database = stage.database("by_hand")
            create_tables(database, CUSTOMERS)
            by_hand = held.enter_context(
                stage.baseline("kafka", database, KAFKA=kafka.bootstrap_servers)
            )
            for url in (by_hand, shop.orders_url):
                post_orders(url, connections=64, seconds=1)
            for number in range(stage.rounds):
                stage.say(f"orders to Kafka: round {number + 1} of {stage.rounds}")
                stage.settle()
                theirs.append(post_orders(by_hand, connections=64, seconds=seconds).per_second)
                stage.settle()
                ours.append(
                    post_orders(shop.orders_url, connections=64, seconds=seconds).per_second
                )
                behind = max(behind, _published(shop) - in_log(kafka, "orders"))
                _all_arrive(shop, kafka)
    except KafkaNotPossible as why:
        return left_out(TITLE, HOW, why)
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "orders a second that reach Kafka, against a service written by hand",
                [a / b for a, b in zip(ours, theirs, strict=True)], "×", at_least=5, want=10,
                measured=f"{spread(ours, '/s')} against {spread(theirs, '/s')}; at the end of a "
                f"round at most {behind} events had still to be relayed",
            ),
        ],
    )  # fmt: skip


def _published(shop: Shop) -> int:
    with psycopg.connect(shop.orders) as connection:
        row = connection.execute("SELECT position FROM outbox_head").fetchone()
    assert row is not None
    return int(row[0])


def _all_arrive(shop: Shop, kafka: LocalKafka) -> None:
    published = _published(shop)
    wait_for(lambda: in_log(kafka, "orders") >= published, timeout=60, pause=0.5)
