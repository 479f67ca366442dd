"""The log as Kafka topics: the engine for production. The only module that knows the Kafka client.

librdkafka does the work in its own threads; what it is asked for in Python is one call a batch,
each in a thread of its own (`asyncio.to_thread`), never one a message. Its asyncio classes are not
used: the producer among them drops headers, and can send a whole batch twice (2.16).

What safety rests on here:

* A producer never gives a message up on its own, and is thrown away with everything in it at the
  first error. A later message can therefore never overtake an earlier one within its partition:
  the next producer begins where its user, who knows what was confirmed, begins again.
* A partition is read from the offset that `start_at` names, never from Kafka's committed one, and
  an offset that the log does not have is an error, never a reason to jump.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from eventspine.log import LogUnavailable, Message, Record, StartAt, TopicMismatch

_LOG = logging.getLogger("eventspine.kafka")

GIVE_UP_AFTER = 30.0
"""Seconds without one confirmation after which `append` raises."""

SAY_AWAY_AFTER = 2.0
"""Seconds without one confirmation after which the log says that Kafka is waited for."""

ANSWER_WITHIN = 10.0
"""Seconds that Kafka has for an answer to a question: offsets, settings, a topic's birth."""

LARGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes: a request of 1 MiB, escaped as JSON and wrapped in headers, with room to spare."""

_SLICE = 0.05  # seconds that a thread waits inside librdkafka before it looks up
_COMMIT_EVERY = 1.0  # seconds: a lag display needs no more
_ASK_AGAIN_AFTER = 1.0  # seconds, when it could not be found out where a partition starts
_LEAVE_WITHIN = 3.0  # seconds; a consumer's close waits up to 45 for a broker that is away

_SHARED: Mapping[str, str | int | bool] = MappingProxyType(
    {
        "client.id": "eventspine",
        "log.connection.close": False,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 2_000,
    }
)

# Throughput; the caller may know better. `flush` sends without lingering, so a batch of one does
# not wait, and a long batch leaves in big requests. lz4 costs no throughput and halves the disk.
_APPENDING: Mapping[str, str | int | bool] = MappingProxyType(
    {
        "linger.ms": 5,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 50_000,
        "queue.buffering.max.kbytes": 64 * 1024,
        "message.max.bytes": LARGEST_MESSAGE,
    }
)

# Safety; not for the caller to change.
_APPENDING_SAFELY: Mapping[str, str | int | bool] = MappingProxyType(
    {
        "enable.idempotence": True,
        "acks": "all",
        # Java's: any other producer of the same topic puts a key into the same partition.
        "partitioner": "murmur2_random",
        # Wait for ever. `enable.gapless.guarantee` would not cover a local time-out.
        "message.timeout.ms": 0,
        # Success is the queue running empty; only errors are worth a call into Python.
        "delivery.report.only.error": True,
    }
)

# A waiting fetch holds up a partition that is added to the same connection: so not for long.
_READING: Mapping[str, str | int | bool] = MappingProxyType(
    {
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 10,
        "queued.min.messages": 20_000,
        "queued.max.messages.kbytes": 16 * 1024,
    }
)

_READING_SAFELY: Mapping[str, str | int | bool] = MappingProxyType(
    {
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
    }
)

# The broker's new protocol (KIP-848, Kafka 4), where members keep reading while others move; and
# what came before it. Their settings exclude each other.
_PROTOCOLS: Mapping[str, Mapping[str, str | int]] = MappingProxyType(
    {
        "consumer": {"group.protocol": "consumer"},
        "classic": {
            "group.protocol": "classic",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 10_000,
        },
    }
)

Partition = tuple[str, int]
Settings = dict[str, Any]
_Result = TypeVar("_Result")


class OffsetNotInLog(LogUnavailable):
    """A partition was to be read from an offset it does not have: before its first, or past its end.

    The log was cut by a retention that should be -1, or was lost and begun anew. Reading elsewhere
    would leave events out or apply new ones as old, so somebody has to decide.
    """

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(
            f"{topic}/{partition} has no offset {offset}: the log was cut or lost its end; "
            "nothing of this partition is read until the log is restored or the reader is rebuilt"
        )
        self.topic = topic
        self.partition = partition
        self.offset = offset


class KafkaLog:
    """`EventLog` on a Kafka cluster.

    `config` holds librdkafka's own property names, `bootstrap.servers` at least; TLS and SASL pass
    through. `partitions` and `replication_factor` are for topics created here.
    """

    def __init__(
        self, config: Mapping[str, str], *, partitions: int = 12, replication_factor: int = 1
    ) -> None:
        self._reach = _Reach(config.get("bootstrap.servers", ""))
        self._config: Settings = {**_SHARED, **config}
        self._partitions = partitions
        self._replication_factor = replication_factor
        self._appender = _Appender(self._config, self._reach)
        self._append_turn = asyncio.Lock()
        self._readers: list[_Reader] = []
        self._subscriptions: list[KafkaSubscription] = []

    async def create_topic(self, topic: str, partitions: int | None = None) -> None:
        await asyncio.to_thread(self._create_topic, topic, partitions)

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        async with self._append_turn:
            await _in_thread(partial(self._appender.append, topic, messages))

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        def read() -> list[Record]:
            reader = self._reader(topic, partition, offset)
            records = reader.read(topic, partition, offset, limit)
            self._readers.append(reader)
            return records

        return await asyncio.to_thread(read)

    async def end_offsets(self, topic: str) -> dict[int, int]:
        def end_offsets() -> dict[int, int]:
            reader = self._reader(topic, -1, -1)
            ends = reader.end_offsets(topic)
            self._readers.append(reader)
            return ends

        return await asyncio.to_thread(end_offsets)

    def subscribe(
        self, group: str, topics: Sequence[str], start_at: StartAt
    ) -> "KafkaSubscription":
        subscription = KafkaSubscription(self._config, group, topics, start_at, self._reach)
        self._subscriptions.append(subscription)
        return subscription

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        async with self._append_turn:
            await asyncio.to_thread(self._appender.end)
        while self._readers:
            await asyncio.to_thread(self._readers.pop().close)

    def _reader(self, topic: str, partition: int, offset: int) -> "_Reader":
        """An idle reader, best the one that has read up to here; a new one when all are busy.

        One that failed is not given back: the next call begins afresh.
        """
        with suppress(IndexError):  # several threads take from the list
            for index, reader in enumerate(self._readers):
                if reader.next == (topic, partition, offset):
                    return self._readers.pop(index)
            return self._readers.pop(0)
        return _Reader(self._config, self._reach)

    def _create_topic(self, topic: str, partitions: int | None) -> None:
        admin = AdminClient(_quiet(self._config, lambda _: None))
        wanted = {
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": "-1",
            "unclean.leader.election.enable": "false",
            # One replica may be away, and still no confirmed event is on one disk alone.
            "min.insync.replicas": "2" if self._replication_factor >= 3 else "1",
            "max.message.bytes": str(LARGEST_MESSAGE),
        }
        new = NewTopic(
            topic, partitions or self._partitions, self._replication_factor, config=wanted
        )
        try:
            admin.create_topics([new], request_timeout=ANSWER_WITHIN)[topic].result()
        except KafkaException as error:
            if _code(error) != KafkaError.TOPIC_ALREADY_EXISTS:
                raise _unavailable(f"create topic {topic}", error) from error
        try:
            wrong = _mismatches(admin, topic, partitions, self._replication_factor)
        except KafkaException as error:
            raise _unavailable(f"tell the settings of topic {topic}", error) from error
        if wrong:
            raise TopicMismatch(f"topic {topic} could lose or reorder events: {'; '.join(wrong)}")


class KafkaSubscription:
    """A member of a consumer group.

    Kafka gives and takes partitions in callbacks, inside a thread that must not wait for our event
    loop. So a partition that was given is only noted there; `poll` then asks `start_at` for it,
    and puts it in place at that offset. Until then nothing of it is read.
    """

    def __init__(
        self,
        config: Settings,
        group: str,
        topics: Sequence[str],
        start_at: StartAt,
        reach: "_Reach",
    ) -> None:
        self._config = {**config, "group.id": group}
        self._protocol = str(config.get("group.protocol", "consumer"))
        self._topics = list(topics)
        self._start_at = start_at
        self._reach = reach
        self._turn = asyncio.Lock()
        self._closing = threading.Event()
        # Everything below belongs to whoever has the turn, but for what the lock is held for.
        self._consumer: Consumer | None = None
        self._given: set[Partition] = set()  # ours, and not known yet where to start
        self._ask_at = 0.0
        self._reading: set[Partition] = set()
        self._failures: list[LogUnavailable] = []
        self._said: set[str] = set()
        self._commit_at = 0.0
        self._doubt: str | None = None  # why all brokers may be away
        self._lock = threading.Lock()
        self._seeks: dict[Partition, int] = {}
        self._commits: dict[Partition, int] = {}
        self._ready: list[Record] = []

    async def poll(self, max_records: int, timeout: float) -> list[Record]:
        deadline = time.monotonic() + timeout
        async with self._turn:
            while True:
                await self._place_given()
                if not self._ready:
                    await _in_thread(partial(self._consume, max_records, deadline))
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

    async def commit(self, topic: str, partition: int, offset: int) -> None:
        with self._lock:
            self._commits[topic, partition] = offset

    async def close(self) -> None:
        self._closing.set()
        async with self._turn:
            await asyncio.to_thread(self._leave)
        self._closing.clear()

    async def _place_given(self) -> None:
        """Find out where partitions start. One that can't be found out is asked for again later."""
        if not self._given or time.monotonic() < self._ask_at:
            return
        starts: dict[Partition, int] = {}
        try:
            for at in sorted(self._given):
                starts[at] = await self._start_at(*at)
        except BaseException:
            self._ask_at = time.monotonic() + _ASK_AGAIN_AFTER
            raise
        finally:
            if starts:
                await asyncio.to_thread(self._place, starts)

    def _consume(self, max_records: int, deadline: float, stop: threading.Event) -> None:
        """Fill `_ready`, until `deadline` or until there is something for the event loop to do."""
        consumer = self._consumer or self._join()
        self._apply_seeks()
        self._send_commits()
        while not (stop.is_set() or self._closing.is_set()):
            wait = min(_SLICE, max(0.0, deadline - time.monotonic()))
            # Asked for more than one, librdkafka would wait for all of them.
            messages = consumer.consume(1, wait)
            if messages and max_records > 1:
                messages += consumer.consume(max_records - 1, 0)
            records = self._sort_out(messages)
            with self._lock:
                self._ready += [
                    record
                    for record in records
                    if (at := (record.topic, record.partition)) in self._reading
                    and at not in self._seeks
                ]
            if self._doubt and not records:
                self._settle_doubt()
            now = time.monotonic()
            if (
                self._ready
                or self._failures
                or self._consumer is None
                or now >= deadline
                or (self._given and now >= self._ask_at)
            ):
                return

    def _join(self) -> Consumer:
        settings = {**_READING, **_PROTOCOLS[self._protocol], **self._config, **_READING_SAFELY}
        settings["group.protocol"] = self._protocol
        consumer = Consumer(_quiet(settings, self._heard))
        consumer.subscribe(
            self._topics, on_assign=self._given_by, on_revoke=self._taken_by, on_lost=self._taken_by
        )
        self._consumer = consumer
        return consumer

    def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return

        def close() -> None:
            with suppress(KafkaException, RuntimeError):
                consumer.close()

        # It may be a broker that is away that we are to say goodbye to.
        closing = threading.Thread(target=close, name="kafka-leave", daemon=True)
        closing.start()
        closing.join(_LEAVE_WITHIN)
        self._given.clear()
        self._reading.clear()
        with self._lock:
            self._ready.clear()
            self._seeks.clear()
            self._commits.clear()

    def _given_by(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._given |= {(each.topic, each.partition) for each in partitions}
        self._ask_at = 0.0
        consumer.incremental_assign([])  # an answer is expected, or the client takes them all

    def _taken_by(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        taken = {(each.topic, each.partition) for each in partitions}
        consumer.incremental_unassign(_at(taken & self._reading))
        self._given -= taken
        self._reading -= taken
        with self._lock:
            self._drop(taken)

    def _drop(self, partitions: set[Partition]) -> None:
        self._ready = [one for one in self._ready if (one.topic, one.partition) not in partitions]

    def _place(self, starts: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets on, wherever each was read before."""
        if self._consumer is None:
            return
        moved = self._reading & starts.keys()
        if moved:
            self._consumer.incremental_unassign(_at(moved))
            self._reading -= moved
        self._given |= moved
        placed = self._given & starts.keys()
        self._consumer.incremental_assign([TopicPartition(*at, starts[at]) for at in placed])
        self._given -= placed
        self._reading |= placed

    def _apply_seeks(self) -> None:
        with self._lock:
            seeks, self._seeks = self._seeks, {}
        if held := {at: offset for at, offset in seeks.items() if at in self._reading}:
            self._place(held)

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

    def _sort_out(self, messages: Iterable[KafkaMessage]) -> list[Record]:
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(_record(message))
            else:
                self._failed(message, error)
        if records:
            self._doubt = None
            self._reach.back()
        return records

    def _failed(self, message: KafkaMessage, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET:
            at = (str(message.topic()), int(message.partition() or 0))
            if at in self._reading and self._consumer:
                self._consumer.incremental_unassign(_at({at}))
                self._reading.discard(at)
                self._given.add(at)
                self._ask_at = time.monotonic() + _ASK_AGAIN_AFTER
            self._failures.append(OffsetNotInLog(*at, int(message.offset() or 0)))
        elif code == KafkaError._FATAL:
            never_given = not (self._given or self._reading)
            self._leave()
            if never_given and self._protocol == "consumer":
                _LOG.info("Kafka has no new consumer groups; using classic ones: %s", error.str())
                self._protocol = "classic"
            else:
                self._failures.append(LogUnavailable(f"Kafka put this reader out: {error.str()}"))
        elif code in _REFUSALS:
            self._failures.append(LogUnavailable(f"Kafka refuses: {error.str()}"))
        elif error.str() not in self._said:
            # A topic that is not there yet, for one: the client goes on by itself.
            self._said.add(error.str())
            _LOG.warning("Kafka: %s", error.str())

    def _heard(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._doubt = self._doubt or error.str()
        elif self._doubt:
            self._doubt = error.str()

    def _settle_doubt(self) -> None:
        """ "All brokers are down" also means that idle connections were closed: ask one."""
        if self._consumer is None:
            return
        try:
            self._consumer.list_topics(self._topics[0], timeout=0.5)
        except KafkaException:
            self._reach.away(str(self._doubt))
            self._failures.append(LogUnavailable(f"Kafka can't be reached: {self._doubt}"))
        else:
            self._doubt = None
            self._reach.back()


class _Appender:
    """The producer, and its end at the first sign of trouble. Used by one thread at a time."""

    def __init__(self, config: Settings, reach: "_Reach") -> None:
        self._config = {**_APPENDING, **config, **_APPENDING_SAFELY}
        self._reach = reach
        self._producer: Producer | None = None
        self._failure: KafkaError | None = None
        self._heard_last = ""

    def append(self, topic: str, messages: Sequence[Message], stop: threading.Event) -> None:
        """Return once all are confirmed; raise with none of them left to be sent any more."""
        if self._producer is None:
            self._failure = None
            self._heard_last = ""
            self._producer = Producer(
                _quiet({**self._config, "on_delivery": self._failed}, self._heard)
            )
        try:
            self._deliver(self._producer, topic, messages, stop)
        except KafkaException as error:
            self.end()
            raise _unavailable(f"take a message for {topic}", error) from error
        except BaseException:
            self.end()
            raise

    def _deliver(
        self, producer: Producer, topic: str, messages: Sequence[Message], stop: threading.Event
    ) -> None:
        produce = producer.produce
        queued = confirmed = 0
        last_progress = time.monotonic()

        def check(waiting: int) -> None:
            nonlocal confirmed, last_progress
            if self._failure:
                raise LogUnavailable(f"Kafka did not confirm a message: {self._failure.str()}")
            if stop.is_set():
                raise LogUnavailable("stopped before Kafka confirmed everything")
            now = time.monotonic()
            if queued - waiting > confirmed:
                confirmed, last_progress = queued - waiting, now
                self._reach.back()
            elif now - last_progress > GIVE_UP_AFTER:
                raise LogUnavailable(
                    f"Kafka confirmed nothing for {GIVE_UP_AFTER:.0f} s: {self._heard_last}"
                )
            elif now - last_progress > SAY_AWAY_AFTER:
                self._reach.away(self._heard_last)

        for message in messages:
            headers = message.headers
            if not isinstance(headers, dict):
                headers = dict(headers)
            while True:
                try:
                    produce(topic, message.value, message.key, headers=headers)
                except BufferError:
                    producer.poll(_SLICE)
                    check(len(producer))
                else:
                    break
            queued += 1
        while waiting := producer.flush(_SLICE):
            check(waiting)
        check(0)

    def end(self) -> None:
        """Throw the producer away, with all that it still holds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(1.0)

    def _failed(self, error: KafkaError | None, _message: KafkaMessage) -> None:
        self._failure = self._failure or error

    def _heard(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = self._failure or error
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._heard_last = error.str()


class _Reader:
    """A consumer outside any group. It goes on where it stopped, if that is what is asked for."""

    def __init__(self, config: Settings, reach: "_Reach") -> None:
        settings = {**_READING, **config, **_READING_SAFELY}
        settings |= {"group.id": "eventspine-reader", "enable.partition.eof": True}
        settings["group.protocol"] = "classic"
        self._consumer = Consumer(_quiet(settings, lambda _: None))
        self._reach = reach
        self.next: tuple[str, int, int] | None = None

    def end_offsets(self, topic: str) -> dict[int, int]:
        try:
            found = self._consumer.list_topics(topic, timeout=ANSWER_WITHIN).topics[topic]
            if found.error is not None:
                return {}
            return {
                partition: self._bounds(topic, partition)[1]
                for partition in sorted(found.partitions)
            }
        except KafkaException as error:
            raise _unavailable(f"tell the end of {topic}", error) from error

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        try:
            first, end = self._bounds(topic, partition)
            if offset >= end or limit <= 0:
                return []
            if offset < first:
                raise OffsetNotInLog(topic, partition, offset)
            if self.next != (topic, partition, offset):
                self._consumer.assign([TopicPartition(topic, partition, offset)])
            records = self._read(topic, partition, limit)
        except KafkaException as error:
            if _code(error) in _NO_SUCH_TOPIC:
                return []
            raise _unavailable(f"read {topic}/{partition}", error) from error
        self.next = (topic, partition, records[-1].offset + 1) if records else None
        return records

    def _read(self, topic: str, partition: int, limit: int) -> list[Record]:
        records: list[Record] = []
        deadline = time.monotonic() + ANSWER_WITHIN
        while len(records) < limit:
            messages = self._consumer.consume(1, _SLICE)
            if messages and (room := limit - len(records) - 1):
                messages += self._consumer.consume(room, 0)
            for message in messages:
                error = message.error()
                if error is None:
                    records.append(_record(message))
                    deadline = time.monotonic() + ANSWER_WITHIN
                elif error.code() == KafkaError._PARTITION_EOF:
                    return records
                else:
                    raise KafkaException(error)
            if time.monotonic() > deadline:
                raise LogUnavailable(
                    f"Kafka sent nothing of {topic}/{partition} for {ANSWER_WITHIN:.0f} s"
                )
        return records

    def _bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset there is, and the next one that will be."""
        bounds = self._consumer.get_watermark_offsets(
            TopicPartition(topic, partition), timeout=ANSWER_WITHIN
        )
        self._reach.back()
        return bounds

    def close(self) -> None:
        self._consumer.close()


class _Reach:
    """Says once that Kafka is away, and once that it is back: for all clients of one `KafkaLog`."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._away = False
        self._lock = threading.Lock()

    def away(self, why: str) -> None:
        with self._lock:
            if not self._away:
                self._away = True
                _LOG.warning("Kafka at %s is away; waiting for it: %s", self._servers, why)

    def back(self) -> None:
        if self._away:
            with self._lock:
                self._away = False
                _LOG.warning("Kafka at %s is back", self._servers)


class _ClientLines:
    """What librdkafka logs, as debug lines: it says the same thing many times a second, from each
    of its threads. What matters comes through its error callback as well."""

    def log(self, _level: int, text: str, *args: object) -> None:
        _LOG.debug(text, *args)


async def _in_thread(work: Callable[[threading.Event], _Result]) -> _Result:
    """Run `work` in a thread. When cancelled, have it stop, and wait until it has."""
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)
        raise


_REFUSALS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)
_NO_SUCH_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)


def _quiet(settings: Mapping[str, Any], heard: Callable[[KafkaError], None]) -> Settings:
    return {**settings, "logger": _ClientLines(), "error_cb": heard}


def _at(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(*at) for at in partitions]


def _code(error: KafkaException) -> int:
    return int(error.args[0].code())


def _unavailable(what: str, error: KafkaException) -> LogUnavailable:
    return LogUnavailable(f"Kafka could not {what}: {error.args[0].str()}")


def _record(message: KafkaMessage) -> Record:
    key = message.key()
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        None if key is None else key.decode(errors="backslashreplace"),
        message.value(),
        _headers(message),
    )


def _headers(message: KafkaMessage) -> dict[str, str]:
    """Of a header that comes twice, the last; anybody may have written them, so any bytes."""
    headers = message.headers()
    if not headers:
        return {}
    return {
        name: (value or b"").decode(errors="backslashreplace")
        for name, value in headers  # type: ignore[misc,union-attr]
    }


def _mismatches(
    admin: AdminClient, topic: str, partitions: int | None, replication_factor: int
) -> list[str]:
    """What is wrong with a topic that is there, each in a few words; waits until all can see it."""
    deadline = time.monotonic() + ANSWER_WITHIN
    while True:
        found = admin.list_topics(topic, timeout=ANSWER_WITHIN).topics[topic]
        if found.error is None and all(each.leader >= 0 for each in found.partitions.values()):
            break
        if time.monotonic() > deadline:
            raise KafkaException(found.error or KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        time.sleep(_SLICE)
    resource = ConfigResource(ResourceType.TOPIC, topic)
    described = admin.describe_configs([resource], request_timeout=ANSWER_WITHIN)[resource].result()
    settings = {name: entry.value for name, entry in described.items()}
    replicas = min(len(each.replicas) for each in found.partitions.values())

    wrong = []
    if partitions is not None and len(found.partitions) != partitions:
        wrong.append(f"it has {len(found.partitions)} partitions, not {partitions}")
    if replicas < replication_factor:
        wrong.append(f"its replication factor is {replicas}, less than {replication_factor}")
    wanted = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "unclean.leader.election.enable": "false",
    }
    wrong += [
        f"its {name} is {settings[name]}, not {value}"
        for name, value in wanted.items()
        if settings[name] != value
    ]
    if replicas >= 3 and int(settings["min.insync.replicas"]) < 2:
        wrong.append(f"its min.insync.replicas is {settings['min.insync.replicas']}, less than 2")
    return wrong
