"""What every `EventLog` must do, written once and run against each engine.

The idea is from Python's `eventsourcing`, which runs one abstract test class against each of its
stores. A subclass has a fixture `log`: the engine's log, open.
"""

import asyncio
import itertools
from collections import defaultdict

import pytest

from eventspine.log import (
    EventLog,
    LogUnavailable,
    Message,
    Raw,
    TopicMismatch,
    record_of,
)
from eventspine.partitions import partition_of
from tests.support.records import (
    assert_keys_in_order,
    assert_no_holes,
    numbered,
    numbers,
    read_all,
)
from tests.support.topics import new_name

PARTITIONS = 3


class OnALog:
    """A topic of three partitions that is used by no other test, on the engine's `log`."""

    @pytest.fixture
    async def topic(self, log: EventLog) -> str:
        topic = new_name()
        await log.create_topic(topic, PARTITIONS)
        return topic


class EventLogContract(OnALog):
    """Topics, appending and reading."""

    # Which log it is

    async def test_a_topic_keeps_its_identity_and_shares_it_with_no_other(
        self, log: EventLog, topic: str
    ) -> None:
        other = f"{topic}-other"
        await log.create_topic(other, PARTITIONS)
        first = await log.identity(topic)
        await log.append(topic, numbered(10))
        await log.create_topic(topic, PARTITIONS)
        assert await log.identity(topic) == first
        assert first.partitions == PARTITIONS
        assert (await log.identity(other)).id != first.id

    async def test_a_topic_that_is_not_there_has_no_identity(
        self, log: EventLog, topic: str
    ) -> None:
        with pytest.raises(LogUnavailable, match="there is no topic"):
            await log.identity(f"{topic}-never-made")

    async def test_a_key_is_in_the_partition_that_the_logs_rule_says(
        self, log: EventLog, topic: str
    ) -> None:
        keys = [*map(str, range(200)), "ключ 🔑", "a", "ab", "abc", "abcd", "x" * 1000]
        await log.append(topic, [Message(key, b"", {}) for key in keys])
        _, partitions, rule = await log.identity(topic)
        records = await read_all(log, topic)
        assert len(records) == len(keys)
        for record in records:
            assert record.partition == partition_of(record.key or "", partitions, rule)

    # Appending and reading

    async def test_records_that_are_appended_are_read_back(self, log: EventLog, topic: str) -> None:
        appended = [
            Message("plain", b'{"id": 1}', {"ce_type": "user.created"}),
            Message("empty value", b"", {}),
            Message("a tombstone", None, {"ce_type": "user.erased"}),
            Message(
                "ключ 🔑", '{"name": "Zoë 🦊"}'.encode(), {"größe": "naïve — 🦊", "X-UPPER": ""}
            ),
            Message("", b"no key to speak of", {"a": "1", "A": "2", "a b": "=;,\n\t\"'\\"}),
            Message("long", b"x" * 200_000, {f"header-{n}": "v" * 100 for n in range(50)}),
        ]
        await log.append(topic, appended)

        read = {record.key: record for record in await read_all(log, topic)}
        assert len(read) == len(appended)
        for message in appended:
            record = read[message.key]
            assert (record.value, record.headers) == (message.value, message.headers)
            assert record.topic == topic

    async def test_offsets_count_up_from_zero(self, log: EventLog, topic: str) -> None:
        for first in range(0, 500, 100):
            await log.append(topic, numbered(100, first=first))

        records = await read_all(log, topic)
        assert_no_holes(records)
        assert sorted(numbers(records)) == list(range(500))
        assert {record.offset for record in records if record.partition == 0} >= {0}

    async def test_a_key_keeps_its_partition_and_its_order(self, log: EventLog, topic: str) -> None:
        for first in range(0, 2000, 250):
            await log.append(topic, numbered(250, keys=20, first=first))

        records = await read_all(log, topic)
        assert_keys_in_order(records)
        partitions = defaultdict(set)
        for record in records:
            partitions[record.key].add(record.partition)
        assert all(len(found) == 1 for found in partitions.values())
        assert len({record.partition for record in records}) == PARTITIONS

    async def test_preparing_and_appending_nothing_leave_the_log_as_it_is(
        self, log: EventLog, topic: str
    ) -> None:
        await log.prepare(topic)
        await log.append(topic, [])
        assert set((await log.end_offsets(topic)).values()) == {0}
        await log.append(topic, numbered(10))
        await log.prepare(topic)
        assert sum((await log.end_offsets(topic)).values()) == 10

    async def test_the_end_is_where_the_next_record_goes(self, log: EventLog, topic: str) -> None:
        assert await log.end_offsets(topic) == dict.fromkeys(range(PARTITIONS), 0)
        await log.append(topic, numbered(300))

        records = await read_all(log, topic)
        for partition, end in (await log.end_offsets(topic)).items():
            mine = [record.offset for record in records if record.partition == partition]
            assert end == len(mine) == max(mine) + 1
            assert await log.read(topic, partition, end, 10) == []

    async def test_reading_goes_from_any_offset_up_to_a_limit(
        self, log: EventLog, topic: str
    ) -> None:
        await log.append(topic, [Message("k", b"%d" % n, {}) for n in range(100)])
        (partition,) = [p for p, end in (await log.end_offsets(topic)).items() if end]

        async def read(offset: int, limit: int) -> list[int]:
            return numbers(await log.read(topic, partition, offset, limit))

        assert await read(0, 3) == [0, 1, 2]
        assert await read(3, 3) == [3, 4, 5]
        assert await read(50, 2) == [50, 51]
        assert await read(0, 1) == [0]
        assert await read(98, 100) == [98, 99]
        assert await read(0, 1000) == list(range(100))

    async def test_a_scan_gives_the_same_records_as_they_came(
        self, log: EventLog, topic: str
    ) -> None:
        await log.append(
            topic,
            [Message("ключ", None if n % 7 == 3 else b"%d" % n, {"ä": "ö"}) for n in range(500)],
        )
        (partition,) = [p for p, end in (await log.end_offsets(topic)).items() if end]
        scanned: list[Raw] = []
        offset = 0
        while (following := await log.scan(topic, partition, offset, 300, scanned.extend)) > offset:
            offset = following
        assert offset == 500
        expected = await log.read(topic, partition, 0, 500)
        assert [record_of(topic, partition, raw) for raw in scanned] == expected

    async def test_a_topic_that_is_not_there_is_empty(self, log: EventLog, topic: str) -> None:
        assert await log.end_offsets(f"{topic}-not") == {}
        assert await log.read(f"{topic}-not", 0, 0, 10) == []
        assert await log.read(topic, PARTITIONS + 5, 0, 10) == []

    async def test_a_large_batch_arrives_whole(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(20_000, keys=1000))

        records = await read_all(log, topic)
        assert_no_holes(records)
        assert_keys_in_order(records)
        assert sorted(numbers(records)) == list(range(20_000))

    async def test_concurrent_appenders_lose_nothing(self, log: EventLog, topic: str) -> None:
        async def appender(which: int) -> None:
            for first in range(which * 1000, which * 1000 + 500, 50):
                await log.append(topic, numbered(50, first=first, keys=7))

        await asyncio.gather(*(appender(which) for which in range(8)))

        records = await read_all(log, topic)
        assert_no_holes(records)
        expected = itertools.chain.from_iterable(
            range(which * 1000, which * 1000 + 500) for which in range(8)
        )
        assert sorted(numbers(records)) == list(expected)

    async def test_a_cancelled_append_leaves_the_log_usable(
        self, log: EventLog, topic: str
    ) -> None:
        for pause in (0.0, 0.001, 0.01, 0.05):
            appending = asyncio.create_task(log.append(topic, numbered(5000, keys=500)))
            await asyncio.sleep(pause)
            appending.cancel()
            await asyncio.gather(appending, return_exceptions=True)
        await log.append(topic, [Message("after", b"5000", {})])

        records = await read_all(log, topic)
        assert_no_holes(records)
        assert numbers(records).count(5000) == 1

    # Topics

    async def test_creating_a_topic_again_changes_nothing(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(10))
        await log.create_topic(topic)
        await log.create_topic(topic, PARTITIONS)
        assert sum((await log.end_offsets(topic)).values()) == 10

    async def test_another_number_of_partitions_is_a_mismatch(
        self, log: EventLog, topic: str
    ) -> None:
        with pytest.raises(TopicMismatch, match=f"{PARTITIONS} partition.* not 5"):
            await log.create_topic(topic, 5)
