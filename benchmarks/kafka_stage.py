"""A Kafka broker for the benchmarks, with empty topics."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient

from benchmarks.report import Section
from benchmarks.stage import PROJECT, Shop, Stage
from devstack.kafka import KafkaNotPossible, LocalKafka, pinned_version
from eventspine.kafka_log import KafkaLog
from shop.platform import discovery

PARTITIONS = 12


def jars() -> Path:
    """The folder in which `shop up --kafka local` also keeps Kafka's artifacts."""
    return PROJECT / ".tools" / f"kafka-{pinned_version()}"


@contextmanager
def broker(stage: Stage) -> Iterator[LocalKafka]:
    """Run a broker inside the block. Raises `KafkaNotPossible`."""
    stage.made += 1
    kafka = LocalKafka(stage.directory / f"kafka-{stage.made}", jars=jars())
    stage.say("starting Kafka")
    kafka.start()
    try:
        kafka.wait_ready()
        yield kafka
    finally:
        kafka.stop()


def empty_shop(stage: Stage, kafka: LocalKafka) -> Shop:
    """New databases and recreated topics, because a log must not be ahead of its databases."""
    topics = [discovery.load(name).topic for name in discovery.names()]
    delete_topics(kafka, topics)
    for topic in topics:
        create_topic(kafka, topic)
    return stage.shop(kafka.bootstrap_servers, PARTITIONS)


def create_topic(kafka: LocalKafka, topic: str) -> None:
    async def create() -> None:
        log = KafkaLog({"bootstrap.servers": kafka.bootstrap_servers}, partitions=PARTITIONS)
        await log.create_topic(topic)
        await log.close()

    asyncio.run(create())


def delete_topics(kafka: LocalKafka, topics: list[str]) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    there = set(admin.list_topics(timeout=10).topics) & set(topics)
    if not there:
        return
    for done in admin.delete_topics(sorted(there)).values():
        done.result()
    deadline = time.monotonic() + 20
    while set(admin.list_topics(timeout=10).topics) & there:
        if time.monotonic() > deadline:
            raise TimeoutError("Kafka did not delete the topics")
        time.sleep(0.1)


def in_log(kafka: LocalKafka, topic: str) -> int:
    """The number of records in the topic."""

    async def ends() -> int:
        log = KafkaLog({"bootstrap.servers": kafka.bootstrap_servers})
        found = await log.end_offsets(topic)
        await log.close()
        return sum(found.values())

    return asyncio.run(ends())


def left_out(title: str, how: str, why: KafkaNotPossible) -> Section:
    return Section(title, how, left_out=str(why))
