"""The producer, and its end at the first sign of trouble."""

import threading
import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, cast

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
from eventspine.log import LogUnavailable, Message

GIVE_UP_AFTER = 30.0
"""Seconds without one confirmation after which `append` raises."""

SAY_AWAY_AFTER = 2.0
"""Seconds without one confirmation after which it is logged that Kafka is waited for."""

# For throughput; the caller may know better. lz4 costs no throughput, and saves disk.
_TUNED: Defaults = MappingProxyType({"compression.type": "lz4"})

_AT_ONCE = 10_000  # messages sent before all of them are confirmed
_BYTES_AT_ONCE = 3 * 1024 * 1024
_ABOUT_A_MESSAGE = 64  # bytes that it has besides its key, value and headers
_ABOUT_A_HEADER = 8

RULE = "murmur2"
"""By which keys are spread over partitions. Java's: any other producer puts a key where this one does."""

# For safety; not for the caller to change.
#
# A partition never has more than one request under way. Were there a second, and the first refused,
# the second might be taken all the same: a broker takes any sequence number as the first of a producer
# it does not know (KAFKA-15591), and for a request that is refused for good librdkafka closes the gap.
# Readers would then drop the first, sent again, as a repeat. And of a refusal that passes librdkafka
# believes, when the second is taken, that the first one was. So nothing is sent before `flush`, and
# what is sent then fits into one request, whatever partitions it is for.
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
        # Wait for ever: who gives up here, after `GIVE_UP_AFTER`, gives up everything.
        "message.timeout.ms": 0,
        # Success is the queue running empty; only errors are worth a call into Python.
        "delivery.report.only.error": True,
    }
)


class Appender:
    """One producer at a time, used by one thread at a time."""

    def __init__(self, config: Settings, reach: Reach) -> None:
        self._settings = {**_TUNED, **config, **_SAFE, "on_delivery": self._failed}
        self._reach = reach
        self._producer: Producer | None = None
        self._failure: KafkaError | None = None
        self._heard_last = "no answer"

    def prepare(self) -> None:
        """Begin a producer, which connects in threads of its own: half a second that no event waits.

        What it has to tell, also while it does nothing, is kept until it is asked.
        """
        producer = self._producer or self._begin()
        producer.poll(0)

    def append(self, topic: str, messages: Sequence[Message], stop: threading.Event) -> None:
        """Return once all are confirmed, or raise with none of them left that could still be sent.

        What is on the wire at that moment, a request for a partition at most, may still be written.
        All that was sent before it is there, so it can only repeat, never leave out.
        """
        if not messages:
            return
        producer = self._producer or self._begin()
        try:
            room, count = _BYTES_AT_ONCE, 0
            for message in messages:
                size = _size(message)
                if count and (size > room or count == _AT_ONCE):
                    self._send(producer, count, stop)
                    room, count = _BYTES_AT_ONCE, 0
                # The client takes any mapping's items, but only from a dict.
                headers = cast("dict[str, Any]", message.headers)
                producer.produce(topic, message.value, message.key, headers=headers)
                room -= size
                count += 1
            self._send(producer, count, stop)
        except KafkaException as error:
            self.end()
            raise unavailable(f"take a message for {topic}", error) from error
        except BaseException:
            self.end()
            raise

    def _send(self, producer: Producer, count: int, stop: threading.Event) -> None:
        """All that is queued, and wait until it is confirmed."""
        progress = _Progress(self._reach, count)
        while waiting := producer.flush(SLICE):
            self._check(progress, waiting, stop)
        self._check(progress, 0, stop)

    def end(self) -> None:
        """Throw the producer away, with all that it still holds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(1.0)

    def _begin(self) -> Producer:
        self._failure = None
        self._producer = Producer(quiet(self._settings, self._heard))
        return self._producer

    def _check(self, progress: "_Progress", waiting: int, stop: threading.Event) -> None:
        if self._failure:
            raise LogUnavailable(f"Kafka did not take a message: {self._failure.str()}")
        if waiting and stop.is_set():
            raise LogUnavailable("stopped before Kafka had confirmed everything")
        progress.seen(waiting, self._heard_last)

    def _failed(self, error: KafkaError | None, _message: KafkaMessage) -> None:
        self._failure = self._failure or error

    def _heard(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = self._failure or error
        elif error.code() != ALL_BROKERS_DOWN:
            self._heard_last = plain(error)


class _Progress:
    """How a batch is coming along, and for how long it has not been."""

    def __init__(self, reach: Reach, queued: int) -> None:
        self._reach = reach
        self._queued = queued
        self._confirmed = 0
        self._since = time.monotonic()

    def seen(self, waiting: int, heard: str) -> None:
        """Raises `LogUnavailable` when nothing has been confirmed for too long."""
        now = time.monotonic()
        if waiting == 0 or self._queued - waiting > self._confirmed:
            self._confirmed = self._queued - waiting
            self._since = now
            self._reach.back()
        elif now - self._since > GIVE_UP_AFTER:
            raise LogUnavailable(f"Kafka confirmed nothing for {GIVE_UP_AFTER:g} s: {heard}")
        elif now - self._since > SAY_AWAY_AFTER:
            self._reach.away(heard)


def _size(message: Message) -> int:
    """Bytes in a request, or a few more."""
    key, value, headers = message
    text = f"{key}{''.join(headers)}{''.join(headers.values())}"
    size = len(text) if text.isascii() else len(text.encode())
    return _ABOUT_A_MESSAGE + len(headers) * _ABOUT_A_HEADER + size + len(value or b"")
