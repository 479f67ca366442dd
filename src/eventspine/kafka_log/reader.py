"""Reads a topic without a consumer group: for replay, audits and people."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar, cast

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from eventspine.kafka_log.client import (
    ANSWER_WITHIN,
    AT_ONCE,
    LEADER_CHANGES,
    NO_RIGHT_TO_GROUP,
    NO_SUCH_TOPIC,
    PARTITION_END,
    READING,
    READING_SAFELY,
    SLICE,
    Heard,
    OffsetNotInLog,
    Reach,
    Settings,
    code,
    quiet,
    unavailable,
)
from eventspine.log import LogUnavailable

TakeMessages = Callable[[Sequence[KafkaMessage]], None]
Made = TypeVar("Made")
_Answer = TypeVar("_Answer")


def taking(
    made: Callable[[KafkaMessage], Made],
    take: Callable[[list[Made]], None],
    messages: Sequence[KafkaMessage],
) -> None:
    take([made(message) for message in messages])


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FEW = 200
"""Records of one read, at most, for which a reader of its own asks for no more than it needs."""

# A response with thousands of records would be unpacked for nothing. While enough is queued, the client asks for
# nothing, and looks again after the last of these times, even if it has been told to read elsewhere.
_ASKING_FOR_FEW = {
    "fetch.message.max.bytes": 32 * 1024,
    "queued.min.messages": FEW,
    "fetch.queue.backoff.ms": 1,
}

_OWN = {
    # The client requires a group's name and asks for its coordinator. It joins no group and commits
    # nothing. So reading works without permission for the group (`NO_RIGHT_TO_GROUP`).
    "group.id": "eventspine-reader",
    "group.protocol": "classic",
    "enable.partition.eof": True,
    # The broker answers the requests of a connection one after another, so a fetch that waits at the end
    # of a partition delays the next request.
    "fetch.wait.max.ms": 20,
}


class Reader:
    """A consumer of one partition at a time, used by one thread at a time.

    Between two reads it keeps records that it has received and not returned. So reading on from `next`
    needs neither a request nor a seek. With `few` it keeps nothing, and reads `FEW` records at most.
    """

    def __init__(self, config: Settings, reach: Reach, *, few: bool = False) -> None:
        self.few = few
        asking = _ASKING_FOR_FEW if few else {}
        settings = {**READING, **asking, **config, **READING_SAFELY, **_OWN}
        self._heard = Heard()
        self._consumer = Consumer(quiet(settings, self._heard))
        self._reach = reach
        self.next: tuple[str, int, int] | None = None
        self._end = 0

    def end_offsets(self, topic: str) -> dict[int, int]:
        try:
            found = self._consumer.list_topics(topic, timeout=ANSWER_WITHIN).topics[topic]
            if found.error is not None:
                return {}
            return self._ends(topic, sorted(found.partitions))
        except KafkaException as error:
            raise self._unavailable(f"find the end of {topic}", error) from error

    def appended_from(
        self, topic: str, partitions: Sequence[int], time: datetime
    ) -> dict[int, int]:
        """The first offset of each partition whose record has this timestamp or a later one; those that have one."""
        milliseconds = max(0, (time - _EPOCH) // timedelta(milliseconds=1))
        wanted = [TopicPartition(topic, each, milliseconds) for each in partitions]
        try:
            found = self._offsets(wanted)
        except KafkaException as error:
            raise self._unavailable(f"find a time in {topic}", error) from error
        return {one.partition: one.offset for one in found if one.offset >= 0}

    def read(self, topic: str, partition: int, offset: int, limit: int, take: TakeMessages) -> int:
        """The offset to read next: after what `take` was given, and what is never given to anybody."""
        at = (topic, partition, offset)
        try:
            if self.next != at and not self._begin(*at):
                return offset
            following = self._read(offset, limit, take)
        except KafkaException as error:
            if code(error) in NO_SUCH_TOPIC:
                return offset
            raise self._unavailable(f"read {topic}/{partition}", error) from error
        if offset < following < self._end and not self.few:
            self.next = (topic, partition, following)
        else:
            # At the end of the partition, or with all that was wanted, stop fetching.
            self.next = None
            self._consumer.unassign()
        return following

    def close(self) -> None:
        self._consumer.close()

    def _unavailable(self, what: str, error: KafkaException) -> LogUnavailable:
        with suppress(KafkaException):
            self._consumer.poll(0)  # errors are reported only when it is polled
        return unavailable(what, error, self._heard.last)

    def _begin(self, topic: str, partition: int, offset: int) -> bool:
        """Go to this offset. Returns False if there is nothing to read from there."""
        self.next = None
        self._consumer.unassign()
        first, self._end = self._bounds(topic, partition)
        if offset < first:
            raise OffsetNotInLog(topic, partition, offset)
        if offset >= self._end:
            return False
        self._consumer.assign([TopicPartition(topic, partition, offset)])
        return True

    def _read(self, offset: int, limit: int, take: TakeMessages) -> int:
        following, left = offset, limit
        last_heard = time.monotonic()
        while left:
            # With more than one, librdkafka would wait until all have arrived.
            messages = self._consumer.consume(1, SLICE)
            if messages and left > 1:
                messages += self._consumer.consume(min(left - 1, AT_ONCE), 0)
            records = [message for message in messages if message.error() is None]
            if records:
                take(records)
                left -= len(records)
                following = cast("int", records[-1].offset()) + 1
                last_heard = time.monotonic()
            for message in messages:
                if (error := message.error()) is None:
                    continue
                if error.code() == PARTITION_END:
                    # The offsets before the end may hold no record but the marker of a foreign
                    # transaction, which is never returned. The client reports the end only once.
                    self._end = 0
                    return max(following, cast("int", message.offset()))
                if error.code() != NO_RIGHT_TO_GROUP:
                    raise KafkaException(error)
            if offset < following and following >= self._end:
                return following
            if not records and time.monotonic() - last_heard > ANSWER_WITHIN:
                raise LogUnavailable(f"Kafka sent nothing for {ANSWER_WITHIN:g} s")
        return following

    def _ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """By one request to each broker that leads some of the partitions. Raises `KafkaException`."""
        # As a time, this means the end.
        wanted = [TopicPartition(topic, each, OFFSET_END) for each in partitions]
        return {one.partition: one.offset for one in self._offsets(wanted)}

    def _offsets(self, wanted: list[TopicPartition]) -> list[TopicPartition]:
        """The offsets of these times. Raises `KafkaException`."""

        def ask() -> list[TopicPartition]:
            found = self._consumer.offsets_for_times(wanted, timeout=ANSWER_WITHIN)
            _raise_errors(found)
            return found

        return self._answered(ask)

    def _bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset in the partition, and the offset of the next record."""
        at = TopicPartition(topic, partition)
        return self._answered(
            lambda: self._consumer.get_watermark_offsets(at, timeout=ANSWER_WITHIN)
        )

    def _answered(self, ask: Callable[[], _Answer]) -> _Answer:
        """Ask again while leaders change. Raises `KafkaException`."""
        deadline = time.monotonic() + ANSWER_WITHIN
        while True:
            try:
                answer = ask()
            except KafkaException as error:
                if code(error) not in LEADER_CHANGES or time.monotonic() > deadline:
                    raise
                time.sleep(SLICE)
            else:
                self._reach.back()
                return answer


def _raise_errors(found: Sequence[TopicPartition]) -> None:
    """If all partitions fail, the client raises. Otherwise each may have an error of its own."""
    for one in found:
        if one.error is not None:
            raise KafkaException(one.error)
