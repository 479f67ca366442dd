"""The log as Kafka topics keeps the contract, and what else Kafka may do to it."""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any, cast

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource

from devstack.kafka import LocalKafka
from eventspine.kafka_log import KafkaLog, OffsetNotInLog, appender, client, subscription
from eventspine.log import EventLog, LogUnavailable, Message, Record, TopicMismatch
from tests.eventspine.log_contract import EventLogContract
from tests.support.kafka import StartKafka
from tests.support.records import OpenLog, from_offsets, numbered, numbers, poll_until, read_all
from tests.support.topics import cut, frozen, kill, log_on, make_topic, new_name


@pytest.mark.kafka
class TestKafkaLog(EventLogContract):
    @pytest.fixture
    def open_log(self, kafka: LocalKafka) -> OpenLog:
        async def open_log() -> EventLog:
            return KafkaLog({"bootstrap.servers": kafka.bootstrap_servers})

        return open_log


@pytest.fixture
def topic(kafka: LocalKafka) -> str:
    """A topic of three partitions in the session's broker."""
    name = new_name()
    make_topic(kafka, name)
    return name


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
class TestOffsetsThatAreNotThere:
    async def test_a_start_past_the_end_is_an_error_and_the_others_go_on(
        self, kafka: LocalKafka, topic: str
    ) -> None:
        log = log_on(kafka)
        await log.append(topic, numbered(300))
        ends = await log.end_offsets(topic)
        cursors = {(topic, 1): ends[1] + 1}
        member = log.subscribe(f"group-{topic}", [topic], from_offsets(cursors))
        records: list[Record] = []
        errors: list[OffsetNotInLog] = []
        while len(records) < 300 - ends[1] or not errors:
            try:
                records += await member.poll(1000, 0.5)
            except OffsetNotInLog as error:
                errors.append(error)
        assert {record.partition for record in records} == {0, 2}
        assert (errors[0].partition, errors[0].offset) == (1, ends[1] + 1)
        assert f"{topic}/1 has no offset {ends[1] + 1}" in str(errors[0])

        # Whoever decided has set the checkpoint back: no restart is needed.
        cursors[topic, 1] = 0
        while len(records) < 300:
            with suppress(OffsetNotInLog):
                records += await member.poll(1000, 0.5)
        assert sorted(numbers(records)) == list(range(300))
        await log.close()

    async def test_a_start_before_the_beginning_is_an_error(
        self, kafka: LocalKafka, topic: str
    ) -> None:
        log = log_on(kafka)
        await log.append(topic, [Message("k", b"%d" % n, {}) for n in range(10)])
        (partition,) = [p for p, end in (await log.end_offsets(topic)).items() if end]
        cut(kafka, topic, partition, before=4)
        with pytest.raises(OffsetNotInLog, match=f"{topic}/{partition} has no offset 3"):
            await log.read(topic, partition, 3, 10)
        assert numbers(await log.read(topic, partition, 4, 10)) == [4, 5, 6, 7, 8, 9]
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        with pytest.raises(OffsetNotInLog, match="has no offset 0"):
            await member.poll(10, 20)
        await log.close()

    async def test_a_transaction_that_a_stranger_leaves_open_hides_nothing(
        self, kafka: LocalKafka, topic: str
    ) -> None:
        stranger = Producer(
            {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": f"open-{topic}"}
        )
        stranger.init_transactions(30)
        stranger.begin_transaction()
        for partition in range(3):
            stranger.produce(topic, b"-1", partition=partition)
        assert not stranger.flush(30)
        log = log_on(kafka)
        await log.append(topic, numbered(100))
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        records = await poll_until(member, 103)
        assert sorted(numbers(records)) == [-1, -1, -1, *range(100)]
        ends = await log.end_offsets(topic)
        assert sum(ends.values()) == 103
        assert sorted(numbers(await read_all(log, topic))) == sorted(numbers(records))
        await member.close()
        # Then a mark stands behind the last record, which has a place and never comes.
        await asyncio.to_thread(stranger.abort_transaction, 30)
        # Kafka says that it is over before the last of them has been written.
        while sum((ends := await log.end_offsets(topic)).values()) < 106:
            await asyncio.sleep(0.05)
        for partition, end in ends.items():
            last = (await log.read(topic, partition, 0, 1000))[-1].offset
            assert last == end - 2
            assert await log.read(topic, partition, last + 1, 1000) == []
        await log.close()

    async def test_no_more_is_handed_out_at_a_time_than_the_memory_may_hold(
        self, kafka: LocalKafka, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(subscription, "_MOST_BYTES", 2)
        monkeypatch.setattr(subscription, "AT_ONCE", 1)
        log = log_on(kafka)
        await log.append(topic, numbered(20))
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        records: list[Record] = []
        while len(records) < 20:
            some = await member.poll(2000, 20.0)
            assert sum(len(one.value or b"") for one in some) <= 2 + 1
            records += some
        assert sorted(numbers(records)) == list(range(20))
        await log.close()

    async def test_a_log_cut_under_a_running_reader_is_read_on_once_its_cursor_is_mended(
        self, kafka: LocalKafka, topic: str
    ) -> None:
        log = log_on(kafka)
        await log.append(topic, [Message("k", b"%d" % n, {}) for n in range(10)])
        (partition,) = [p for p, end in (await log.end_offsets(topic)).items() if end]
        cursors: dict[tuple[str, int], int] = {}
        member = log.subscribe(f"group-{topic}", [topic], from_offsets(cursors))
        assert numbers(await poll_until(member, 10)) == [*range(10)]
        cut(kafka, topic, partition, before=4)
        await member.seek(topic, partition, 2)
        cursors[topic, partition] = 2
        for _ in range(3):  # it goes on saying so
            with pytest.raises(OffsetNotInLog, match="has no offset 2"):
                await member.poll(10, 20)
        cursors[topic, partition] = 4
        records: list[Record] = []
        while len(records) < 6:
            with suppress(OffsetNotInLog):
                records += await member.poll(10, 1.0)
        assert numbers(records) == [4, 5, 6, 7, 8, 9]
        await log.close()

    async def test_a_log_begun_anew_under_a_running_reader_is_read_once_its_cursor_is_mended(
        self, kafka: LocalKafka, topic: str
    ) -> None:
        log = log_on(kafka)
        cursors: dict[tuple[str, int], int] = {}
        await log.append(topic, numbered(100))
        member = log.subscribe(f"group-{topic}", [topic], from_offsets(cursors))
        await poll_until(member, 100)
        cursors |= {(topic, p): end for p, end in (await log.end_offsets(topic)).items()}
        assert await member.poll(10, 0.1) == []
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        admin.delete_topics([topic])[topic].result()
        while topic in admin.list_topics(timeout=10).topics:
            await asyncio.sleep(0.05)
        make_topic(kafka, topic)
        other = log_on(kafka)
        await other.append(topic, numbered(10))
        await other.close()
        # All three, whichever records they have got now.
        lost: set[int] = set()
        while len(lost) < 3:
            with suppress(LogUnavailable):
                try:
                    assert await member.poll(10, 1.0) == []
                except OffsetNotInLog as error:
                    lost.add(error.partition)
        cursors.clear()
        records: list[Record] = []
        while len(records) < 10:
            with suppress(LogUnavailable):
                records += await member.poll(10, 1.0)
        assert sorted(numbers(records)) == [*range(10)]
        await log.close()

    async def test_the_end_itself_is_no_error(self, kafka: LocalKafka, topic: str) -> None:
        log = log_on(kafka)
        await log.append(topic, numbered(50))
        starts = {(topic, p): end for p, end in (await log.end_offsets(topic)).items()}
        member = log.subscribe(f"group-{topic}", [topic], from_offsets(starts))
        assert await member.poll(10, 2.0) == []
        await log.append(topic, numbered(50, first=50))
        assert sorted(numbers(await poll_until(member, 50))) == list(range(50, 100))
        await log.close()


@pytest.mark.kafka
class TestOlderBrokers:
    async def test_without_new_groups_classic_ones_are_joined(
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


@pytest.mark.kafka
class TestAwayAndBack:
    async def test_what_is_appended_while_the_broker_is_down_waits_for_it(
        self,
        mortal_kafka: LocalKafka,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(appender, "GIVE_UP_AFTER", 80.0)  # a busy machine starts it slowly
        caplog.set_level(logging.INFO, "eventspine.kafka")
        kafka = mortal_kafka
        log, topic = log_on(kafka), new_name()
        await log.create_topic(topic, 3)
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        await log.append(topic, numbered(100))
        records = await poll_until(member, 100)

        kill(kafka)
        appending = asyncio.create_task(log.append(topic, numbered(100, first=100)))
        began = time.monotonic()
        while time.monotonic() - began < 4:
            with suppress(LogUnavailable):
                assert await member.poll(10, 0.5) == []
        assert not appending.done()
        kafka.start()
        await appending
        while len(records) < 200:
            with suppress(LogUnavailable):
                records += await member.poll(1000, 0.5)
        assert sorted(numbers(records)) == list(range(200))
        await log.close()
        said = [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]
        assert ["kafka.waiting" in line for line in said] == [True, False], said
        assert "kafka.recovered" in said[1]

    async def test_giving_up_keeps_nothing_back_to_be_sent_later(
        self, mortal_kafka: LocalKafka, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kafka = mortal_kafka
        log, topic = log_on(kafka), new_name()
        await log.create_topic(topic, 1)
        await log.append(topic, [Message("k", b"0", {})])
        kill(kafka)
        with monkeypatch.context() as patch:
            patch.setattr(appender, "GIVE_UP_AFTER", 1.0)
            with pytest.raises(LogUnavailable, match="confirmed nothing for 1 s"):
                await log.append(topic, [Message("k", b"1", {})])
        kafka.start()
        kafka.wait_ready()
        await log.append(topic, [Message("k", b"2", {})])
        await asyncio.sleep(1)
        assert numbers(await read_all(log, topic)) == [0, 2]
        await log.close()

    async def test_cancelling_and_closing_do_not_wait_for_a_broker_that_is_away(
        self, mortal_kafka: LocalKafka
    ) -> None:
        kafka = mortal_kafka
        log, topic = log_on(kafka), new_name()
        await log.create_topic(topic, 3)
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        await log.append(topic, numbered(100))
        await poll_until(member, 100)
        kill(kafka)
        appending = asyncio.create_task(log.append(topic, numbered(60_000)))
        polling = asyncio.create_task(member.poll(10, 60.0))
        await asyncio.sleep(0.5)
        await member.commit(topic, 0, 1)
        began = time.monotonic()
        appending.cancel()
        polling.cancel()
        await asyncio.gather(appending, polling, return_exceptions=True)
        assert time.monotonic() - began < 1.5
        await log.close()
        assert time.monotonic() - began < 6

    async def test_a_frozen_broker_only_delays(self, mortal_kafka: LocalKafka) -> None:
        kafka = mortal_kafka
        log, topic = log_on(kafka), new_name()
        await log.create_topic(topic, 3)
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        await log.append(topic, numbered(100))
        records = await poll_until(member, 100)
        with frozen(kafka):
            appending = asyncio.create_task(log.append(topic, numbered(100, first=100)))
            await asyncio.sleep(3)
            assert not appending.done()
        await appending
        records += await poll_until(member, 100)
        assert sorted(numbers(records)) == list(range(200))
        await log.close()


@pytest.mark.kafka
async def test_three_members_share_come_and_go(kafka: LocalKafka, topic: str) -> None:
    """Every record is applied once, since the checkpoint decides, and none is left unread."""
    cursors: dict[tuple[str, int], int] = {}
    applied: list[int] = []

    async def member(log: KafkaLog, stop: asyncio.Event) -> None:
        subscription = log.subscribe(f"group-{topic}", [topic], from_offsets(cursors))
        while not stop.is_set():
            for record in await subscription.poll(100, 0.1):
                if record.offset == cursors.get((topic, record.partition), 0):
                    cursors[topic, record.partition] = record.offset + 1
                    applied.extend(numbers([record]))
                    await subscription.commit(topic, record.partition, record.offset + 1)
        await subscription.close()

    log = log_on(kafka)
    stops = [asyncio.Event() for _ in range(5)]
    async with asyncio.TaskGroup() as members:
        for n, stop in enumerate(stops):
            members.create_task(member(log, stop))
            await log.append(topic, numbered(300, first=600 * n))
            if n >= 2:
                stops[n - 2].set()  # whoever is oldest leaves
            await asyncio.sleep(0.7)
            await log.append(topic, numbered(300, first=600 * n + 300))
        while len(applied) < 3000:
            await asyncio.sleep(0.05)
        for stop in stops:
            stop.set()
    await log.close()
    assert sorted(applied) == list(range(3000))


@pytest.mark.kafka
async def test_a_killed_broker_comes_back_with_its_data_at_its_address(
    mortal_kafka: LocalKafka,
) -> None:
    kafka, topic = mortal_kafka, new_name()

    async def append(values: list[Message]) -> None:
        log = log_on(kafka, partitions=1)
        await log.create_topic(topic)
        await log.append(topic, values)
        assert numbers(await log.read(topic, 0, 0, 100)) == list(
            range(int(values[-1].value or 0) + 1)
        )
        await log.close()

    await append(numbered(10))
    kill(kafka)
    kafka.start()
    kafka.wait_ready()
    await append(numbered(10, first=10))
    assert LocalKafka(kafka.data_dir).bootstrap_servers == kafka.bootstrap_servers


@pytest.mark.kafka
def test_a_broker_left_behind_is_ended_before_the_next_start(mortal_kafka: LocalKafka) -> None:
    assert mortal_kafka.process
    successor = LocalKafka(mortal_kafka.data_dir)
    successor.start()
    try:
        successor.wait_ready()
        assert mortal_kafka.process.wait(1) is not None
    finally:
        successor.stop()
    assert successor.process
    assert successor.process.returncode is not None
