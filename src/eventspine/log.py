"""The log: every service appends its events to it, and others read them from it.

`EventLog` is small on purpose. It has two implementations: `PostgresLog` (a table, the embedded default) and
`KafkaLog` (Kafka topics, for production). Both pass the same contract suite. The relay, the consumer, replay
and the tests run unchanged on either.

Every log guarantees:

* `append` returns only when every message is durable, and keeps the order of messages that share a key. If it
  raises, some or all messages may have been appended. Appending is *at least once*, and the writer starts again
  from a point that it knows to be safe.
* A key always goes to the same partition of a topic, by a rule of `partitions.py`. Offsets in a partition only
  rise.
* A topic has an identity. It stays the same when the log is restored from a backup. A recreated topic has
  another one, even under the same name.
* Nothing is ever rewritten or compacted.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Message(NamedTuple):
    """What is appended: a record that has no offset yet. A header is text, or its UTF-8 bytes."""

    key: str
    value: bytes | None
    headers: Mapping[str, Any]


MESSAGE_FRAME = 64
HEADER_FRAME = 8
"""The most bytes in a request for a message, and for each of its headers, in addition to their texts."""

Encoded = tuple[bytes, bytes | None, list[tuple[str, bytes]], int]
"""A message as Kafka's client takes it: key, value and headers. Last comes a size: it needs no more bytes in a
request."""


@runtime_checkable
class EncodedMessages(Protocol):
    """Messages that can be had as `Encoded` too. For a relay: a `Message` takes 1 µs more."""

    def encoded(self) -> Iterator[Encoded]: ...


class Record(NamedTuple):
    """What is read: a message with its partition and offset.

    On Kafka any writer may have written it. So a reader must expect a missing key, a missing value
    (a tombstone) and foreign headers. Bytes of a header that are not UTF-8 arrive as backslash
    escapes.
    """

    topic: str
    partition: int
    offset: int
    key: str | None
    value: bytes | None
    headers: Mapping[str, str]


Raw = tuple[int, bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
"""A record as it came: offset, key, value and headers. For those who read millions: a `Record` takes 2 µs more."""


def record_of(topic: str, partition: int, raw: Raw) -> Record:
    """What is not UTF-8 becomes backslash escapes. If a header's name occurs twice, the last one counts."""
    offset, key, value, headers = raw
    text = None if key is None else key.decode(errors="backslashreplace")
    named = {name: (given or b"").decode(errors="backslashreplace") for name, given in headers}
    return Record(topic, partition, offset, text, value, named)


def raw_of(record: Record) -> Raw:
    key = None if record.key is None else record.key.encode()
    headers = [(name, given.encode()) for name, given in record.headers.items()]
    return record.offset, key, record.value, headers


class TopicIdentity(NamedTuple):
    """The identity of a topic in one log.

    No other topic ever gets the same `id`, in this log or another. `rule` names how keys are spread
    over the partitions (`partitions.py`).
    """

    id: str
    partitions: int
    rule: str


class LogUnavailable(Exception):
    """The log can't be reached, or did not confirm in time. The same call may succeed later."""


class TopicMismatch(Exception):
    """A topic exists, but its settings allow events to be lost or reordered."""


Take = Callable[[Sequence[Raw]], None]
"""What is done with records of one partition."""

StartAt = Callable[[str, int], Awaitable[int]]
"""Gives the offset to read next, for a topic and a partition. This is the consumer's own checkpoint. It is
called each time a partition is assigned and each time a pause ends. Offsets committed to the log are never used."""


class Subscription(Protocol):
    """A member of a consumer group. It reads the partitions that it holds.

    Any number of members share a group's partitions. For a moment, two members may both believe that
    they hold the same partition. The log does not prevent that; the checkpoint's compare-and-set does
    the work of only one of them.
    """

    async def poll(self, max_records: int, timeout: float) -> list[Record]:
        """Up to `max_records`, in offset order within each partition; empty after `timeout` seconds.

        Raises `LogUnavailable` when the log can't be reached. Then call it again later.
        """
        ...

    async def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read this partition from `offset` on. Ignored if it is paused or not held."""
        ...

    async def pause(self, topic: str, partition: int, seconds: float) -> None:
        """Give no record of this partition for so many seconds; the other partitions continue.

        The member still holds it, but drops the records that it has fetched. After the pause,
        reading starts where `StartAt` says, as after an assignment. Ignored if it is not held.
        """
        ...

    async def commit(self, topic: str, partition: int, offset: int) -> None:
        """Tell the log the group's progress, only for displays of lag. Does not wait and does not raise."""
        ...

    async def close(self) -> None:
        """Leave the group, so that other members take over at once, without a timeout."""
        ...


class EventLog(Protocol):
    """Topics, their partitions and their records. The module's docstring lists what each log guarantees."""

    async def create_topic(self, topic: str, partitions: int | None = None) -> None:
        """Create the topic if it does not exist. `partitions` is used only then (None: the default).

        Raises `TopicMismatch` if it exists with settings that could lose or reorder events.
        """
        ...

    async def prepare(self, topic: str) -> None:
        """Open the connections that `append` needs, so that the next messages do not wait for them.

        It waits for them for a few seconds at most, and does not raise if the log can't be reached. Call it
        from time to time while there is nothing to append: then it returns at once.
        """
        ...

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Append in order; return once all are durable. Raises `LogUnavailable`."""
        ...

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """Up to `limit` records from `offset` on; empty at the end. Raises `LogUnavailable`.

        For replay, audits and people. It does not join a group.
        """
        ...

    async def scan(self, topic: str, partition: int, offset: int, limit: int, take: Take) -> int:
        """As `read`, for those who read a whole topic. Returns the offset to read next.

        `take` is given some records at a time, in order; it may be called in another thread.
        """
        ...

    async def end_offsets(self, topic: str) -> dict[int, int]:
        """For each partition, the offset of the next record; empty if the topic does not exist."""
        ...

    async def identity(self, topic: str) -> TopicIdentity:
        """The topic's identity. Raises `LogUnavailable`, also if the topic does not exist.

        It is not cached, because the topic may have been recreated.
        """
        ...

    def subscribe(self, group: str, topics: Sequence[str], start_at: StartAt) -> Subscription:
        """Join a group. The first `poll` opens the connections."""
        ...

    async def close(self) -> None:
        """Release connections and threads. Messages that are not durable yet may be lost."""
        ...
