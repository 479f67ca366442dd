"""Messages with numbers, and the records that are read back."""

from collections import defaultdict
from collections.abc import Iterable

from eventspine.log import (
    EventLog,
    Message,
    Record,
    StartAt,
    Subscription,
)


def numbered(count: int, *, keys: int = 50, first: int = 0) -> list[Message]:
    """Messages whose values count up: `b"0"`, `b"1"`, …, over some keys."""
    return [
        Message(f"key-{n % keys}", b"%d" % n, {"ce_id": str(n)})
        for n in range(first, first + count)
    ]


def numbers(records: Iterable[Record]) -> list[int]:
    return [int(record.value or b"-1") for record in records]


async def read_all(log: EventLog, topic: str) -> list[Record]:
    """Every record, partition after partition, a few at a time."""
    records: list[Record] = []
    for partition, end in (await log.end_offsets(topic)).items():
        offset = 0
        while offset < end:
            more = await log.read(topic, partition, offset, 700)
            assert more, f"nothing at {topic}/{partition}/{offset}, before the end at {end}"
            records += more
            offset = more[-1].offset + 1
    return records


async def poll_until(subscription: Subscription, count: int) -> list[Record]:
    """Poll until there are at least so many records; the scenario's time-out is the deadline."""
    records: list[Record] = []
    while len(records) < count:
        records += await subscription.poll(5000, 0.5)
    return records


def from_offsets(offsets: dict[tuple[str, int], int] | None = None) -> StartAt:
    async def start_at(topic: str, partition: int) -> int:
        return (offsets or {}).get((topic, partition), 0)

    return start_at


def assert_no_holes(records: Iterable[Record]) -> None:
    offsets: dict[tuple[str, int], list[int]] = defaultdict(list)
    for record in records:
        offsets[record.topic, record.partition].append(record.offset)
    for found in offsets.values():
        assert found == list(range(found[0], found[0] + len(found)))


def assert_keys_in_order(records: Iterable[Record]) -> None:
    by_key: dict[str | None, list[int]] = defaultdict(list)
    for record in records:
        by_key[record.key] += numbers([record])
    for values in by_key.values():
        assert values == sorted(values)
