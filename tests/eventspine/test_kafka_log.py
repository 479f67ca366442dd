"""The log as Kafka topics keeps the contract, and what else Kafka may do to it."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource

from devstack.kafka import LocalKafka
from eventspine.kafka_log import KafkaLog, client
from eventspine.log import EventLog, LogUnavailable, Message, Record, TopicMismatch
from tests.eventspine.log_contract import EventLogContract
from tests.eventspine.subscription_contract import SubscriptionContract
from tests.support.kafka import StartKafka
from tests.support.records import from_offsets, numbered, numbers, poll_until, read_all
from tests.support.topics import log_on, make_topic, new_name


@pytest.mark.kafka
class TestKafkaLog(EventLogContract, SubscriptionContract):
    @pytest.fixture
    async def log(self, kafka: LocalKafka) -> AsyncIterator[EventLog]:
        log = KafkaLog({"bootstrap.servers": kafka.bootstrap_servers})
        yield log
        await log.close()


@pytest.mark.kafka
class TestForeignRecords:
    async def test_any_bytes_come_through(self, kafka: LocalKafka, topic: str) -> None:
        stranger = Producer({"bootstrap.servers": kafka.bootstrap_servers})
        stranger.produce(topic, None, None, partition=0)
        stranger.produce(topic, b"\xff\x00", b"\xfe\x00", partition=0)
        headers: list[tuple[str, str | bytes | None]]
        headers = [("twice", b"1"), ("twice", b"2"), ("bytes", b"\xff\x00z"), ("null", None)]
        stranger.produce(topic, b"", b"", partition=0, headers=headers)
        stranger.flush()
        log = log_on(kafka)
        expected = [
            Record(topic, 0, 0, None, None, {}),
            Record(topic, 0, 1, "\\xfe\x00", b"\xff\x00", {}),
            Record(topic, 0, 2, "", b"", {"twice": "2", "bytes": "\\xff\x00z", "null": ""}),
        ]
        assert await log.read(topic, 0, 0, 10) == expected
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        assert await poll_until(member, 3) == expected
        await log.close()

    def test_a_header_name_that_is_not_utf_8_does_not_stop_the_partition(self) -> None:
        class FromAStranger:
            """As the client answers, which can read such names and not write them."""

            topic, partition, offset = (lambda _: "t"), (lambda _: 1), (lambda _: 2)
            key, value = (lambda _: b"k"), (lambda _: b"v")

            def headers(self) -> None:
                raise SystemError("returned a result with an exception set")

        assert client.record(cast("Any", FromAStranger())) == Record("t", 1, 2, "k", b"v", {})

    async def test_keys_land_where_java_producers_put_them(self, kafka: LocalKafka) -> None:
        # Of Kafka's own test of its partitioner: Utils.murmur2 of these keys.
        known = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
        topic = new_name()
        log = log_on(kafka, partitions=7)
        await log.create_topic(topic)
        await log.append(topic, [Message(key, b"", {}) for key in known])
        found = {record.key: record.partition for record in await read_all(log, topic)}
        assert found == {key: (hash_ & 0x7FFFFFFF) % 7 for key, hash_ in known.items()}
        await log.close()

    async def test_a_message_of_three_megabytes_goes_through(self, kafka: LocalKafka) -> None:
        topic = new_name()
        log = log_on(kafka, partitions=1)
        await log.create_topic(topic)
        big = bytes(3 * 1024 * 1024)
        await log.append(topic, [Message("k", big, {}), Message("k", b"small", {})])
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        assert [record.value for record in await poll_until(member, 2)] == [big, b"small"]
        with pytest.raises(LogUnavailable, match="too large"):
            await log.append(topic, [Message("k", bytes(5 * 1024 * 1024), {})])
        await log.append(topic, [Message("k", b"after", {})])
        assert [record.value for record in await poll_until(member, 1)] == [b"after"]
        await log.close()


@pytest.mark.kafka
class TestTopics:
    async def test_a_new_topic_keeps_everything(self, kafka: LocalKafka) -> None:
        log = log_on(kafka, partitions=5)
        topic = new_name()
        await log.create_topic(topic)
        assert len(await log.end_offsets(topic)) == 5
        await log.close()

        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        settings = admin.describe_configs([resource])[resource].result()
        assert settings["cleanup.policy"].value == "delete"
        assert settings["retention.ms"].value == "-1"
        assert settings["retention.bytes"].value == "-1"

    async def test_each_wrong_setting_is_named(self, kafka: LocalKafka) -> None:
        topic = new_name()
        make_topic(kafka, topic, cleanup_policy="compact", retention_ms="1000")
        log = log_on(kafka)
        with pytest.raises(TopicMismatch) as raised:
            await log.create_topic(topic, 12)
        told = str(raised.value)
        assert topic in told
        assert "it has 3 partitions, not 12" in told
        assert "its cleanup.policy is compact, not delete" in told
        assert "its retention.ms is 1000, not -1" in told
        assert "retention.bytes" not in told
        await log.close()

    async def test_too_few_replicas_are_named(self, kafka: LocalKafka, topic: str) -> None:
        log = log_on(kafka, replication_factor=3)
        with pytest.raises(TopicMismatch, match="its replication factor is 1, not 3"):
            await log.create_topic(topic)
        with pytest.raises(LogUnavailable, match=r"[Rr]eplication"):
            await log.create_topic(new_name())
        await log.close()

    async def test_a_topic_may_come_after_its_reader(self, kafka: LocalKafka) -> None:
        log, topic = log_on(kafka), new_name()
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        assert await member.poll(10, 0.5) == []
        await log.create_topic(topic, 3)
        await log.append(topic, numbered(10))
        assert len(await poll_until(member, 10)) == 10
        await log.close()


@pytest.mark.kafka
class TestOlderBrokers:
    @pytest.mark.heavy
    async def test_classic_groups_are_joined_where_there_are_no_new_ones(
        self, start_kafka: StartKafka
    ) -> None:
        kafka = start_kafka(group_coordinator_rebalance_protocols="classic")
        log, topic = log_on(kafka), new_name()
        await log.create_topic(topic, 3)
        await log.append(topic, numbered(100))
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        assert sorted(numbers(await poll_until(member, 100))) == list(range(100))
        other = log.subscribe(f"group-{topic}", [topic], from_offsets())
        await other.poll(10, 0.5)
        await member.close()
        assert sorted(numbers(await poll_until(other, 100))) == list(range(100))
        await log.close()
