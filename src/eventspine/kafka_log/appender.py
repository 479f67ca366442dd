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

# For throughput; the caller may know better. `flush` sends without lingering, so a batch of one
# does not wait; and while a long one is being queued, its messages gather for big requests: each
# costs the broker as much as hundreds of messages do. lz4 costs no throughput, and saves disk.
_TUNED: Defaults = MappingProxyType(
    {
        "linger.ms": 100,
        "batch.num.messages": 500,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 50_000,
        "queue.buffering.max.kbytes": 64 * 1024,
        "message.max.bytes": LARGEST_MESSAGE,
    }
)

# For safety; not for the caller to change.
_SAFE: Defaults = MappingProxyType(
    {
        "enable.idempotence": True,
        "acks": "all",
        # Java's: any other producer of the same topic puts a key into the same partition.
        "partitioner": "murmur2_random",
        # What the broker refuses must not be overtaken: readers would drop it, when it is sent
        # again, as a repeat. The one covers what it refuses, the other a local time-out.
        "enable.gapless.guarantee": True,
        "message.timeout.ms": 0,
        # A broker takes any number as the first of a producer it does not know (KAFKA-15591), so
        # a second request would be taken though the first was refused, and the client believes then
        # that the first had been. Costs nothing: a broker works at one of a connection at a time.
        "max.in.flight.requests.per.connection": 1,
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

    def append(self, topic: str, messages: Sequence[Message], stop: threading.Event) -> None:
        """Return once all are confirmed, or raise with none of them left that could still be sent.

        What is on the wire at that moment, one request, may still be written. All that was sent
        before it is there, so it can only repeat, never leave out.
        """
        producer = self._producer or self._begin()
        if not messages:
            # What it has to tell is kept until it is asked.
            producer.poll(0)
            return
        try:
            progress = _Progress(self._reach)
            for message in messages:
                # The client takes any mapping's items, but only from a dict.
                headers = cast("dict[str, Any]", message.headers)
                while True:
                    try:
                        producer.produce(topic, message.value, message.key, headers=headers)
                        break
                    except BufferError:
                        producer.poll(SLICE)
                        self._check(progress, len(producer), stop)
                progress.queued += 1
            while waiting := producer.flush(SLICE):
                self._check(progress, waiting, stop)
            self._check(progress, 0, stop)
        except KafkaException as error:
            self.end()
            raise unavailable(f"take a message for {topic}", error) from error
        except BaseException:
            self.end()
            raise

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

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._confirmed = 0
        self._since = time.monotonic()
        self.queued = 0

    def seen(self, waiting: int, heard: str) -> None:
        """Raises `LogUnavailable` when nothing has been confirmed for too long."""
        now = time.monotonic()
        if waiting == 0 or self.queued - waiting > self._confirmed:
            self._confirmed = self.queued - waiting
            self._since = now
            self._reach.back()
        elif now - self._since > GIVE_UP_AFTER:
            raise LogUnavailable(f"Kafka confirmed nothing for {GIVE_UP_AFTER:g} s: {heard}")
        elif now - self._since > SAY_AWAY_AFTER:
            self._reach.away(heard)
