"""The producer. It is discarded at the first error."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from types import MappingProxyType

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage

from eventspine.kafka_log.client import (
    ALL_BROKERS_DOWN,
    LARGEST_MESSAGE,
    SLICE,
    Defaults,
    Reach,
    Settings,
    plain,
    quiet,
    unavailable,
)
from eventspine.kafka_log.passwords import Renewal
from eventspine.log import (
    HEADER_FRAME,
    MESSAGE_FRAME,
    Encoded,
    EncodedMessages,
    LogUnavailable,
    Message,
)

GIVE_UP_AFTER = 30.0
"""Seconds without one confirmation after which `append` raises."""

SAY_AWAY_AFTER = 2.0
"""Seconds without one confirmation after which the wait for Kafka is logged."""

PREPARED_WITHIN = 3.0
"""Seconds that `prepare` waits for a new producer. A broker that has just started on a busy machine took one."""

# Chosen for throughput; the caller may override it. lz4 costs no throughput and saves disk space.
_TUNED: Defaults = MappingProxyType({"compression.type": "lz4"})

_AT_ONCE = 10_000  # the most unconfirmed messages
_BYTES_AT_ONCE = 3 * 1024 * 1024

RULE = "murmur2"
"""How keys are spread over partitions: like Kafka's Java clients, so that other producers choose the same
partition."""

# Needed for correctness, so the caller can't override them.
#
# A partition never has more than one request in flight. With a second one, the broker could reject the first
# and accept the second: it accepts any sequence number from a producer that it does not know (KAFKA-15591),
# and librdkafka closes the gap after a permanent error. Readers would then drop the first, when it is sent
# again, as a repeat. After a temporary error of the first, librdkafka takes the acceptance of the second as
# acceptance of both. So nothing is sent before `flush`, and all that is sent then fits into one request for
# any choice of partitions.
_SAFE: Defaults = MappingProxyType(
    {
        "linger.ms": 900_000,
        "batch.num.messages": _AT_ONCE,
        "batch.size": LARGEST_MESSAGE,
        "message.max.bytes": LARGEST_MESSAGE,
        "queue.buffering.max.messages": 50_000,
        "queue.buffering.max.kbytes": 64 * 1024,
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": f"{RULE}_random",
        # Without a limit. After `GIVE_UP_AFTER`, this module discards the producer with all messages.
        "message.timeout.ms": 0,
        # An empty queue means success, so only errors need a call into Python.
        "delivery.report.only.error": True,
        # The only sign that the producer has its id. That is 0.6 ms of CPU a second.
        "statistics.interval.ms": 250,
    }
)


class Appender:
    """One producer at a time, used by one thread at a time."""

    def __init__(self, config: Settings, reach: Reach) -> None:
        own = {"on_delivery": self._failed, "stats_cb": self._state}
        self._settings = {**_TUNED, **config, **_SAFE, **own}
        self._reach = reach
        self._renewal = Renewal(self._settings)
        self._producer: Producer | None = None
        self._failure: KafkaError | None = None
        self._has_id = False
        self._heard_last = "no answer"

    def prepare(self, stop: threading.Event) -> None:
        """Start a producer, and wait up to `PREPARED_WITHIN` seconds until it can send.

        It sends nothing before the broker has given it an id, for which it first asks after half a second. So
        without this, the first event would wait for a second or more.

        The errors of an idle producer are kept until it is polled, so this polls it too.
        """
        producer = self._producer
        if producer is None:
            producer = self._begin()
            give_up_at = time.monotonic() + PREPARED_WITHIN
            while not (self._has_id or stop.is_set() or time.monotonic() > give_up_at):
                producer.poll(SLICE)
                self._renewal.due(producer)
        producer.poll(0)
        self._renewal.due(producer)

    def append(self, topic: str, messages: Sequence[Message], stop: threading.Event) -> None:
        """Append the messages. Returns when all are confirmed. If it raises, none of them is sent later.

        At that moment one request for each partition may be in flight, and the broker may still write it. All
        earlier messages are already in the log, so this can cause a repeat but no gap.
        """
        if not messages:
            return
        producer = self._producer or self._begin()
        try:
            room, count, produce = _BYTES_AT_ONCE, 0, producer.produce
            for key, value, headers, size in _encoded(messages):
                if count and (size > room or count == _AT_ONCE):
                    self._send(producer, count, stop)
                    room, count = _BYTES_AT_ONCE, 0
                produce(topic, value, key, headers=headers)  # type: ignore[arg-type] # its stubs want more
                room -= size
                count += 1
            self._send(producer, count, stop)
        except KafkaException as error:
            self.end()
            raise unavailable(f"accept a message for {topic}", error) from error
        except BaseException:
            self.end()
            raise

    def _send(self, producer: Producer, count: int, stop: threading.Event) -> None:
        """Send all queued messages, and wait until they are confirmed."""
        progress = _Progress(self._reach, count)
        while waiting := producer.flush(SLICE):
            self._renewal.due(producer)
            self._check(progress, waiting, stop)
        self._check(progress, 0, stop)

    def end(self) -> None:
        """Discard the producer, with all messages that it still holds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(1.0)

    def _begin(self) -> Producer:
        self._failure = None
        self._has_id = False
        self._producer = Producer(quiet(self._settings, self._heard))
        return self._producer

    def _check(self, progress: "_Progress", waiting: int, stop: threading.Event) -> None:
        if self._failure:
            raise LogUnavailable(f"Kafka did not accept a message: {self._failure.str()}")
        if waiting and stop.is_set():
            raise LogUnavailable("stopped before Kafka had confirmed everything")
        progress.seen(waiting, self._heard_last)

    def _state(self, statistics: str) -> None:
        if not self._has_id:
            self._has_id = json.loads(statistics)["eos"]["idemp_state"] == "Assigned"

    def _failed(self, error: KafkaError | None, _message: KafkaMessage) -> None:
        self._failure = self._failure or error

    def _heard(self, error: KafkaError) -> None:
        self._renewal.heard(error)
        if error.fatal():
            self._failure = self._failure or error
        elif error.code() != ALL_BROKERS_DOWN:
            self._heard_last = plain(error)


class _Progress:
    """The progress of a batch, and how long there has been none."""

    def __init__(self, reach: Reach, queued: int) -> None:
        self._reach = reach
        self._queued = queued
        self._confirmed = 0
        self._since = time.monotonic()

    def seen(self, waiting: int, heard: str) -> None:
        """Note how many messages are unconfirmed. Raises `LogUnavailable` if that does not change for too long."""
        now = time.monotonic()
        if waiting == 0 or self._queued - waiting > self._confirmed:
            self._confirmed = self._queued - waiting
            self._since = now
            self._reach.back()
        elif now - self._since > GIVE_UP_AFTER:
            raise LogUnavailable(f"Kafka confirmed nothing for {GIVE_UP_AFTER:g} s: {heard}")
        elif now - self._since > SAY_AWAY_AFTER:
            self._reach.away(heard)


def _encoded(messages: Sequence[Message]) -> Iterator[Encoded]:
    return messages.encoded() if isinstance(messages, EncodedMessages) else map(encoded, messages)


def encoded(message: Message) -> Encoded:
    key, value, named = message
    key_bytes = key.encode()
    headers = [
        (name, text if isinstance(text, bytes) else text.encode()) for name, text in named.items()
    ]
    size = MESSAGE_FRAME + len(key_bytes) + len(value or b"")
    size += sum(HEADER_FRAME + len(name.encode()) + len(text) for name, text in headers)
    return key_bytes, value, headers, size
