"""The log as Kafka topics, for production. Only this package uses the Kafka client.

librdkafka works in its own threads. Python calls it once for each batch, in a thread (`asyncio.to_thread`), and
never for each message. Its asyncio classes are not used: its asyncio producer drops headers, and can send a
batch twice (2.16).

Correctness depends on these rules:

* A partition never has more than one request in flight. A producer never gives up a message on its own. At the
  first error it is discarded with everything in it. So no message can overtake an earlier one of its
  partition. The next producer starts after the last confirmed message, which its user knows.
* A partition is read from the offset that `start_at` names, never from the one committed to Kafka. An offset that
  the log does not have is an error. It is never skipped.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial

from eventspine.kafka_log.appender import Appender
from eventspine.kafka_log.client import (
    SHARED,
    OffsetNotInLog,
    Reach,
    Settings,
    in_thread,
    raw,
    record,
    share_one_heap,
)
from eventspine.kafka_log.passwords import Passwords
from eventspine.kafka_log.reader import FEW, Reader, TakeMessages, taking
from eventspine.kafka_log.subscription import KafkaSubscription
from eventspine.kafka_log.topics import Topics
from eventspine.log import Message, Record, StartAt, Take, TopicIdentity

__all__ = ["KafkaLog", "KafkaSubscription", "OffsetNotInLog", "Passwords"]


class KafkaLog:
    """`EventLog` on a Kafka cluster.

    `config` holds settings under librdkafka's names: at least `bootstrap.servers`, and TLS and SASL if
    needed. `partitions` and `replication_factor` are used for topics that are created here.
    """

    def __init__(
        self,
        config: Mapping[str, str | Passwords],
        *,
        partitions: int = 12,
        replication_factor: int = 1,
    ) -> None:
        share_one_heap()
        self._config: Settings = {**SHARED, **config}
        self._reach = Reach(str(config["bootstrap.servers"]))
        self._topics = Topics(
            self._config, partitions=partitions, replication_factor=replication_factor
        )
        self._appender = Appender(self._config, self._reach)
        self._append_turn = asyncio.Lock()
        self._idle_readers: list[Reader] = []
        self._subscriptions: list[KafkaSubscription] = []

    async def create_topic(self, topic: str, partitions: int | None = None) -> None:
        await asyncio.to_thread(self._topics.create, topic, partitions)

    async def create_passing_topic(self, topic: str) -> None:
        """Create a topic for records that need not stay, such as heartbeats, if it does not exist."""
        await asyncio.to_thread(self._topics.create_passing, topic)

    async def prepare(self, topic: str) -> None:  # noqa: ARG002 - one producer for all topics
        async with self._append_turn:
            await in_thread(self._appender.prepare)

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        async with self._append_turn:
            await in_thread(partial(self._appender.append, topic, messages))

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        records: list[Record] = []
        take = partial(taking, record, records.extend)
        await asyncio.to_thread(self._read, topic, partition, offset, limit, take)
        return records

    async def scan(self, topic: str, partition: int, offset: int, limit: int, take: Take) -> int:
        take_raw = partial(taking, raw, take)
        return await asyncio.to_thread(self._read, topic, partition, offset, limit, take_raw)

    def _read(self, topic: str, partition: int, offset: int, limit: int, take: TakeMessages) -> int:
        reader = self._reader((topic, partition, offset), limit <= FEW)
        following = reader.read(topic, partition, offset, limit, take)
        self._idle_readers.append(reader)
        return following

    async def end_offsets(self, topic: str) -> dict[int, int]:
        def end_offsets() -> dict[int, int]:
            reader = self._reader(None)
            ends = reader.end_offsets(topic)
            self._idle_readers.append(reader)
            return ends

        return await asyncio.to_thread(end_offsets)

    async def appended_from(
        self, topic: str, partitions: Sequence[int], time: datetime
    ) -> dict[int, int]:
        """For `seeking.offsets_at`. One request to each broker that leads some of the partitions."""

        def appended_from() -> dict[int, int]:
            reader = self._reader(None)
            found = reader.appended_from(topic, partitions, time)
            self._idle_readers.append(reader)
            return found

        return await asyncio.to_thread(appended_from)

    async def identity(self, topic: str) -> TopicIdentity:
        return await asyncio.to_thread(self._topics.identity, topic)

    def subscribe(self, group: str, topics: Sequence[str], start_at: StartAt) -> KafkaSubscription:
        subscription = KafkaSubscription(self._config, group, topics, start_at, self._reach)
        self._subscriptions.append(subscription)
        return subscription

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        async with self._append_turn:
            await asyncio.to_thread(self._appender.end)
        while self._idle_readers:
            await asyncio.to_thread(self._idle_readers.pop().close)

    def _reader(self, at: tuple[str, int, int] | None, few: bool | None = None) -> Reader:
        """An idle reader: one that is already at this place, or else at none, or else the last one that was used.
        A new one if all are busy.

        `few` says whether it is for few records or for many; None means either. Somebody who reads some partitions in
        turn thus keeps one reader for each, and no partition is begun twice.
        A reader that fails is not reused. The next call starts with a new one.
        """
        for place in (at, None):
            for reader in self._idle(few):
                if reader.next == place:
                    with suppress(ValueError):  # other threads take from the list too
                        self._idle_readers.remove(reader)
                        return reader
        for reader in reversed(self._idle(few)):
            with suppress(ValueError):
                self._idle_readers.remove(reader)
                return reader
        return Reader(self._config, self._reach, few=bool(few))

    def _idle(self, few: bool | None) -> list[Reader]:
        return [reader for reader in self._idle_readers.copy() if few in {None, reader.few}]
