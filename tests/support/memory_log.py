"""A log in memory: its partitions are plain lists, and who reads it reads what the test says."""

import asyncio
from collections.abc import Sequence

from eventspine.log import (
    LogUnavailable,
    Message,
    Record,
    StartAt,
    Take,
    TopicIdentity,
    raw_of,
)
from tests.support.notes import TOPIC

Cuts = Sequence[int]
"""How many records of each partition."""


def _text(header: str | bytes) -> str:
    return header if isinstance(header, str) else header.decode()


class MemoryLog:
    """`EventLog`, with one topic. While it is `away`, everything raises."""

    def __init__(self, partitions: int = 1) -> None:
        self.partitions: list[list[Record]] = [[] for _ in range(partitions)]
        self.away = False
        self.stop_appending_after: int | None = None
        self.prepared = 0
        self.subscriptions: list[MemorySubscription] = []

    def put(self, partition: int, message: Message | None) -> None:
        """None for a record that has nothing at all."""
        key, value, headers = message or (None, None, {})
        records = self.partitions[partition]
        text = {name: _text(given) for name, given in headers.items()}
        records.append(Record(TOPIC, partition, len(records), key, value, text))

    async def create_topic(self, topic: str, partitions: int | None = None) -> None: ...

    async def prepare(self, topic: str) -> None:
        self.prepared += 1

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        self._check()
        for message in messages:
            if self.stop_appending_after is not None:
                if self.stop_appending_after == 0:
                    raise LogUnavailable("the log went away")
                self.stop_appending_after -= 1
            self.put(int(message.key) % len(self.partitions), message)

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        self._check()
        return self.partitions[partition][offset : offset + limit]

    async def scan(self, topic: str, partition: int, offset: int, limit: int, take: Take) -> int:
        records = await self.read(topic, partition, offset, limit)
        take([raw_of(record) for record in records])
        return records[-1].offset + 1 if records else offset

    async def end_offsets(self, topic: str) -> dict[int, int]:
        self._check()
        return {n: len(records) for n, records in enumerate(self.partitions)}

    async def identity(self, topic: str) -> TopicIdentity:
        self._check()
        return TopicIdentity("memory", len(self.partitions), "crc32")

    def subscribe(
        self, group: str, topics: Sequence[str], start_at: StartAt
    ) -> "MemorySubscription":
        self.subscriptions.append(MemorySubscription(self, start_at))
        return self.subscriptions[-1]

    async def close(self) -> None: ...

    def _check(self) -> None:
        if self.away:
            raise LogUnavailable("the log is away")


class MemorySubscription:
    """Holds every partition, whoever else does. With `told`, reads nothing but what it is told."""

    def __init__(self, log: MemoryLog, start_at: StartAt) -> None:
        self._log = log
        self._start_at = start_at
        self.next: dict[int, int] = {}
        self.paused: dict[int, float] = {}
        self.pauses = 0
        self.told: asyncio.Queue[Cuts] | None = None
        self.polled = asyncio.Event()
        self.polls = 0

    async def poll(self, max_records: int, timeout: float) -> list[Record]:
        self._log._check()
        now = asyncio.get_running_loop().time()
        for partition in range(len(self._log.partitions)):
            if partition not in self.next and self.paused.get(partition, 0.0) <= now:
                self.next[partition] = await self._start_at(TOPIC, partition)
        self.polls += 1
        self.polled.set()
        if self.told is not None:
            cuts = await self.told.get()
            self.polled.clear()
            return [record for n, cut in enumerate(cuts) for record in self._read(n, cut)]
        records: list[Record] = []
        for partition in list(self.next):
            records += self._read(partition, max_records - len(records))
        if not records:
            await asyncio.sleep(min(timeout, 0.02))
        return records

    def _read(self, partition: int, limit: int) -> list[Record]:
        start = self.next[partition]
        records = self._log.partitions[partition][start : start + limit]
        self.next[partition] = start + len(records)
        return records

    async def tell(self, cuts: Cuts) -> None:
        """Read and apply so much, and come back for more."""
        assert self.told is not None
        await self.polled.wait()
        self.polled.clear()
        self.told.put_nowait(cuts)
        await self.polled.wait()

    async def seek(self, topic: str, partition: int, offset: int) -> None:
        if partition in self.next:
            self.next[partition] = offset

    async def pause(self, topic: str, partition: int, seconds: float) -> None:
        if self.next.pop(partition, None) is not None:
            self.paused[partition] = asyncio.get_running_loop().time() + seconds
            self.pauses += 1

    async def commit(self, topic: str, partition: int, offset: int) -> None: ...

    async def close(self) -> None:
        self.next.clear()
