"""Copies a topic's events from one log into another, for events that the outbox no longer has.

Events are copied in the order of their positions, whatever their partitions, because readers of the target drop
an event that is not above the last position of its partition. Each is copied once, with its key, value and
headers unchanged. Repeats, foreign records, and positions that the database has not given out are skipped. A
copy that was stopped continues where it was.
"""

import heapq
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from eventspine.address import Address
from eventspine.database import connect, execute, translated
from eventspine.errors import SpineError
from eventspine.event import NotAnEvent, envelope
from eventspine.log import EventLog, Message, Record
from eventspine.partitions import partition_of
from eventspine.positions import Seen
from eventspine.relay import LEAD
from eventspine.turning import begins, holds

Progress = Callable[[str, int, int], None]
"""Called with the number of positions that are done, and the number of all."""

_PAGE = 2000  # records read from a partition at a time
_AT_ONCE = 2000  # events appended at a time
_BYTES_AT_ONCE = 16 * 1024 * 1024  # the size of their values


class CannotCopy(SpineError):
    """Not everything was copied. The message says why."""


class Copied(NamedTuple):
    """The result of copying one topic."""

    copied: int
    already_there: int
    upto: int
    """The highest position in the source log."""
    missing: list[tuple[int, int]]
    """Ranges of positions that neither log holds."""


class Office:
    """The leadership of a service's relay. While it is held here, no relay feeds a log."""

    def __init__(self, still_held: Callable[[], Awaitable[None]], head: int) -> None:
        self.still_held = still_held
        """Raises `Unavailable` if the leadership may be lost."""
        self.head = head
        """The last position given out."""


@asynccontextmanager
async def no_relay(address: Address) -> AsyncIterator[Office]:
    """Hold the relay's leadership inside the block. Raises `CannotCopy` if a relay leads."""
    connection = await connect(address)
    try:
        with translated():
            [(mine,)] = await (await execute(connection, LEAD)).fetchall()
            if not mine:
                raise CannotCopy(
                    "its worker is running, and feeds a log: stop all its workers first"
                )
            [(head,)] = await (
                await execute(connection, "SELECT position FROM outbox_head")
            ).fetchall()

        async def still_held() -> None:
            with translated():
                await execute(connection, "SELECT 1")

        yield Office(still_held, head)
    finally:
        await connection.close()


async def copy_topic(
    of: EventLog, to: EventLog, topic: str, source: str, office: Office, progress: Progress
) -> Copied:
    """Copy a topic. Raises `CannotCopy`, and the logs' own errors.

    After an error, or if it was stopped, the same call continues the copy.
    """
    identity, other = await to.identity(topic), await of.identity(topic)
    if identity.id == other.id:
        raise CannotCopy(f"both name the same log ({identity.id})")
    seen, tops = Seen(office.head), dict[int, int]()
    async for position, record in in_order(to, topic, source, office.head):
        _tell(progress, f"reading {topic}", position, office.head)
        seen.add(position)
        tops[record.partition] = max(position, tops.get(record.partition, 0))
    there, copied, upto = seen.different, 0, 0
    share: list[Message] = []
    size = 0

    async def append() -> None:
        nonlocal copied, size
        await office.still_held()
        await to.append(topic, share)
        copied += len(share)
        share.clear()
        size = 0
        progress(f"copying {topic}", upto, office.head)

    async for position, record in in_order(of, topic, source, office.head):
        upto = position
        if seen.holds(position):
            continue
        key, value = record.key or "", record.value
        partition = partition_of(key, identity.partitions, identity.rule)
        if position < tops.get(partition, 0):
            raise CannotCopy(
                f"topic {topic} of the target log holds position {tops[partition]} but lacks position"
                f" {position}; a copy of it would come later, and readers would drop it as a repeat:"
                " copy into a log that is empty, or that lacks only events at its end"
            )
        seen.add(position)
        tops[partition] = position
        share.append(Message(key, value, record.headers))
        size += len(value or b"")
        if len(share) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
            await append()
    if share:
        await append()
    await _compare(of, to, topic, source, office.head, progress)
    return Copied(copied, there, upto, seen.missing(upto))


async def note(address: Address, to: EventLog, topic: str, source: str, upto: int) -> None:
    """Store in the service's database that this log holds everything up to this position."""
    connection = await connect(address)
    try:
        with translated():
            await holds(connection, source, (await to.identity(topic)).id, upto)
    finally:
        await connection.close()


async def lacking(
    address: Address, log: EventLog, topic: str, source: str, head: int, progress: Progress
) -> tuple[int, list[tuple[int, int]]]:
    """The last position that the outbox no longer has, and the positions up to it that this log lacks."""
    connection = await connect(address)
    try:
        with translated():
            _, first = await begins(connection, source, (await log.identity(topic)).id)
    finally:
        await connection.close()
    seen = Seen(head)
    async for position, _ in in_order(log, topic, source, head):
        seen.add(position)
        _tell(progress, f"reading {topic}", position, head)
    return first - 1, seen.missing(first - 1)


async def in_order(
    log: EventLog, topic: str, source: str, head: int
) -> AsyncIterator[tuple[int, Record]]:
    """The events that readers of the log apply, in the order of positions over all partitions, up to `head`."""
    waiting: list[tuple[int, int, Record]] = []
    partitions = {
        partition: _rising(log, topic, partition, end, source, head)
        for partition, end in (await log.end_offsets(topic)).items()
    }

    async def take(partition: int) -> None:
        if (found := await anext(partitions[partition], None)) is not None:
            heapq.heappush(waiting, (found[0], partition, found[1]))

    for partition in partitions:
        await take(partition)
    last = 0
    while waiting:
        position, partition, record = heapq.heappop(waiting)
        await take(partition)
        if position > last:
            last = position
            yield position, record


async def _rising(
    log: EventLog, topic: str, partition: int, end: int, source: str, head: int
) -> AsyncIterator[tuple[int, Record]]:
    offset = last = 0
    while offset < end:
        records = await log.read(topic, partition, offset, _PAGE)
        if not records:
            return
        for record in records:
            try:
                found = envelope(record)
            except NotAnEvent:
                continue
            if found.source == source and last < found.position <= head:
                last = found.position
                yield last, record
        offset = records[-1].offset + 1


def _tell(progress: Progress, what: str, position: int, head: int) -> None:
    if position % _PAGE == 0 or position == head:
        progress(what, position, head)


async def _compare(
    of: EventLog, to: EventLog, topic: str, source: str, head: int, progress: Progress
) -> None:
    """Raises `CannotCopy` unless both logs hold the same events, byte for byte and in the same order."""
    others = in_order(to, topic, source, head)
    other = await anext(others, None)
    async for position, record in in_order(of, topic, source, head):
        _tell(progress, f"comparing {topic}", position, head)
        while other is not None and other[0] < position:
            other = await anext(others, None)
        if other is None or other[0] != position or _said(other[1]) != _said(record):
            raise CannotCopy(
                f"position {position} of topic {topic} differs between the logs: another writer writes to"
                " one of them; stop it, and copy into a log that is empty"
            )


def _said(record: Record) -> tuple[str | None, bytes | None, dict[str, str]]:
    return record.key, record.value, dict(record.headers)
