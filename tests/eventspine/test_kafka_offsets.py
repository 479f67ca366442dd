"""Offsets that a partition does not have, and what stands behind the last record."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from devstack.kafka import LocalKafka
from eventspine.kafka_log import OffsetNotInLog, subscription
from eventspine.kafka_log.client import Reach
from eventspine.kafka_log.reader import Reader
from eventspine.log import LogUnavailable, Message, Record
from tests.support.records import from_offsets, numbered, numbers, poll_until, read_all
from tests.support.topics import cut, log_on, make_topic


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

    async def test_a_log_begun_anew_under_a_reader_is_read_once_its_cursor_is_mended(
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
        while topic in admin.list_topics(timeout=30).topics:
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


class Failed(NamedTuple):
    """A partition that the broker does not lead any more."""

    error: KafkaError


class ChangingLeaders:
    """A client that hears twice of a changed leader, first for all partitions, then for one."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def offsets_for_times(self, wanted: list[TopicPartition], timeout: float) -> list[Any]:
        error = KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)
        self.asked += 1
        if self.asked == 1:
            raise KafkaException(error)
        found: list[Any] = self._client.offsets_for_times(wanted, timeout=timeout)
        return [*found[1:], Failed(error)] if self.asked == 2 else found


@pytest.mark.kafka
async def test_a_leader_that_has_just_changed_is_asked_again(kafka: LocalKafka, topic: str) -> None:
    log = log_on(kafka)
    await log.append(topic, numbered(30))
    right = await log.end_offsets(topic)
    await log.close()
    reader = Reader({"bootstrap.servers": kafka.bootstrap_servers}, Reach(kafka.bootstrap_servers))
    for ask in (
        lambda: reader.end_offsets(topic) == right,
        lambda: (
            reader.appended_from(topic, [*right], datetime(2020, 1, 1, tzinfo=UTC))
            == dict.fromkeys(right, 0)
        ),
    ):
        reader._consumer = client = ChangingLeaders(reader._consumer)  # type: ignore[assignment]
        assert await asyncio.to_thread(ask)
        assert client.asked == 3
    reader.close()
