"""The first event at a time is found, however long after its commit it was appended."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from devstack.kafka import LocalKafka
from eventspine.kafka_log import KafkaLog
from eventspine.log import Message, Record
from eventspine.seeking import offsets_at
from tests.support.topics import new_name
from tests.support.waiting import until

PARTITIONS = 3
EACH = 200


class CountedLog(KafkaLog):
    reads = 0

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        self.reads += 1
        return await super().read(topic, partition, offset, limit)


@pytest.fixture
async def log(kafka: LocalKafka) -> AsyncIterator[CountedLog]:
    log = CountedLog({"bootstrap.servers": kafka.bootstrap_servers})
    yield log
    await log.close()


@pytest.fixture
async def topic(log: CountedLog) -> str:
    """As `shop migrate` makes it: Kafka's timestamps are the times of the append."""
    name = new_name()
    await log.create_topic(name, PARTITIONS)
    return name


async def found_and_right(log: CountedLog, topic: str, time: datetime) -> int:
    """How many reads it took. Fails if the offsets are not those of the first events at that time."""
    ends = {(topic, one): end for one, end in (await log.end_offsets(topic)).items()}
    right = {}
    for place, end in ends.items():
        records = await log.read(*place, 0, end) if end else []
        late = (
            each.offset
            for each in records
            if datetime.fromisoformat(each.headers["ce_time"]) >= time
        )
        right[place] = next(late, end)
    log.reads = 0
    assert await offsets_at(log, ends, time) == right
    return log.reads


@pytest.mark.kafka
class TestOnKafka:
    async def test_one_look_at_each_partition_is_enough_for_events_appended_at_once(
        self, log: CountedLog, topic: str
    ) -> None:
        times = []
        for number in range(30):
            times.append(datetime.now(UTC))
            header = {"ce_time": times[-1].isoformat()}
            await log.append(
                topic, [Message(str(key), b"%d" % number, header) for key in range(40)]
            )
            until(lambda: datetime.now(UTC) - times[-1] > timedelta(milliseconds=4))
        later = times[-1] + timedelta(hours=1)
        for time in (times[0] - timedelta(hours=1), *times[::7], times[17], later):
            assert await found_and_right(log, topic, time) <= PARTITIONS

    @pytest.mark.parametrize("hours", [-24, 24])
    async def test_events_of_a_copied_log_or_of_a_leaping_clock_are_found_too(
        self, log: CountedLog, topic: str, hours: int
    ) -> None:
        began = datetime.now(UTC) + timedelta(hours=hours)
        times = [began + timedelta(seconds=number) for number in range(EACH * PARTITIONS)]
        await log.append(
            topic,
            [
                Message(str(number % 17), b"", {"ce_time": time.isoformat()})
                for number, time in enumerate(times)
            ],
        )
        for time in (
            began - timedelta(days=90),
            times[0],
            times[333],
            times[-1],
            began + timedelta(days=90),
        ):
            assert await found_and_right(log, topic, time) <= 5 + 2 * (PARTITIONS - 1)
