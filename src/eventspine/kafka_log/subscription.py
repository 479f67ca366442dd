"""A member of a consumer group."""

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from eventspine.kafka_log.client import (
    ALL_BROKERS_DOWN,
    AT_ONCE,
    AUTHENTICATION_FAILED,
    FATAL,
    LOG,
    OFFSET_NOT_THERE,
    READING,
    READING_SAFELY,
    SLICE,
    Defaults,
    Heard,
    OffsetNotInLog,
    Reach,
    Settings,
    in_thread,
    plain,
    quiet,
    record,
    unavailable,
)
from eventspine.kafka_log.passwords import Renewal
from eventspine.kafka_log.watch import Partition, Watch
from eventspine.log import LogUnavailable, Record, StartAt

_MOST_BYTES = 16 * 1024 * 1024
"""The most bytes of values that one `poll` returns. Foreign records may have 4 MiB each."""

_COMMIT_EVERY = 5.0  # seconds, like Kafka's own clients; enough for displays of lag
_ASK_AGAIN_AFTER = 1.0  # seconds after which a failed `start_at` is called again
_LEAVE_WITHIN = 3.0  # seconds; if the broker is unavailable, closing a consumer takes up to 45

# While a commit of offsets is unanswered, librdkafka does not start to read a newly assigned or sought
# partition. With its default timeout of 60 s, a commit lost on a half-dead connection stopped a partition for
# a minute, while all others continued. Brokers answer a fetch within 0.1 s, and other requests at once, so a
# short timeout is safe.
_UNANSWERED: Defaults = MappingProxyType({"socket.timeout.ms": 6_000})

# The new group protocol (KIP-848, Kafka 4), with which members keep reading while others join and leave; and
# the classic one, for older brokers. Each protocol rejects the settings of the other.
_PROTOCOLS: Mapping[str, Defaults] = MappingProxyType(
    {
        "consumer": {},
        "classic": {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 10_000,
        },
    }
)

_REFUSALS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        AUTHENTICATION_FAILED,
    }
)


class KafkaSubscription:
    """See `Subscription`.

    Kafka assigns and revokes partitions in callbacks, in a thread that must not wait for the event loop.
    So the callback only notes an assigned partition. `poll` then asks `start_at` for its offset and
    starts to read it there. Nothing of the partition is read before that.
    """

    def __init__(
        self, config: Settings, group: str, topics: Sequence[str], start_at: StartAt, reach: Reach
    ) -> None:
        self._config = {**config, "group.id": group}
        self._protocol = str(config.get("group.protocol", "consumer"))
        self._topics = list(topics)
        self._start_at = start_at
        self._reach = reach
        self._turn = asyncio.Lock()
        self._closing = threading.Event()

        # Used only by the thread that is running.
        self._consumer: Consumer | None = None
        self._given: dict[
            Partition, float
        ] = {}  # assigned, but not read yet; and when to call `start_at`
        self._reading: set[Partition] = set()  # assigned, and being read
        self._starts: dict[Partition, int] = {}  # the offset from which each of these is read
        self._watch = Watch(config, group, topics)
        self._failures: list[LogUnavailable] = []
        self._said: set[str] = set()
        self._commit_at = 0.0
        self._heard = Heard()
        self._renewal = Renewal(self._config)
        self._doubt = ""  # why Kafka may be unavailable

        # Used only under the lock.
        self._lock = threading.Lock()
        self._ready: list[Record] = []
        self._seeks: dict[Partition, int] = {}
        self._pauses: dict[Partition, float] = {}  # paused until then
        self._commits: dict[Partition, int] = {}

    async def poll(self, max_records: int, timeout: float) -> list[Record]:
        deadline = time.monotonic() + timeout
        async with self._turn:
            while True:
                await self._place_given()
                if not self._ready:
                    await in_thread(partial(self._consume, max_records, deadline))
                # After a cancelled poll, some records may not have been returned.
                with self._lock:
                    records = self._ready[:max_records]
                    del self._ready[:max_records]
                if not records and self._failures:
                    raise self._failures.pop(0)
                if records or time.monotonic() >= deadline or self._closing.is_set():
                    return records

    async def seek(self, topic: str, partition: int, offset: int) -> None:
        with self._lock:
            self._seeks[topic, partition] = offset
            self._drop({(topic, partition)})

    async def pause(self, topic: str, partition: int, seconds: float) -> None:
        with self._lock:
            self._pauses[topic, partition] = time.monotonic() + seconds
            self._drop({(topic, partition)})

    async def commit(self, topic: str, partition: int, offset: int) -> None:
        with self._lock:
            self._commits[topic, partition] = offset

    async def close(self) -> None:
        self._closing.set()
        async with self._turn:
            await asyncio.to_thread(self._leave)
        self._closing.clear()

    # Where partitions are read from

    async def _place_given(self) -> None:
        starts: dict[Partition, int] = {}
        try:
            for at in self._due():
                # Before it is tried again, all other partitions have had their turn.
                self._given[at] = time.monotonic() + _ASK_AGAIN_AFTER
                starts[at] = await self._start_at(*at)
        finally:
            with self._lock:
                for at in starts:
                    # A seek before the partition is read has no effect; `start_at` decides.
                    self._seeks.pop(at, None)
            self._place(starts)

    def _due(self) -> list[Partition]:
        """The partitions for which `start_at` is due; those that have waited longest come first."""
        now = time.monotonic()
        due = sorted((ask_at, at) for at, ask_at in self._given.items() if ask_at <= now)
        return [at for _, at in due]

    def _place(self, starts: Mapping[Partition, int]) -> None:
        """Start to read these assigned partitions at these offsets."""
        if self._consumer is None or not starts:
            return
        try:
            self._take_out(self._reading & starts.keys())
            placed = self._given.keys() & starts.keys()
            self._consumer.incremental_assign([TopicPartition(*at, starts[at]) for at in placed])
        except KafkaException as error:
            raise unavailable("assign a partition", error) from error
        for at in placed:
            del self._given[at]
        self._reading |= placed
        self._starts |= {at: starts[at] for at in placed}

    def _take_out(self, partitions: set[Partition], ask_at: float = 0.0) -> None:
        """Stop reading partitions that stay assigned."""
        if partitions and self._consumer:
            self._consumer.incremental_unassign(_listed(partitions))
            self._reading -= partitions
            self._given |= dict.fromkeys(partitions, ask_at)

    def _apply_pauses_and_seeks(self) -> None:
        with self._lock:
            pauses, self._pauses = self._pauses, {}
            seeks, self._seeks = self._seeks, {}
        for at, until in pauses.items():
            # Kafka's own pause would keep fetched records, and continue with them.
            self._take_out({at} & self._reading, until)
        self._place({at: offset for at, offset in seeks.items() if at in self._reading})

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return  # a consumer that is closing and takes longer than callers wait
        self._given |= dict.fromkeys(_set(partitions), 0.0)
        # Without this call, the client would assign them itself, at the committed offsets.
        consumer.incremental_assign([])

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        taken = _set(partitions)
        consumer.incremental_unassign(_listed(taken & self._reading))
        for at in taken:
            self._given.pop(at, None)
        self._reading -= taken
        with self._lock:
            self._drop(taken)

    def _drop(self, partitions: set[Partition]) -> None:
        self._ready = [one for one in self._ready if (one.topic, one.partition) not in partitions]

    # Runs in the thread

    def _consume(self, max_records: int, deadline: float, stop: threading.Event) -> None:
        """Fill `_ready` until `deadline`, or until the event loop has something to do."""
        try:
            self._fill(self._consumer or self._join(), max_records, deadline, stop)
        except BaseException:
            # The client may have lost records that it counts as returned. Start again at the checkpoint.
            self._leave()
            raise

    def _fill(
        self, consumer: Consumer, max_records: int, deadline: float, stop: threading.Event
    ) -> None:
        self._apply_pauses_and_seeks()
        self._send_commits()
        if self._doubt:
            self._watch.rest()
        else:
            self._look_around(consumer)
        while self._joined and not (stop.is_set() or self._closing.is_set()):
            wait = min(SLICE, max(0.0, deadline - time.monotonic()))
            # With more than one, librdkafka would wait until all have arrived.
            messages, room, size = consumer.consume(1, wait), max_records, 0
            self._renewal.due(consumer)
            while messages:
                self._sort_out(messages)
                room -= len(messages)
                size += sum(len(message) for message in messages)
                if not (room and size < _MOST_BYTES and self._consumer):
                    break
                messages = consumer.consume(min(room, AT_ONCE), 0)
            else:
                self._watch.ran_empty()
            if self._doubt and not self._ready:
                self._settle_doubt()
            late = time.monotonic() >= deadline
            if self._ready or self._failures or self._due() or late or not self._consumer:
                return

    def _sort_out(self, messages: Iterable[KafkaMessage]) -> None:
        records = []
        for message in messages:
            if (error := message.error()) is None:
                records.append(record(message))
            else:
                self._failed(message, error)
        if records:
            self._doubt = ""
            self._reach.back()
        self._watch.came(records)
        with self._lock:
            sound = self._reading - self._seeks.keys() - self._pauses.keys()
            self._ready += [one for one in records if (one.topic, one.partition) in sound]

    def _failed(self, message: KafkaMessage, error: KafkaError) -> None:
        code, why = error.code(), plain(error)
        if code == OFFSET_NOT_THERE:
            at = (str(message.topic()), int(message.partition() or 0))
            self._take_out({at} & self._reading, time.monotonic() + _ASK_AGAIN_AFTER)
            self._failures.append(OffsetNotInLog(*at, int(message.offset() or 0)))
        elif code == FATAL:
            newcomer = not (self._given or self._reading)
            self._leave()
            if newcomer and self._protocol == "consumer":
                LOG.info("kafka.classic_group_selected", reason=why)
                self._protocol = "classic"
            else:
                self._failures.append(
                    LogUnavailable(f"Kafka removed this reader from its group: {why}")
                )
        elif code in _REFUSALS:
            self._failures.append(LogUnavailable(f"Kafka refuses: {why}"))
        elif why not in self._said:
            # For example a topic that does not exist yet. The client continues by itself.
            self._said.add(why)
            LOG.warning("kafka.error_reported", reason=why)

    def _send_commits(self) -> None:
        now = time.monotonic()
        if now < self._commit_at or self._doubt:
            return
        self._commit_at = now + _COMMIT_EVERY
        with self._lock:
            commits, self._commits = self._commits, {}
        offsets = [TopicPartition(*at, to) for at, to in commits.items() if at in self._reading]
        if offsets and self._consumer:
            with suppress(KafkaException):
                self._consumer.commit(offsets=offsets, asynchronous=True)

    def _look_around(self, consumer: Consumer) -> None:
        """Join again if there is something to read but it does not arrive."""
        starts = {at: self._starts[at] for at in self._reading}
        wrong = self._watch.look(consumer, starts, self._given.keys())
        if wrong:
            LOG.warning("kafka.group_rejoined", reason=wrong[0])
            self._leave()

    def _told(self, error: KafkaError) -> None:
        self._renewal.heard(error)
        self._heard(error)
        if self._doubt or error.code() == ALL_BROKERS_DOWN:
            self._doubt = self._heard.last or plain(error)

    def _settle_doubt(self) -> None:
        """Check whether Kafka is reachable. The client also reports "all brokers are down" after an idle
        connection was closed.
        """
        try:
            if self._consumer:
                self._consumer.list_topics(self._topics[0], timeout=0.5)
        except KafkaException:
            self._reach.away(self._doubt)
            self._failures.append(LogUnavailable(f"Kafka can't be reached: {self._doubt}"))
        else:
            self._doubt = ""
            self._reach.back()

    def _join(self) -> Consumer:
        protocol = {**_PROTOCOLS[self._protocol], **self._config, "group.protocol": self._protocol}
        settings = {**READING, **_UNANSWERED, **protocol, **READING_SAFELY}
        self._watch.joined()
        self._consumer = Consumer(quiet(settings, self._told))
        self._consumer.subscribe(
            self._topics,
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )
        return self._consumer

    @property
    def _joined(self) -> bool:
        return self._consumer is not None

    def _leave(self) -> None:
        self._commit_at = 0.0
        self._send_commits()
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return

        def close() -> None:
            with suppress(KafkaException, RuntimeError):
                consumer.close()

        closing = threading.Thread(target=close, name="kafka-leave", daemon=True)
        closing.start()
        closing.join(_LEAVE_WITHIN)
        self._given.clear()
        self._reading.clear()
        with self._lock:
            self._ready.clear()
            self._seeks.clear()
            self._pauses.clear()
            self._commits.clear()


def _set(partitions: Iterable[TopicPartition]) -> set[Partition]:
    return {(each.topic, each.partition) for each in partitions}


def _listed(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(*at) for at in partitions]
