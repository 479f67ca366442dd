"""Measures the relay and the consumer on Kafka, and Kafka's own producer for comparison."""

import json
import os
import subprocess
import time
from collections.abc import Callable

import psycopg

from benchmarks.kafka_stage import (
    broker,
    create_topic,
    delete_topics,
    empty_shop,
    in_log,
    jars,
    left_out,
)
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_users
from benchmarks.stage import Shop, Stage
from devstack.kafka import KafkaNotPossible, LocalKafka, require_java
from eventspine.event import message
from eventspine.kafka_log.client import LARGEST_MESSAGE

TITLE = "Events through Kafka"
HOW = """\
One Kafka broker (KRaft, replication 1) runs on the machine, with 12 partitions. The outbox has 500,000 `user.created`
events when the relay is started, alone in its process. The time runs from its start until its saved position is the
last one. All events are then confirmed with `acks=all`. The topic's records are counted.

Kafka's own `ProducerPerformance` sends as many records of the same size, idempotent, with `acks=all`, the relay's
compression and its batch limit (4 MiB). Its payload is the text of our keys, values and headers, so that compression
has the same effect. It runs after the relay in one round and before it in the next. It may have five requests in
flight, and the relay has one for each partition (see `kafka_log/appender.py`). Its records have no keys, so it fills a
large batch for one partition and then one for the next. That is less work for the broker than keys, which distribute
events over all partitions. So it is measured a second time, with its records *spread* over the partitions
(`RoundRobinPartitioner`). Before the first round the broker gets 100,000 records, unmeasured.

Then the consumer is started, alone in its process, and applies the events to the order service's `customers`. The time
runs from the first checkpoint that moves, so it does not include joining the group.
"""

_TOPIC = "producer-performance"
_SPREAD = "org.apache.kafka.clients.producer.RoundRobinPartitioner"


def run(stage: Stage) -> Section:
    events = stage.number(500_000, least=20_000)
    relayed: list[float] = []
    produced: list[float] = []
    spread_out: list[float] = []
    applied: list[float] = []
    try:
        with broker(stage) as kafka:
            for number in range(stage.rounds):
                stage.say(f"events through Kafka: round {number + 1} of {stage.rounds}")
                shop = empty_shop(stage, kafka)
                add_users(shop.users, events)
                if number == 0:
                    _producer_performance(stage, kafka, shop, min(events, 100_000))
                stage.settle()
                turns: list[Callable[[], None]] = [
                    lambda: relayed.append(_relay(stage, kafka, shop, events)),  # noqa: B023
                    lambda: produced.append(_producer_performance(stage, kafka, shop, events)),  # noqa: B023
                    lambda: spread_out.append(
                        _producer_performance(stage, kafka, shop, events, _SPREAD)  # noqa: B023
                    ),
                ]
                for turn in turns if number % 2 == 0 else reversed(turns):
                    turn()
                stage.settle()
                applied.append(_consumer(stage, shop, events))
    except KafkaNotPossible as why:
        return left_out(TITLE, HOW, why)
    ratios = [a / b for a, b in zip(relayed, produced, strict=True)]
    spread_ratios = [a / b for a, b in zip(relayed, spread_out, strict=True)]
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "relay: outbox → Kafka, one process", relayed, "/s",
                at_least=30_000, want=80_000, measured=f"{events:,} events a round",
            ),
            Row(
                "relay, against Kafka's `ProducerPerformance`", ratios, "×",
                at_least=0.3, want=0.6,
                measured=f"{spread(relayed, '/s')} against {spread(produced, '/s')}",
            ),
            Row(
                "the same, its records spread over the partitions", spread_ratios, "×",
                measured=f"{spread(relayed, '/s')} against {spread(spread_out, '/s')}",
            ),
            Row(
                "consumer: Kafka → customers, one process", applied, "/s",
                at_least=15_000, want=50_000,
            ),
        ],
    )  # fmt: skip


def _relay(stage: Stage, kafka: LocalKafka, shop: Shop, events: int) -> float:
    with stage.running("relay", "benchmarks.one_worker", "relay", env=shop.env):
        started = time.perf_counter()
        with psycopg.connect(shop.users, autocommit=True) as connection:
            _until(connection, "SELECT position FROM relay", events)
        took = time.perf_counter() - started
    if (found := in_log(kafka, "users")) != events:
        raise RuntimeError(f"{events} events were relayed, the log holds {found}")
    return events / took


def _consumer(stage: Stage, shop: Shop, events: int) -> float:
    # Offsets start at 0, so the sum of the next offsets is the number of applied records.
    progress = "SELECT sum(next_offset) FROM cursors"
    with stage.running("consumer", "benchmarks.one_worker", "consumer", env=shop.env):
        with psycopg.connect(shop.orders, autocommit=True) as connection:
            before = _until(connection, progress, 1)
            started = time.perf_counter()
            _until(connection, progress, events)
            took = time.perf_counter() - started
            row = connection.execute("SELECT count(*) FROM customers").fetchone()
    if row is None or row[0] != events:
        raise RuntimeError(f"{events} events were applied, there are {row} customers")
    return (events - before) / took


def _until(connection: psycopg.Connection, progress: str, enough: int) -> int:
    deadline = time.monotonic() + 300
    while True:
        row = connection.execute(progress).fetchone()
        if row and row[0] and row[0] >= enough:
            return int(row[0])
        if time.monotonic() > deadline:
            raise TimeoutError(f"{row} of {enough} after 300 s")
        time.sleep(0.01)


def _producer_performance(
    stage: Stage, kafka: LocalKafka, shop: Shop, events: int, partitioner: str | None = None
) -> float:
    """Records per second, as the program reports."""
    delete_topics(kafka, [_TOPIC])
    create_topic(kafka, _TOPIC)
    payload = stage.directory / "payload.txt"
    payload.write_text("\n".join(_payload(shop)))
    producer = {
        "bootstrap.servers": kafka.bootstrap_servers,
        # The settings of the relay's producer (`eventspine/kafka_log/appender.py`).
        "acks": "all",
        "enable.idempotence": "true",
        "batch.size": str(LARGEST_MESSAGE),
        "max.request.size": str(2 * LARGEST_MESSAGE),
        "buffer.memory": str(64 * 1024 * 1024),
        "linger.ms": "100",
        "compression.type": "lz4",
    }
    if partitioner:
        producer["partitioner.class"] = partitioner
    command = [
        *(require_java(), "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"),
        *("-cp", f"{jars()}{os.sep}*", "org.apache.kafka.tools.ProducerPerformance"),
        *("--topic", _TOPIC, "--num-records", str(events), "--throughput", "-1"),
        *("--payload-file", str(payload), "--producer-props"),
        *(f"{name}={value}" for name, value in producer.items()),
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    last = [line for line in told.splitlines() if "records sent, " in line][-1]
    return float(last.split("records sent, ")[1].split()[0])


def _payload(shop: Shop) -> list[str]:
    """Complete records (key, value and headers), one per line."""
    with psycopg.connect(shop.users) as connection:
        rows = connection.execute(
            "SELECT position, key, type, time::text, data::text FROM outbox LIMIT 10000"
        ).fetchall()
    lines = []
    for position, key, type_, at, data in rows:
        sent = message("/users", str(position), key, type_, "1", at, data.encode(), None)
        headers = "".join(name + value for name, value in sent.headers.items())
        lines.append(f"{key}{json.dumps(json.loads(data))}{headers}")
    return lines
