"""What every Kafka client here shares: settings, records, errors, and what is said about Kafka."""

import asyncio
import ctypes
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeVar, cast

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as KafkaMessage

from eventspine.log import LogUnavailable, Record

_LINES = logging.getLogger("eventspine.kafka")
# Through `logging`: a command that configures no logs keeps its stdout for its output.
LOG = structlog.wrap_logger(_LINES, wrapper_class=structlog.stdlib.BoundLogger)

ANSWER_WITHIN = 10.0
"""Seconds that Kafka has to answer a question: for offsets, settings, a topic's birth."""

SLICE = 0.05
"""Seconds that a thread waits inside librdkafka before it looks up."""

AT_ONCE = 200
"""Messages taken from librdkafka in one call. Each keeps its headers as a list of tuples besides
what is made of them: of thousands, the processor's cache and the garbage collector take notice
(10 µs a message instead of 7)."""

LARGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes: many times what an event takes that is made of one request, of 64 KiB at most."""

Settings = dict[str, Any]
Defaults = Mapping[str, str | int | bool]
_Result = TypeVar("_Result")

SHARED: Defaults = MappingProxyType(
    {
        "client.id": "eventspine",
        "log.connection.close": False,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 2_000,
    }
)

# For throughput at a latency of milliseconds; the caller may know better. A fetch that waits for
# records holds up a partition that was added to the same connection, so it waits only shortly. The
# sizes are of compressed bytes: with librdkafka's own, one answer of 12 MiB grew to 250 MB here.
READING: Defaults = MappingProxyType(
    {
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 10,
        "fetch.message.max.bytes": 128 * 1024,
        "fetch.max.bytes": 1024 * 1024,
        "queued.min.messages": 20_000,
        "queued.max.messages.kbytes": 8 * 1024,
    }
)

# For safety; not for the caller to change.
READING_SAFELY: Defaults = MappingProxyType(
    {
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        # We write no transactions. A foreign one, left open, would hide all that comes after it.
        "isolation.level": "read_uncommitted",
    }
)

# The client's own errors, as opposed to the broker's, have names that look private and are not.
ALL_BROKERS_DOWN = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001
AUTHENTICATION_FAILED = KafkaError._AUTHENTICATION  # noqa: SLF001
FATAL = KafkaError._FATAL  # noqa: SLF001
OFFSET_NOT_THERE = KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001
PARTITION_END = KafkaError._PARTITION_EOF  # noqa: SLF001
NO_RIGHT_TO_GROUP = KafkaError.GROUP_AUTHORIZATION_FAILED
NO_SUCH_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
LEADER_CHANGES = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"""A partition has no leader for a moment, or another one than the client has heard of."""

_M_ARENA_MAX = -8


def share_one_heap() -> None:
    """Have all threads allocate from one heap, under glibc, unless `MALLOC_ARENA_MAX` says more.

    What one thread puts into a message, librdkafka's frees in another. With a heap for each thread
    that took a third more of a relay's CPU, and memory that was never given back.
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, 1)


class OffsetNotInLog(LogUnavailable):
    """A partition was to be read from an offset it has not got: before its first, or past its end.

    The log was cut by a retention that should be -1, or was lost and begun anew. Reading elsewhere
    would leave events out, or apply new ones as old, so an operator has to decide.
    """

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(
            f"{topic}/{partition} has no offset {offset}: the log was cut, or lost its end. "
            "Nothing of this partition is read until the log is restored or its reader rebuilt."
        )
        self.topic = topic
        self.partition = partition
        self.offset = offset


class Reach:
    """Says once that Kafka is away, and once that it is back: for all clients of a `KafkaLog`."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._away = False
        self._lock = threading.Lock()

    def away(self, why: str) -> None:
        with self._lock:
            if not self._away:
                self._away = True
                LOG.warning("kafka.waiting", servers=self._servers, reason=why)

    def back(self) -> None:
        if not self._away:
            return
        with self._lock:
            if self._away:
                self._away = False
                LOG.warning("kafka.recovered", servers=self._servers)


class _ClientLines:
    """What librdkafka logs, as debug lines.

    It says the same thing many times a second, from each of its threads; what matters is also
    told to the error callback.
    """

    def log(self, _level: int, text: str, *args: object) -> None:
        _LINES.debug(text, *args)


def quiet(settings: Settings, heard: Callable[[KafkaError], None]) -> Settings:
    """The same settings for a client that writes nothing to stderr, and tells `heard` its errors."""
    return {**settings, "logger": _ClientLines(), "error_cb": heard}


# How long a connection had been in what state, and how often the same was said: it is never the
# same twice, and a waiting process logs its reason once.
_PASSING_DETAIL = re.compile(r" \(after \d+ms in state [^)]*(\([^)]*\)[^)]*)*\)")


# Of one and the same refusal OpenSSL is quoted now in full and now in part.
_NOT_VERIFIED = re.compile(
    r"(?:SSL handshake failed: )?(error:\w+:SSL routines::certificate verify failed).*", re.DOTALL
)


def plain(error: KafkaError) -> str:
    return _NOT_VERIFIED.sub(
        r"the broker's certificate can't be verified, is ssl.ca.location right? (\1)",
        _PASSING_DETAIL.sub("", error.str()),
    )


class Heard:
    """Why a client can't reach Kafka, as it last told: a password, a certificate, a refusal.

    To be given to `quiet`. The client tells when it is polled.
    """

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, error: KafkaError) -> None:
        if error.code() != ALL_BROKERS_DOWN:
            self.last = plain(error)


def unavailable(what: str, error: KafkaException, heard: str = "") -> LogUnavailable:
    why = plain(error.args[0])
    return LogUnavailable(f"Kafka could not {what}: {f'{heard} ({why})' if heard else why}")


def code(error: KafkaException) -> int:
    return int(error.args[0].code())


def record(message: KafkaMessage) -> Record:
    key = message.key()
    return Record(
        cast("str", message.topic()),
        cast("int", message.partition()),
        cast("int", message.offset()),
        None if key is None else key.decode(errors="backslashreplace"),
        message.value(),
        _headers(message),
    )


def _headers(message: KafkaMessage) -> dict[str, str]:
    """Of a header that comes twice, the last. Any writer may have written them: null, and any bytes."""
    try:
        headers = cast("list[tuple[str, bytes | None]] | None", message.headers())
    except (SystemError, UnicodeDecodeError):
        # A name that is not UTF-8 (2.16). Its record must not stop the partition; and no event of
        # ours is without headers.
        return {}
    return {name: (value or b"").decode(errors="backslashreplace") for name, value in headers or ()}


async def in_thread(work: Callable[[threading.Event], _Result]) -> _Result:
    """Run `work` in a thread. When cancelled, have it stop, and wait until it has."""
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        # However often: what the thread has in its hands is not free before it ends.
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            # Asked for here, or asyncio would log that nobody did: being stopped is how it failed.
            running.exception()
        raise
