"""Shared by all Kafka clients here: settings, records, errors and log lines."""

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

from eventspine.kafka_log.passwords import with_password
from eventspine.log import LogUnavailable, Raw, Record

_LINES = logging.getLogger("eventspine.kafka")
# Through `logging`, so that a command without logging configuration writes no log lines to its stdout.
LOG = structlog.wrap_logger(_LINES, wrapper_class=structlog.stdlib.BoundLogger)

ANSWER_WITHIN = 10.0
"""Seconds within which Kafka must answer a request, such as for offsets, settings or a new topic."""

SLICE = 0.05
"""Seconds that a thread waits inside librdkafka before it checks whether it must stop."""

AT_ONCE = 200
"""Messages taken from librdkafka in one call. Each holds its headers twice: as a list of tuples, and as the
dict that is built from it. With thousands of messages, CPU caches and garbage collection make that slower
(10 µs a message instead of 7)."""

LARGEST_MESSAGE = 4 * 1024 * 1024
"""Bytes. A request has at most 64 KiB, so the largest event is much smaller than this."""

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

# Chosen for throughput at a latency of milliseconds; the caller may override them. A waiting fetch delays a
# partition that was added to the same connection, so it waits only shortly. Sizes count compressed bytes: with
# librdkafka's defaults, one response of 12 MiB grew to 250 MB here.
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

# Needed for correctness, so the caller can't override them.
READING_SAFELY: Defaults = MappingProxyType(
    {
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "allow.auto.create.topics": False,
        # This project writes no Kafka transactions. An open transaction of another writer would hide
        # all later records.
        "isolation.level": "read_uncommitted",
    }
)

# The names of the client's own errors start with an underscore, but they are public.
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
"""For a moment a partition has no leader, or another leader than the client knows."""

_M_ARENA_MAX = -8


def share_one_heap() -> None:
    """Make all threads allocate from one heap (glibc), unless `MALLOC_ARENA_MAX` is set.

    One thread allocates the memory of a message, and a thread of librdkafka frees it. With one heap for
    each thread, a relay used a third more CPU, and some memory was never returned.
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, 1)


class OffsetNotInLog(LogUnavailable):
    """A reader asked for an offset that the partition does not have: before its start or after its end.

    Either a retention time, which should be -1, deleted records, or the log was lost and recreated. Reading
    from another offset would skip events, or apply new ones as old ones. So an operator must decide.
    """

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(
            f"{topic}/{partition} has no offset {offset}: records were deleted, or the log lost its end. "
            "Nothing of this partition is read until the log is restored or its reader rebuilt."
        )
        self.topic = topic
        self.partition = partition
        self.offset = offset


class Reach:
    """Logs once that Kafka is unavailable, and once that it is back, for all clients of a `KafkaLog`."""

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
    """Logs librdkafka's lines at debug level.

    Each of its threads repeats the same line many times a second. Important errors also reach the error
    callback.
    """

    def log(self, _level: int, text: str, *args: object) -> None:
        _LINES.debug(text, *args)


def quiet(settings: Settings, heard: Callable[[KafkaError], None]) -> Settings:
    """Settings for a client that writes nothing to stderr and passes its errors to `heard`."""
    settings, heard = with_password(settings, heard)
    return {**settings, "logger": _ClientLines(), "error_cb": heard}


# Details that change each time, such as how long a connection was in a state. They are removed, so that a
# waiting process recognises the same reason and logs it once.
_PASSING_DETAIL = re.compile(r" \(after \d+ms in state [^)]*(\([^)]*\)[^)]*)*\)")


# The same TLS error quotes OpenSSL sometimes in full and sometimes in part.
_NOT_VERIFIED = re.compile(
    r"(?:SSL handshake failed: )?(error:\w+:SSL routines::certificate verify failed).*", re.DOTALL
)


def plain(error: KafkaError) -> str:
    return _NOT_VERIFIED.sub(
        r"the broker's certificate can't be verified; check ssl.ca.location (\1)",
        _PASSING_DETAIL.sub("", error.str()),
    )


class Heard:
    """The last reason why a client can't reach Kafka: a password, a certificate, a refused connection.

    Pass it to `quiet`. The client reports its errors when it is polled.
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


def raw(message: KafkaMessage) -> Raw:
    try:
        headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    except (SystemError, UnicodeDecodeError):
        headers = []  # as in `_headers`
    return cast("int", message.offset()), message.key(), message.value(), headers


def _headers(message: KafkaMessage) -> dict[str, str]:
    """The headers as text. If a name occurs twice, the last one counts. Any writer may have written them, so
    a value may be null or any bytes.
    """
    try:
        headers = cast("list[tuple[str, bytes | None]] | None", message.headers())
    except (SystemError, UnicodeDecodeError):
        # The client (2.16) fails if a header's name is not UTF-8. Such a record must not stop the
        # partition. Without headers it is not an event, so it is parked.
        return {}
    try:
        return {name: value.decode() for name, value in headers or ()}  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError):
        # Not by one of ours.
        return {
            name: (value or b"").decode(errors="backslashreplace") for name, value in headers or ()
        }


async def in_thread(work: Callable[[threading.Event], _Result]) -> _Result:
    """Run `work` in a thread. If cancelled, tell it to stop, and wait until it has stopped."""
    stop = threading.Event()
    running = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        # Wait even if cancelled again, because the thread uses its objects until it ends.
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            # Read the exception, because asyncio would log that it was never retrieved. The thread failed
            # because it was told to stop.
            running.exception()
        raise
