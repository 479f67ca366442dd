"""What every subscription to an `EventLog` must do, written once and run against each engine."""

import asyncio
from collections.abc import Callable

from eventspine.log import (
    EventLog,
    LogUnavailable,
    Record,
    Subscription,
)
from tests.eventspine.log_contract import PARTITIONS, OnALog
from tests.support.records import (
    assert_keys_in_order,
    assert_no_holes,
    from_offsets,
    numbered,
    numbers,
    poll_until,
)
from tests.support.waiting import SLOWER


class SubscriptionContract(OnALog):
    """Groups, their members, and where each begins to read."""

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

    async def test_each_group_reads_for_itself(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(100))
        for group in ("a", "b"):
            member = log.subscribe(f"{group}-{topic}", [topic], from_offsets())
            assert len(await poll_until(member, 100)) == 100
            await member.close()

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

    async def test_a_poll_with_nothing_to_read_is_empty_after_its_timeout(
        self, log: EventLog, topic: str
    ) -> None:
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        await log.append(topic, numbered(1))
        await poll_until(member, 1)
        began = asyncio.get_running_loop().time()
        assert await member.poll(10, 0.3) == []
        assert 0.2 < asyncio.get_running_loop().time() - began < SLOWER
        await member.close()

    async def test_a_record_that_arrives_ends_the_wait(self, log: EventLog, topic: str) -> None:
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        await log.append(topic, numbered(1))
        assert numbers(await poll_until(member, 1)) == [0]
        waiting = asyncio.create_task(member.poll(10, 20.0))
        await asyncio.sleep(0.2)
        began = asyncio.get_running_loop().time()
        await log.append(topic, numbered(1, first=1))
        assert numbers(await waiting) == [1]
        assert asyncio.get_running_loop().time() - began < SLOWER
        await member.close()

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

    async def test_the_other_member_reads_everything_when_one_leaves(
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
            async with asyncio.timeout(60):
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

    async def test_a_member_that_was_closed_can_join_again(self, log: EventLog, topic: str) -> None:
        await log.append(topic, numbered(50))
        member = log.subscribe(f"group-{topic}", [topic], from_offsets())
        for _ in range(2):
            assert len(await poll_until(member, 50)) == 50
            await member.close()
        await member.close()
