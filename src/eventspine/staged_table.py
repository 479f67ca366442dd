"""The temporary table of events that tables are computed from, and how a log gets into it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from eventspine.database import Connection
from eventspine.log import EventLog, LogUnavailable, Raw

_PAGE = (
    2000  # records read from the log at a time: more are slower, as they fill the processor's cache
)

Made = TypeVar("Made")

_AHEAD = 4  # partitions of which a page is being read

STAGED = "staged_events"
"""Columns as in `projections._EVENTS`, and in which turn each event came."""

# The time is read only where it is asked for. Any writer may have written it.
CREATE = """
CREATE TEMPORARY TABLE staged_events (
    topic text NOT NULL, position bigint NOT NULL, type text NOT NULL, key text,
    version bigint NOT NULL, event_time text, data jsonb NOT NULL, turn integer NOT NULL
)
"""

TIME = "CASE WHEN pg_input_is_valid(event_time, 'timestamptz') THEN event_time::timestamptz END"

INDEXED = (
    # Topics are copied one after the other. This index is made as quickly as the table is read once.
    "CREATE INDEX ON staged_events USING brin (topic)",
    # A sample of 9,000 rows says enough of them. The default, 30,000, reads most of the table.
    "ALTER TABLE staged_events "
    + ", ".join(
        f"ALTER {column} SET STATISTICS 30"
        for column in ("topic", "position", "type", "key", "version")
    ),
    # Without the data, which no plan goes by.
    "ANALYZE staged_events (topic, position, type, key, version)",
)
"""When the table has been filled for the first time."""

_COPY = (
    "COPY staged_events (topic, position, type, key, version, event_time, data, turn) FROM STDIN"
)


async def pages(
    log: EventLog,
    topic: str,
    starts: Mapping[int, int],
    ends: Mapping[int, int],
    make: Callable[[int, Sequence[Raw]], list[Made]],
) -> AsyncIterator[tuple[list[Made], int]]:
    """What `make` makes of the records of each partition, and how many those were, from one offset to another.

    Read ahead are the next page, and the first ones of the next partitions: on Kafka each partition begins with
    a wait. `make` may be called in threads, one for each partition. Raises `LogUnavailable` if the log ends earlier.
    """
    waiting = deque((at, starts[at], end) for at, end in sorted(ends.items()) if starts[at] < end)
    reading: deque[tuple[int, int, int, asyncio.Task[tuple[list[Made], int]]]] = deque()

    async def read(partition: int, offset: int, end: int) -> tuple[list[Made], int]:
        made: list[Made] = []

        def take(records: Sequence[Raw]) -> None:
            if records[-1][0] >= end:
                records = [record for record in records if record[0] < end]
            made.extend(make(partition, records))

        return made, await log.scan(topic, partition, offset, min(_PAGE, end - offset), take)

    try:
        while waiting or reading:
            while waiting and len(reading) < _AHEAD:
                partition, offset, end = waiting.popleft()
                page = asyncio.create_task(read(partition, offset, end))
                reading.append((partition, offset, end, page))
            partition, offset, end, page = reading[0]
            made, following = await page
            if following == offset:
                raise LogUnavailable(f"{topic}/{partition} ends at {offset}, and not at {end}")
            if following < end:
                page = asyncio.create_task(read(partition, following, end))
                reading[0] = (partition, following, end, page)
            else:
                reading.popleft()
            yield made, min(following, end) - offset
    finally:
        for *_, page in reading:
            page.cancel()


@asynccontextmanager
async def copying(connection: Connection) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """Gives a function that takes lines. PostgreSQL reads them while the caller makes the next ones."""
    async with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        writing: list[asyncio.Task[None]] = []

        async def put(lines: bytes) -> None:
            while writing:
                await writing.pop()
            if lines:
                writing.append(asyncio.create_task(copy.write(lines)))

        try:
            yield put
            await put(b"")
        finally:
            for task in writing:
                task.cancel()
                await asyncio.wait([task])
