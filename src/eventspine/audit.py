"""The audit: whether the log has every event, and whether the tables agree with the log.

It reads a live system and stops nothing. Each database is audited in one snapshot (REPEATABLE READ): its tables,
its outbox and its checkpoints are read as of one moment, and compared with the log up to the positions of that
moment.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any

from eventspine.address import Address
from eventspine.audit_sections import (
    Audited,
    Section,
    invariant_section,
    nothing_published,
    parked_section,
    source_section,
    table_section,
    versions_section,
)
from eventspine.audited_events import (
    COPY_EVENTS,
    CREATE_EVENTS,
    Published,
    add_unrelayed,
    applied_row,
    event_row,
)
from eventspine.audited_log import Reading, feeding, not_there_yet, reading
from eventspine.database import Connection, connect, execute, translated
from eventspine.event import Envelope, NotAnEvent, envelope
from eventspine.handlers import Handlers
from eventspine.log import EventLog, LogUnavailable, Record
from eventspine.positions import Seen, Shown, dropped
from eventspine.session import WHOLE_TABLES

Progress = Callable[[str, int, int], None]
"""Called with what is being read, the number of records that are done, and the number of all."""

_PAGE = 5000  # records read from the log at a time

_HEAD = "SELECT position FROM outbox_head"

_PARKED = """
SELECT topic, partition, "offset", position, key, error FROM parked
WHERE consumer = %(consumer)s ORDER BY topic, "partition", "offset"
"""


async def audit(audited: Audited, log: EventLog, progress: Progress) -> list[Section]:
    """Audit one service against the log.

    Raises `Unavailable`, or the log's own errors, if something can't be read. Then there is no result.
    """
    async with _snapshot(audited.database_url) as connection:
        [(head,)] = await _all(connection, _HEAD, {})
        parked = {
            handlers.consumer: await _all(connection, _PARKED, {"consumer": handlers.consumer})
            for handlers in audited.consumers
        }
        sections = [parked_section(name, found) for name, found in parked.items()]
        await execute(connection, CREATE_EVENTS)
        incomplete: set[str] = set()
        if not audited.topic:
            sections += nothing_published(audited, head)
        else:
            fed = await feeding(connection, audited.source, (await log.identity(audited.topic)).id)
            own = await _read_own(connection, audited, log, head, fed.relayed, progress)
            # The head only rises. So an event above it in the log does not come from this database.
            head_now = await _head_now(audited.database_url)
            sections.append(source_section(audited, own, head_now, fed))
            incomplete |= {audited.topic} if fed.lacks else set()
        for handlers in audited.consumers:
            for topic in handlers.topics:
                section = Section(f"{handlers.consumer}: checkpoints on topic {topic}")
                identity = (await log.identity(topic)).id
                known = await reading(connection, handlers.consumer, topic, identity)
                if not await _read_others(
                    connection, log, topic, handlers, known,
                    {position for at, _, _, position, *_ in parked[handlers.consumer] if at == topic},
                    section, progress,
                ):  # fmt: skip
                    incomplete.add(topic)
                sections.append(section)
        sections += [
            await table_section(connection, audited, table, incomplete)
            for table in audited.projections
        ]
        sections += [
            await invariant_section(connection, audited, invariant)
            for invariant in audited.invariants
        ]
        if audited.topic:
            sections.append(await versions_section(connection, audited))
        return sections


@asynccontextmanager
async def _snapshot(address: Address) -> AsyncIterator[Connection]:
    connection = await connect(
        address,
        statement_within=inf,
        idle_in_transaction_session_timeout="0",
        work_mem="64MB",
        **WHOLE_TABLES,
    )
    try:
        with translated():
            await execute(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ")
            yield connection
            await execute(connection, "ROLLBACK")
    finally:
        await connection.close()


async def _read_own(
    connection: Connection,
    audited: Audited,
    log: EventLog,
    head: int,
    relayed: int,
    progress: Progress,
) -> Seen:
    """Read the service's own events: from the log, and from the outbox if they are not relayed yet."""
    seen = Seen(head)
    published: Published = {event.type: event for event in audited.events}
    highest: dict[int, int] = {}
    async with connection.cursor() as cursor:
        async with cursor.copy(COPY_EVENTS) as copy:
            async for record in _topic(log, audited.topic, progress):
                found = _envelope(record)
                if found is None or found.source != audited.source:
                    seen.foreign += 1
                    continue
                seen.add(found.position)
                # Like every reader: an event that is not above the last position is a repeat, whatever its data.
                if highest.get(record.partition, 0) < found.position <= head:
                    highest[record.partition] = found.position
                    await copy.write_row(event_row(record, found, published.get(found.type)))
    await add_unrelayed(connection, relayed, published)
    return seen


async def _read_others(
    connection: Connection,
    log: EventLog,
    topic: str,
    handlers: Handlers,
    known: Reading,
    parked: set[int],
    section: Section,
    progress: Progress,
) -> bool:
    """Read another service's events, up to this service's checkpoints and to what it applied from earlier logs.

    It also checks the checkpoints. Returns whether this log holds everything that was applied.
    """
    ends = await log.end_offsets(topic)
    shown = {partition: Shown() for partition in ends}
    applied = highest = 0
    checkpoints = {at: known.checkpoints.get(at, (0, 0)) for at in ends}
    async with connection.cursor() as cursor:
        async with cursor.copy(COPY_EVENTS) as copy:
            async for record in _topic(log, topic, progress):
                found = _envelope(record)
                if found is None or not handlers.knows_source(topic, found.source):
                    continue
                position = found.position
                highest = max(highest, position)
                seen, new = shown[record.partition], False
                before = known.earlier.covers(record.key, position)
                if record.offset < checkpoints[record.partition][0]:
                    new = seen.add(position, record.offset)
                    if before and seen.passed_over[-1:] == [position]:
                        seen.passed_over.pop()
                event_class = handlers.event_class(topic, found.type)
                if (
                    (new or before)
                    and position not in parked
                    and (row := applied_row(record, found, event_class))
                ):
                    applied += 1
                    await copy.write_row(row)
    not_there = not_there_yet(topic, known.earlier, highest)
    section.problems += [problem for problem in (known.problem, not_there) if problem]
    for partition, end in ends.items():
        next_offset, last_position = checkpoints[partition]
        if next_offset > end:
            section.problems.append(
                f"the checkpoint of {topic}/{partition} is at offset {next_offset} but the log ends at"
                f" {end}: the log has lost records; restore it, or feed it again from the outbox"
            )
        elif last_position != shown[partition].highest:
            section.problems.append(
                f"the checkpoint of {topic}/{partition} says that position {last_position} was applied"
                f" last, but before its offset {next_offset} the log's highest is"
                f" {shown[partition].highest}: records were removed, or the checkpoint was moved by hand"
            )
        if lost := dropped(partition, shown):
            section.problems.append(
                f"{len(lost)} record(s) of {topic}/{partition}, of positions from {min(lost)} to"
                f" {max(lost)}, were dropped as repeats, but are not repeats, so no table has their"
                f" data: position {shown[partition].highest}, at offset {shown[partition].offset},"
                " came before them, so another writer wrote it; see"
                " docs/operations.md, 'A forged position'"
            )
    behind = sum(end - checkpoints[at][0] for at, end in ends.items())
    section.facts |= {"partitions": len(ends), "records_applied": applied, "behind": max(0, behind)}
    return not_there is None


async def _topic(log: EventLog, topic: str, progress: Progress) -> AsyncIterator[Record]:
    ends = await log.end_offsets(topic)
    if not ends:
        raise LogUnavailable(f"there is no topic {topic}; `shop migrate` creates it")
    total, done = sum(ends.values()), 0
    for partition, end in ends.items():
        offset = 0
        while offset < end:
            records = await log.read(topic, partition, offset, _PAGE)
            if not records:
                break
            for record in records:
                yield record
            done += len(records)
            offset = records[-1].offset + 1
            progress(topic, done, max(total, done))


def _envelope(record: Record) -> Envelope | None:
    try:
        return envelope(record)
    except NotAnEvent:
        return None


async def _head_now(address: Address) -> int:
    connection = await connect(address)
    try:
        with translated():
            return int((await _all(connection, "SELECT position FROM outbox_head", {}))[0][0])
    finally:
        await connection.close()


async def _all(connection: Connection, sql: str, params: dict[str, Any]) -> Sequence[Any]:
    return await (await execute(connection, sql, params)).fetchall()
