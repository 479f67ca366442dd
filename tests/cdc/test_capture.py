"""Change data capture on a real PostgreSQL, Kafka and Debezium."""

import asyncio
import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from devstack.kafka import LocalKafka
from eventspine.backlog import following
from eventspine.database import connect
from tests.support.capture import CaptureStage, need_debezium
from tests.support.kafka import need_kafka
from tests.support.topics import forget_topics, log_on, new_name
from tests.support.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.heavy, pytest.mark.timeout(180)]

ODD = ("plain", "Käse 🧀", 'it\'s "quoted" \\ back', "tab\tline\nend", "x" * 200, "null", "1.0", "")


DIGITS = ("", ".5", ".120", ".000001", ".100000", ".123456")
"""Of a second."""


@pytest.fixture(scope="module")
def stage(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaptureStage]:
    need_kafka()
    need_debezium()
    forget_topics(kafka.bootstrap_servers)
    with CaptureStage(kafka, tmp_path_factory.mktemp("cdc")) as stage:
        stage.begin(SHOP_CONNECT_URL="")
        stage.start_connect()
        stage.worker("orders")
        stage.worker("users")
        yield stage


def events(count: int, seed: int = 7) -> list[Mapping[str, object]]:
    """Events with all that can be difficult about them."""
    dice = random.Random(seed)

    def one(number: int) -> Mapping[str, object]:
        headers: Any = None
        if number % 2:
            headers = {
                "traceparent": f"00-{dice.getrandbits(128):032x}-01",
                "z": "1.0",
                "a": dice.choice(ODD),
            }
        data = {
            "id": number, "version": 1, "product": dice.choice(ODD), "total_price": "1.50",
            "number": dice.choice([1, 1.0, 12345678901234567890, 1e300, -0.0]), "none": None, "list": [1, "2", {}],
        }  # fmt: skip
        key = dice.choice([str(number), dice.choice(ODD[:3]) + str(number % 50)])
        return {
            "t": "orders",
            "k": key,
            "y": "order.placed",
            "s": 1,
            "v": 1,
            "d": data,
            "h": headers,
        }

    return [one(number) for number in range(count)]


async def polled(stage: CaptureStage, topic: str) -> None:
    """Send what the polling relay sends to another topic with as many partitions."""
    connection = await connect(stage.postgres.dsn("orders"))
    log = log_on(stage.kafka, partitions=12)
    try:
        await log.create_topic(topic)
        batch = await following(connection, "/orders", 0, 100_000)
        for messages in batch.by_topic().values():
            await log.append(topic, messages)
    finally:
        await connection.close()
        await log.close()


def head(stage: CaptureStage) -> int:
    return int(stage.rows("orders", "SELECT position FROM outbox_head")[0][0])


def relayed(stage: CaptureStage) -> int:
    return int(stage.rows("orders", "SELECT position FROM relay")[0][0])


def all_is_relayed(stage: CaptureStage) -> bool:
    return relayed(stage) == head(stage)


def test_what_arrives_is_byte_for_byte_what_the_polling_relay_sends(stage: CaptureStage) -> None:
    everything = events(2000)
    for at in range(0, len(everything), 37):
        stage.publish("orders", everything[at : at + 37])
    stage.publish_at(
        [f"2026-01-0{day} 12:00:0{day}{digits}+02" for day, digits in enumerate(DIGITS, 1)]
    )
    until(lambda: all_is_relayed(stage), "all is relayed", 30)
    topic = new_name()
    asyncio.run(polled(stage, topic))
    assert stage.records("orders") == stage.records(topic)
    assert sum(len(each) for each in stage.records("orders").values()) == 2000 + len(DIGITS)
