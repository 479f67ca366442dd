"""A member that was forgotten joins its group anew; one that has nothing to read does not."""

import asyncio
import logging

import pytest
from confluent_kafka import TopicPartition

from devstack.kafka import LocalKafka
from eventspine.kafka_log import KafkaLog, KafkaSubscription, watch
from eventspine.log import Record
from tests.support.records import from_offsets, numbered, poll_until
from tests.support.topics import log_on, new_name

pytestmark = pytest.mark.kafka

ANEW = "kafka.group_rejoined"


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.7)


async def reading(log: KafkaLog, topic: str) -> KafkaSubscription:
    """All of the topic is read, and the member waits for more."""
    await log.create_topic(topic, partitions=3)
    await log.append(topic, numbered(20))
    subscription = log.subscribe(new_name(), [topic], from_offsets({}))
    await poll_until(subscription, 20)
    return subscription


async def test_partitions_taken_out_without_a_revocation_are_read_again(
    kafka: LocalKafka, caplog: pytest.LogCaptureFixture
) -> None:
    log, topic = log_on(kafka), new_name()
    subscription = await reading(log, topic)
    assert subscription._consumer
    lost = [TopicPartition(*at) for at in subscription._reading]
    subscription._consumer.incremental_unassign(lost)
    subscription._reading.clear()
    await log.append(topic, numbered(20))
    assert len(await poll_until(subscription, 40)) == 40
    assert ANEW in caplog.text and "was never given to us" in caplog.text
    await log.close()


@pytest.mark.heavy
async def test_partitions_of_which_nothing_is_sent_are_read_again(
    kafka: LocalKafka, caplog: pytest.LogCaptureFixture
) -> None:
    log, topic = log_on(kafka), new_name()
    subscription = await reading(log, topic)
    assert subscription._consumer
    subscription._consumer.pause([TopicPartition(*at) for at in subscription._reading])
    await log.append(topic, numbered(20))
    assert len(await poll_until(subscription, 40)) == 40
    assert ANEW in caplog.text and "nothing is sent of" in caplog.text
    await log.close()


async def test_one_partition_that_stands_still_is_noticed_though_the_others_go_on(
    kafka: LocalKafka, caplog: pytest.LogCaptureFixture
) -> None:
    log, topic = log_on(kafka), new_name()
    subscription = await reading(log, topic)
    assert subscription._consumer
    stuck = next(at for at in subscription._reading)
    subscription._consumer.pause([TopicPartition(*stuck)])
    read: list[Record] = []
    async with asyncio.timeout(30):
        while not any((one.topic, one.partition) == stuck for one in read):
            # All the while something comes of each of the others.
            await log.append(topic, numbered(20))
            read += await subscription.poll(100, 0.1)
    assert ANEW in caplog.text
    assert f"nothing is sent of {stuck[0]}/{stuck[1]} from" in caplog.text
    await log.close()


@pytest.mark.heavy
async def test_a_member_that_has_nothing_to_read_stays_where_it_is(
    kafka: LocalKafka, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log, topic = log_on(kafka), new_name()
    first = await reading(log, topic)
    # More members than partitions: some have none, and that is right.
    group = first._config["group.id"]
    others = [log.subscribe(str(group), [topic], from_offsets({})) for _ in range(4)]
    members = [member.memberid() for member in [first._consumer] if member]
    async with asyncio.timeout(30):
        await asyncio.gather(*(each.poll(100, 5.0) for each in (first, *others)))
    assert ANEW not in caplog.text
    assert first._consumer and [first._consumer.memberid()] == members
    await log.close()
