"""What every `EventLog` must do, written once and run against each engine.

The idea is from Python's `eventsourcing`, which runs one abstract test class against each of its
stores. A subclass has a fixture `open_log`: a coroutine function that opens the engine's log.
"""

import asyncio
import itertools
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable

import pytest

from eventspine.log import (
    EventLog,
    LogUnavailable,
    Message,
    Record,
    Subscription,
    TopicMismatch,
)
from eventspine.partitions import partition_of
from tests.support.records import (
    OpenLog,
    assert_keys_in_order,
    assert_no_holes,
    from_offsets,
    numbered,
    numbers,
    poll_until,
    read_all,
)

PARTITIONS = 3


def on_a_log(
    scenario: Callable[["EventLogContract", EventLog, str], Awaitable[None]],
) -> Callable[["EventLogContract", OpenLog], Awaitable[None]]:
    """Make a test of a scenario: an open log, and a topic of three partitions that nobody knows."""

    async def test(self: "EventLogContract", open_log: OpenLog) -> None:
        log = await open_log()
        try:
            topic = f"topic-{uuid.uuid4().hex[:12]}"
            await log.create_topic(topic, PARTITIONS)
            await scenario(self, log, topic)
        finally:
            await log.close()

    test.__name__ = scenario.__name__
    return test


class EventLogContract:
    @pytest.fixture
    def open_log(self) -> OpenLog:
        raise NotImplementedError

    # Which log it is

    @on_a_log
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

    @on_a_log
    async def test_a_topic_that_is_not_there_has_no_identity(
        self, log: EventLog, topic: str
    ) -> None:
        with pytest.raises(LogUnavailable, match="there is no topic"):
            await log.identity(f"{topic}-never-made")

    @on_a_log
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

    @on_a_log
    async def test_what_is_appended_is_read_back(self, log: EventLog, topic: str) -> None:
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

    @on_a_log
    async def test_offsets_count_up_from_zero(self, log: EventLog, topic: str) -> None:
        for first in range(0, 500, 100):
            await log.append(topic, numbered(100, first=first))

        records = await read_all(log, topic)
        assert_no_holes(records)
        assert sorted(numbers(records)) == list(range(500))
        assert {record.offset for record in records if record.partition == 0} >= {0}

    @on_a_log
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

    @on_a_log
    async def test_preparing_and_appending_nothing_leave_the_log_as_it_is(
        self, log: EventLog, topic: str
    ) -> None:
        await log.prepare(topic)
        await log.append(topic, [])
        assert set((await log.end_offsets(topic)).values()) == {0}
        await log.append(topic, numbered(10))
        await log.prepare(topic)
        assert sum((await log.end_offsets(topic)).values()) == 10

    @on_a_log
    async def test_the_end_is_where_the_next_record_goes(self, log: EventLog, topic: str) -> None:
        assert await log.end_offsets(topic) == dict.fromkeys(range(PARTITIONS), 0)
        await log.append(topic, numbered(300))

        records = await read_all(log, topic)
        for partition, end in (await log.end_offsets(topic)).items():
            mine = [record.offset for record in records if record.partition == partition]
            assert end == len(mine) == max(mine) + 1
            assert await log.read(topic, partition, end, 10) == []

    @on_a_log
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

    @on_a_log
    async def test_a_topic_that_is_not_there_is_empty(self, log: EventLog, topic: str) -> None:
        assert await log.end_offsets(f"{topic}-not") == {}
        assert await log.read(f"{topic}-not", 0, 0, 10) == []
        assert await log.read(topic, PARTITIONS + 5, 0, 10) == []

    @on_a_log
    async def test_a_large_batch_arrives_whole(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(20_000, keys=1000))

        records = await read_all(log, topic)
        assert_no_holes(records)
        assert_keys_in_order(records)
        assert sorted(numbers(records)) == list(range(20_000))

    @on_a_log
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

    @on_a_log
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

    @on_a_log
    async def test_creating_a_topic_again_changes_nothing(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(10))
        await log.create_topic(topic)
        await log.create_topic(topic, PARTITIONS)
        assert sum((await log.end_offsets(topic)).values()) == 10

    @on_a_log
    async def test_another_number_of_partitions_is_a_mismatch(
        self, log: EventLog, topic: str
    ) -> None:
        with pytest.raises(TopicMismatch, match=f"{PARTITIONS} partition.* not 5"):
            await log.create_topic(topic, 5)

    # Groups

    @on_a_log
    async def test_a_group_reads_everything_once(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(1000))
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        early = await poll_until(member, 1000)
        await log.append(topic, numbered(1000, first=1000))
        late = await poll_until(member, 1000)

        assert_no_holes(early + late)
        assert_keys_in_order(early + late)
        assert sorted(numbers(early)) == list(range(1000))
        assert sorted(numbers(late)) == list(range(1000, 2000))
        await member.close()

    @on_a_log
    async def test_each_group_reads_for_itself(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(100))
        for group in ("a", "b"):
            member = log.subscribe(f"{group}-{topic}", [topic], from_offsets())
            assert len(await poll_until(member, 100)) == 100
            await member.close()

    @on_a_log
    async def test_reading_starts_where_the_cursor_says(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(300))
        ends = await log.end_offsets(topic)
        starts = {(topic, partition): end - 5 for partition, end in ends.items()}
        # Whatever the log was told to remember, the checkpoint decides.
        for _ in range(2):
            member = log.subscribe(f"group-{topic}", [topic], from_offsets(starts))
            records = await poll_until(member, 5 * PARTITIONS)
            for partition, end in ends.items():
                mine = [record.offset for record in records if record.partition == partition]
                assert mine == list(range(end - 5, end))
                await member.commit(topic, partition, end)
            await member.poll(10, 0.1)
            await member.close()

    @on_a_log
    async def test_a_poll_returns_at_most_what_was_asked_for(
        self, log: EventLog, topic: str
    ) -> None:
        await log.append(topic, numbered(100))
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        records: list[Record] = []
        while len(records) < 100:
            more = await member.poll(7, 0.5)
            assert len(more) <= 7
            records += more
        assert sorted(numbers(records)) == list(range(100))
        await member.close()

    @on_a_log
    async def test_a_poll_with_nothing_to_read_is_empty_after_its_timeout(
        self, log: EventLog, topic: str
    ) -> None:
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        await log.append(topic, numbered(1))
        await poll_until(member, 1)
        began = asyncio.get_running_loop().time()
        assert await member.poll(10, 0.3) == []
        assert 0.2 < asyncio.get_running_loop().time() - began < 2
        await member.close()

    @on_a_log
    async def test_a_record_that_arrives_ends_the_wait(self, log: EventLog, topic: str) -> None:
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        await log.append(topic, numbered(1))
        assert numbers(await poll_until(member, 1)) == [0]
        waiting = asyncio.create_task(member.poll(10, 20.0))
        await asyncio.sleep(0.2)
        began = asyncio.get_running_loop().time()
        await log.append(topic, numbered(1, first=1))
        assert numbers(await waiting) == [1]
        assert asyncio.get_running_loop().time() - began < 2
        await member.close()

    @on_a_log
    async def test_seeking_back_reads_again(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(3000))
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        first = await member.poll(500, 20.0)
        again = {record.partition: record.offset for record in reversed(first)}
        for partition, offset in again.items():
            await member.seek(topic, partition, offset)

        # What was read before the seek, and not handed out, does not come in between.
        records = await poll_until(member, 3000)
        assert_no_holes(records)
        assert sorted(numbers(records)) == list(range(3000))

        await member.seek(topic, 1, 7)
        await member.seek(topic, PARTITIONS + 5, 7)  # not held: ignored
        records = await poll_until(member, 1)
        assert {record.partition for record in records} == {1}
        assert records[0].offset == 7
        await member.close()

    @on_a_log
    async def test_a_partition_that_is_not_read_yet_is_not_sought(
        self, log: EventLog, topic: str
    ) -> None:
        await log.append(topic, numbered(300))

        async def start_at(topic: str, partition: int) -> int:
            await member.seek(topic, partition, 0)
            return 40

        member = log.subscribe(f"group-{topic}", [topic], start_at)
        ends = await log.end_offsets(topic)
        records = await poll_until(member, sum(ends.values()) - 40 * PARTITIONS)
        assert min(record.offset for record in records) == 40
        await member.close()

    @on_a_log
    async def test_a_paused_partition_is_left_out_and_then_begins_where_its_cursor_says(
        self, log: EventLog, topic: str
    ) -> None:
        await log.append(topic, numbered(300))
        ends = await log.end_offsets(topic)
        starts: dict[tuple[str, int], int] = {}
        member = log.subscribe(f"group-{topic}", [topic], from_offsets(starts))
        first = await member.poll(50, 20.0)
        begun = {record.partition for record in first}
        while len(begun) < PARTITIONS:
            more = await member.poll(50, 0.5)
            begun |= {record.partition for record in more}
            first += more

        # What was read before the pause, and not handed out, does not come any more.
        await member.pause(topic, 0, 3600.0)
        await member.pause(topic, PARTITIONS + 5, 3600.0)  # not held: ignored
        rest = await poll_until(
            member, sum(ends.values()) - ends[0] - sum(one.partition != 0 for one in first)
        )
        await member.seek(topic, 0, 0)  # paused: ignored
        starts[topic, 1] = ends[1] - 5
        await member.pause(topic, 1, 0.2)
        again = await poll_until(member, 5)
        await log.append(topic, numbered(100, first=300))
        ends_now = await log.end_offsets(topic)
        late = await poll_until(member, ends_now[1] - ends[1] + ends_now[2] - ends[2])
        late += await member.poll(1000, 0.5)

        assert 0 not in {record.partition for record in rest + again + late}
        assert [record.offset for record in again] == list(range(ends[1] - 5, ends[1]))
        assert_no_holes(one for one in first + rest + late if one.partition)
        await member.close()

    @on_a_log
    async def test_when_a_member_leaves_the_other_reads_everything(
        self, log: EventLog, topic: str
    ) -> None:
        cursors: dict[tuple[str, int], int] = {}
        seen: list[Record] = []
        group = f"group-{topic}"
        one = log.subscribe(group, [topic], from_offsets(cursors))
        other = log.subscribe(group, [topic], from_offsets(cursors))

        async def poll(member: Subscription) -> None:
            for record in await member.poll(1000, 0.2):
                # As the consumer does it: the checkpoint decides who has it first.
                if record.offset == cursors.get((topic, record.partition), 0):
                    cursors[topic, record.partition] = record.offset + 1
                    seen.append(record)

        await log.append(topic, numbered(300))
        while len(seen) < 300:
            await asyncio.gather(poll(one), poll(other))
        await log.append(topic, numbered(300, first=300))
        while len(seen) < 600:
            await asyncio.gather(poll(one), poll(other))
        await one.close()
        await log.append(topic, numbered(300, first=600))
        while len(seen) < 900:
            await poll(other)

        assert_no_holes(sorted(seen, key=lambda record: (record.partition, record.offset)))
        assert sorted(numbers(seen)) == list(range(900))
        await other.close()

    @on_a_log
    async def test_a_cursor_that_can_not_be_read_is_asked_for_again(
        self, log: EventLog, topic: str
    ) -> None:
        await log.append(topic, numbered(100))
        refusals = iter(range(2))

        async def start_at(_topic: str, _partition: int) -> int:
            if next(refusals, None) is not None:
                raise ConnectionError("the database is away")
            return 0

        member = log.subscribe(f"group-{topic}", [topic], start_at)
        records: list[Record] = []
        while len(records) < 100:
            try:
                records += await member.poll(1000, 0.5)
            except (ConnectionError, LogUnavailable):
                await asyncio.sleep(0.05)
        assert_no_holes(records)
        assert sorted(numbers(records)) == list(range(100))
        await member.close()

    @on_a_log
    async def test_a_partition_whose_cursor_can_not_be_read_holds_no_other_up(
        self, log: EventLog, topic: str
    ) -> None:
        await log.append(topic, numbered(100))
        broken = True

        async def start_at(_topic: str, partition: int) -> int:
            if broken and partition == 0:
                raise ConnectionError("this one can't be told")
            return 0

        member = log.subscribe(f"group-{topic}", [topic], start_at)
        records: list[Record] = []

        async def poll(until: Callable[[], bool]) -> None:
            async with asyncio.timeout(20):
                while not until():
                    try:
                        records.extend(await member.poll(1000, 0.5))
                    except (ConnectionError, LogUnavailable):
                        await asyncio.sleep(0.05)

        ends = await log.end_offsets(topic)
        assert all(ends.values())
        await poll(lambda: len(records) == 100 - ends[0])
        assert {record.partition for record in records} == ends.keys() - {0}
        broken = False
        await poll(lambda: len(records) == 100)
        assert sorted(numbers(records)) == list(range(100))
        await member.close()

    @on_a_log
    async def test_a_cancelled_poll_loses_nothing(self, log: EventLog, topic: str) -> None:
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        cursors = {(topic, partition): 0 for partition in range(PARTITIONS)}
        seen: list[Record] = []

        def take(records: list[Record]) -> None:
            seen.extend(records)
            cursors.update({(one.topic, one.partition): one.offset + 1 for one in records})

        for round_ in range(20):
            polling = asyncio.create_task(member.poll(1000, 10.0))
            await asyncio.sleep(0.01 * (round_ % 3))
            await log.append(topic, numbered(10, first=10 * round_))
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            if not polling.cancelled():
                take(polling.result())
            # As the consumer does it: where its cursor is, is what counts.
            for at, offset in cursors.items():
                await member.seek(*at, offset)
        while len(seen) < 200:
            take(await member.poll(1000, 0.5))

        assert sorted(numbers(seen)) == list(range(200))
        await member.close()

    @on_a_log
    async def test_a_member_that_was_closed_can_join_again(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(50))
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        for _ in range(2):
            assert len(await poll_until(member, 50)) == 50
            await member.close()
        await member.close()
