"""A Kafka broker that is away, frozen or killed; and members that come and go."""

import asyncio
import logging
import time
from contextlib import suppress

import pytest

from devstack.kafka import LocalKafka
from eventspine.kafka_log import KafkaLog, appender
from eventspine.log import LogUnavailable, Message
from tests.support.records import from_offsets, numbered, numbers, poll_until, read_all
from tests.support.topics import frozen, kill, log_on, new_name
from tests.support.waiting import SLOWER


@pytest.mark.kafka
class TestAwayAndBack:
    @pytest.mark.heavy
    async def test_records_appended_while_the_broker_is_down_wait_for_it(
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

    @pytest.mark.heavy
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
        monkeypatch.setattr(appender, "GIVE_UP_AFTER", 80.0)  # a busy machine starts it slowly
        kafka.start()
        kafka.wait_ready(150)
        await log.append(topic, [Message("k", b"2", {})])
        await asyncio.sleep(1)
        assert numbers(await read_all(log, topic)) == [0, 2]
        await log.close()

    @pytest.mark.heavy
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
        assert time.monotonic() - began < SLOWER
        await log.close()
        assert time.monotonic() - began < 6 + SLOWER

    @pytest.mark.heavy
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


@pytest.mark.heavy
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
    kafka.wait_ready(150)
    await append(numbered(10, first=10))
    assert LocalKafka(kafka.data_dir).bootstrap_servers == kafka.bootstrap_servers


@pytest.mark.kafka
@pytest.mark.heavy
def test_a_broker_left_behind_is_ended_before_the_next_start(mortal_kafka: LocalKafka) -> None:
    assert mortal_kafka.process
    successor = LocalKafka(mortal_kafka.data_dir)
    successor.start()
    try:
        successor.wait_ready()
        assert mortal_kafka.process.wait(30) is not None
    finally:
        successor.stop()
    assert successor.process
    assert successor.process.returncode is not None
