"""The log as Kafka topics: the engine for production. Nothing else speaks to the Kafka client.

librdkafka does the work in threads of its own. Python asks it one thing a batch, in a thread
(`asyncio.to_thread`), and never one a message. Its asyncio classes are not used: the producer
among them drops headers, and can send a whole batch twice (2.16).

What safety rests on here:

* A partition never has more than one request under way, a producer never gives a message up on its
  own, and at the first error it is thrown away with everything in it. So no message can overtake an
  earlier one of its partition: the next producer begins where its user, who knows what was
  confirmed, begins again.
* A partition is read from the offset that `start_at` names, never from the one committed to
  Kafka; and an offset that the log has not got is an error, never a reason to jump.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from eventspine.kafka_log.appender import Appender
from eventspine.kafka_log.client import (
    SHARED,
    OffsetNotInLog,
    Reach,
    Settings,
    in_thread,
    share_one_heap,
)
from eventspine.kafka_log.reader import Reader
from eventspine.kafka_log.subscription import KafkaSubscription
from eventspine.kafka_log.topics import Topics
from eventspine.log import Message, Record, StartAt, TopicIdentity

__all__ = ["KafkaLog", "KafkaSubscription", "OffsetNotInLog"]


class KafkaLog:
    """`EventLog` on a Kafka cluster.

    `config` holds librdkafka's property names, `bootstrap.servers` at least; TLS and SASL settings
    pass through. `partitions` and `replication_factor` are for the topics created here.
    """

    def __init__(
        self, config: Mapping[str, str], *, partitions: int = 12, replication_factor: int = 1
    ) -> None:
        share_one_heap()
        self._config: Settings = {**SHARED, **config}
        self._reach = Reach(config["bootstrap.servers"])
        self._topics = Topics(
            self._config, partitions=partitions, replication_factor=replication_factor
        )
        self._appender = Appender(self._config, self._reach)
        self._append_turn = asyncio.Lock()
        self._idle_readers: list[Reader] = []
        self._subscriptions: list[KafkaSubscription] = []

    async def create_topic(self, topic: str, partitions: int | None = None) -> None:
        await asyncio.to_thread(self._topics.create, topic, partitions)

    async def prepare(self, topic: str) -> None:  # noqa: ARG002 - one producer for all topics
        async with self._append_turn:
            await in_thread(lambda _stop: self._appender.prepare())

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        async with self._append_turn:
            await in_thread(partial(self._appender.append, topic, messages))

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        def read() -> list[Record]:
            reader = self._reader((topic, partition, offset))
            records = reader.read(topic, partition, offset, limit)
            self._idle_readers.append(reader)
            return records

        return await asyncio.to_thread(read)

    async def end_offsets(self, topic: str) -> dict[int, int]:
        def end_offsets() -> dict[int, int]:
            reader = self._reader(None)
            ends = reader.end_offsets(topic)
            self._idle_readers.append(reader)
            return ends

        return await asyncio.to_thread(end_offsets)

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

    def _reader(self, at: tuple[str, int, int] | None) -> Reader:
        """An idle reader, best the one that stands there already; a new one when all are busy.

        One that fails is not put back among the idle: the next call begins afresh.
        """
        with suppress(IndexError):  # other threads take from the list too
            for index, reader in enumerate(self._idle_readers):
                if reader.next == at:
                    return self._idle_readers.pop(index)
            return self._idle_readers.pop(0)
        return Reader(self._config, self._reach)
