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

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol


class Message(NamedTuple):
    """What is appended: the record before the log has given it a place."""

    key: str
    value: bytes | None
    headers: Mapping[str, str]


class Record(NamedTuple):
    """What is read: a message and the place the log gave it.

    Key, value and headers may come from any writer on Kafka, so a reader
    must expect a missing key, a missing value (a tombstone) and headers that are not ours. Header
    bytes that are not UTF-8 arrive with backslash escapes in their place.
    """

    topic: str
    partition: int
    offset: int
    key: str | None
    value: bytes | None
    headers: Mapping[str, str]


class TopicIdentity(NamedTuple):
    """Which log this is, as far as one topic goes.

    `id` is never given to another topic, in whatever log. `rule` says how keys are spread over the
    partitions (`partitions.py`).
    """

    id: str
    partitions: int
    rule: str


class LogUnavailable(Exception):
    """The log can't be reached or did not confirm in time; the same call may work later."""


class TopicMismatch(Exception):
    """A topic is there, but with settings under which events could be lost or reordered."""


StartAt = Callable[[str, int], Awaitable[int]]
"""Given a topic and a partition, the offset to read next: the consumer's own checkpoint, asked for
each time a partition is assigned, or its pause is over. The log's idea of a committed offset is never used."""


class Subscription(Protocol):
    """A member of a consumer group, reading the partitions it currently holds.

    Any number of members share a group's partitions. For a moment two members may both believe
    they hold one: the log does not prevent it, the checkpoint's compare-and-set decides.
    """

    async def poll(self, max_records: int, timeout: float) -> list[Record]:
        """Up to `max_records`, in offset order within each partition; empty after `timeout` s.

        Raises `LogUnavailable` when the log can't be reached; call again later.
        """
        ...

    async def seek(self, topic: str, partition: int, offset: int) -> None:
        """Read this partition from `offset` on. Ignored for one that is not held, or is paused."""
        ...

    async def pause(self, topic: str, partition: int, seconds: float) -> None:
        """Give nothing of this partition for so long, and go on with the others.

        It stays held, and nothing of it is kept. Then it begins where `StartAt` says, as if it had
        just been assigned. Ignored for a partition not held.
        """
        ...

    async def commit(self, topic: str, partition: int, offset: int) -> None:
        """Tell the log how far the group is, for lag displays only. Never waits, never raises."""
        ...

    async def close(self) -> None:
        """Leave the group, so that other members take over without waiting for a time-out."""
        ...


class EventLog(Protocol):
    """Topics of partitions of records. See the module's promises."""

    async def create_topic(self, topic: str, partitions: int | None = None) -> None:
        """Make sure the topic is there; `partitions` counts only at its birth (None: the default).

        Raises `TopicMismatch` if it is there with settings that could lose or reorder events.
        """
        ...

    async def prepare(self, topic: str) -> None:
        """Open what `append` needs, so that the next messages do not wait for it.

        Returns at once, whether or not the log can be reached. Call it now and then while there is
        nothing to append.
        """
        ...

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Append in order; return once all are durable. Raises `LogUnavailable`."""
        ...

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """Up to `limit` records from `offset` on; empty at the end. Raises `LogUnavailable`.

        For replay, audits and people. Outside any group.
        """
        ...

    async def end_offsets(self, topic: str) -> dict[int, int]:
        """For each partition, the offset the next record will get; empty if no such topic."""
        ...

    async def identity(self, topic: str) -> TopicIdentity:
        """What tells this topic from every other. Raises `LogUnavailable`, also if it is not there.

        Not cached: the topic may have been recreated.
        """
        ...

    def subscribe(self, group: str, topics: Sequence[str], start_at: StartAt) -> Subscription:
        """Join a group. Opens nothing yet; the first `poll` does."""
        ...

    async def close(self) -> None:
        """Give back connections and threads. Messages not yet durable may be lost."""
        ...
