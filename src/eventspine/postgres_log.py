"""The log as a table, in a PostgreSQL database of its own.

It is the embedded default: durable, readable with psql, and with nothing to install. A topic has one
partition unless it was created with more. A partition's offsets come from its row in `log_heads`. Records
are inserted under that row's lock, so offsets have no gaps and become visible in order.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from pydantic_core import from_json, to_json

from eventspine.address import Address
from eventspine.database import Connection, Database, connect, execute, translated
from eventspine.errors import Unavailable
from eventspine.frozen import LEASE, FrozenSessions
from eventspine.log import (
    LogUnavailable,
    Message,
    Record,
    StartAt,
    Take,
    TopicIdentity,
    TopicMismatch,
    raw_of,
)
from eventspine.partitions import partition_of

_APPEND = """
WITH head AS (
    UPDATE log_heads SET next_offset = next_offset + %(count)s
    WHERE topic = %(topic)s AND partition = %(partition)s
    RETURNING next_offset - %(count)s AS base
), appended AS (
    INSERT INTO log_records (topic, partition, "offset", key, value, headers)
    SELECT %(topic)s, %(partition)s, head.base + r.n - 1, r.k, r.v, r.h
    FROM head, ROWS FROM (
        json_to_recordset(%(records)s::json) AS (k text, v text, h json)
    ) WITH ORDINALITY AS r(k, v, h, n)
)
SELECT base, pg_notify('log', '') FROM head
"""

_READ = """
SELECT "offset", key, value, headers::text FROM log_records
WHERE topic = %(topic)s AND partition = %(partition)s AND "offset" >= %(offset)s
ORDER BY "offset" LIMIT %(limit)s
"""

_HEADS = "SELECT partition, next_offset FROM log_heads WHERE topic = %(topic)s ORDER BY partition"

# A restored database keeps the identity; a recreated topic gets another one.
_IDENTITY = """
SELECT topic_id, (SELECT count(*) FROM log_heads WHERE topic = %(topic)s)
FROM log_heads WHERE topic = %(topic)s ORDER BY partition LIMIT 1
"""

_RULE = "crc32"  # how keys are spread over partitions

_CREATE_HEADS = """
INSERT INTO log_heads (topic, partition, next_offset)
SELECT %(topic)s, n, 0 FROM generate_series(0, %(partitions)s - 1) AS n
WHERE NOT EXISTS (SELECT FROM log_heads WHERE topic = %(topic)s)
"""

_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(7407)"

# One lock number for each (group, topic, partition). The seed avoids collisions with other advisory locks.
_TRY_HOLD = "SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 7407))"

_LET_GO = _TRY_HOLD.replace("pg_try_advisory_lock", "pg_advisory_unlock")

_LOOK_FOR_PARTITIONS_EVERY = 1.0  # seconds, while another member holds them
_POLL_EVERY = 0.5  # seconds without a notification, because notifications may be lost


class PostgresLog:
    """`EventLog` on the tables of `log_tables.py`. Migrations or `create_tables` create them."""

    def __init__(self, address: Address) -> None:
        self._database = Database(address, size=4, timeout=5.0)
        self._opened = False
        self._known_partitions: dict[str, int] = {}

    async def create_tables(self) -> None:
        """Create the tables, for programs that use the log without migrations."""
        from eventspine.log_tables import create_tables  # noqa: PLC0415 - only this needs SQLAlchemy

        async with self._connection() as connection, connection.transaction():
            # The first process creates the schema; the others wait and find it.
            await connection.execute(_ONE_AT_A_TIME)
            await connection.execute(create_tables())

    async def create_topic(self, topic: str, partitions: int | None = None) -> None:
        async with self._connection() as connection, connection.transaction():
            # One at a time: two processes that create it at once could each insert some of the partitions.
            await connection.execute(_ONE_AT_A_TIME)
            await execute(
                connection, _CREATE_HEADS, {"topic": topic, "partitions": partitions or 1}
            )
        there = len(await self.end_offsets(topic))
        if partitions is not None and partitions != there:
            raise TopicMismatch(
                f"topic {topic} has {there} partition(s), not {partitions}; "
                "the number can't change after creation, because keys would change partition"
            )

    async def prepare(self, topic: str) -> None:
        """Does nothing, because opening a connection takes no longer than an append."""

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        if not messages:
            return
        partitions = await self._partitions(topic)
        split: dict[int, list[Message]] = {}
        for message in messages:
            split.setdefault(partition_of(message.key, partitions, _RULE), []).append(message)
        async with self._connection() as connection:
            for partition, share in split.items():
                if not await _append(connection, topic, partition, share):
                    del self._known_partitions[topic]
                    raise LogUnavailable(f"partition {topic}/{partition} does not exist any more")

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        async with self._connection() as connection:
            return await _read(connection, topic, partition, offset, limit)

    async def scan(self, topic: str, partition: int, offset: int, limit: int, take: Take) -> int:
        records = await self.read(topic, partition, offset, limit)
        take([raw_of(record) for record in records])
        return records[-1].offset + 1 if records else offset

    async def end_offsets(self, topic: str) -> dict[int, int]:
        async with self._connection() as connection:
            heads = await (await execute(connection, _HEADS, {"topic": topic})).fetchall()
        return {partition: next_offset for partition, next_offset in heads}  # noqa: C416 - says what is what

    async def identity(self, topic: str) -> TopicIdentity:
        async with self._connection() as connection:
            row = await (await execute(connection, _IDENTITY, {"topic": topic})).fetchone()
        if row is None:
            raise _no_topic(topic)
        return TopicIdentity(f"postgres {row[0]}", row[1], _RULE)

    def subscribe(
        self, group: str, topics: Sequence[str], start_at: StartAt
    ) -> "PostgresSubscription":
        return PostgresSubscription(self._database.address, group, topics, start_at)

    async def close(self) -> None:
        if self._opened:
            await self._database.close()

    async def _partitions(self, topic: str) -> int:
        # A topic's partitions never change, so they are read once.
        known = self._known_partitions.get(topic)
        if known is None:
            known = len(await self.end_offsets(topic))
            if not known:
                raise _no_topic(topic)
            self._known_partitions[topic] = known
        return known

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        if not self._opened:
            await self._database.open()
            self._opened = True
        try:
            async with self._database.connection() as connection:
                with translated():
                    yield connection
        except Unavailable as error:
            # After a restart of the server, all connections of the pool are stale. Discard them, so that
            # the next calls do not fail once for each.
            with suppress(Unavailable):
                await self._database.drop_stale()
            raise LogUnavailable(str(error)) from error


class PostgresSubscription:
    """A member of a group. It holds a partition by an advisory lock on its connection.

    If a member freezes, PostgreSQL ends its session after `idle_session_timeout`, and other members get
    its partitions. When it runs again, it finds its connection closed and starts anew.
    """

    def __init__(
        self, address: Address, group: str, topics: Sequence[str], start_at: StartAt
    ) -> None:
        self._address = address
        self._group = group
        self._topics = list(topics)
        self._start_at = start_at
        self._connection: Connection | None = None
        self._next: dict[tuple[str, int], int] = {}
        self._paused: dict[tuple[str, int], float] = {}
        """The held partitions that are paused, and until when."""
        self._looked_at = 0.0
        self._frozen = FrozenSessions()
        self._failed_at: dict[tuple[str, int], float] = {}
        """For each partition, the last time at which its start could not be determined."""

    async def poll(self, max_records: int, timeout: float) -> list[Record]:
        try:
            with translated():
                return await self._poll(max_records, timeout)
        except Unavailable as error:
            await self.close()
            raise LogUnavailable(str(error)) from error

    async def seek(self, topic: str, partition: int, offset: int) -> None:
        if (topic, partition) in self._next:
            self._next[topic, partition] = offset

    async def pause(self, topic: str, partition: int, seconds: float) -> None:
        if self._next.pop((topic, partition), None) is not None:
            until = asyncio.get_running_loop().time() + seconds
            self._paused[topic, partition] = until

    async def commit(self, topic: str, partition: int, offset: int) -> None:
        """Does nothing, because the checkpoints are in the consumer's database."""

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        self._next.clear()
        self._paused.clear()
        if connection is not None:
            await connection.close()

    async def _poll(self, max_records: int, timeout: float) -> list[Record]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            connection = await self._hold_partitions()
            await self._end_pauses()
            records: list[Record] = []
            for (topic, partition), offset in self._next.items():
                room = max_records - len(records)
                if room == 0:
                    break
                found = await _read(connection, topic, partition, offset, room)
                records += found
            for record in records:
                at = (record.topic, record.partition)
                # Move it to the end of the queue, so that a busy partition does not block the others.
                self._next.pop(at, None)
                self._next[at] = record.offset + 1
            left = deadline - loop.time()
            if records or left <= 0:
                return records
            # A record that arrived after the read has already sent its notification, so it is not missed.
            async for _ in connection.notifies(timeout=min(left, _POLL_EVERY), stop_after=1):
                pass

    async def _hold_partitions(self) -> Connection:
        if self._connection is None:
            self._connection = await connect(
                self._address, idle_session_timeout="15s", application_name=LEASE
            )
            await self._connection.execute("LISTEN log")
            self._looked_at = 0.0
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= _LOOK_FOR_PARTITIONS_EVERY:
            self._looked_at = now
            there = []
            for topic in self._topics:
                heads = await execute(self._connection, _HEADS, {"topic": topic})
                there += [(topic, partition) for partition, _ in await heads.fetchall()]
            # A failing partition ends this round. In the next round it is the last.
            for at in sorted(there, key=lambda at: (self._failed_at.get(at, 0.0), at)):
                if at not in self._next and at not in self._paused:
                    await self._try_hold(self._connection, *at)
            await self._frozen.look(self._connection)
        return self._connection

    async def _end_pauses(self) -> None:
        now = asyncio.get_running_loop().time()
        for at in [at for at, until in self._paused.items() if until <= now]:
            # Before it is tried again, all other partitions have had their turn.
            self._paused[at] = now + _LOOK_FOR_PARTITIONS_EVERY
            self._next[at] = await self._start_at(*at)
            del self._paused[at]

    async def _try_hold(self, connection: Connection, topic: str, partition: int) -> None:
        name = {"name": f"{self._group}/{topic}/{partition}"}
        row = await (await execute(connection, _TRY_HOLD, name)).fetchone()
        if row is not None and row[0]:
            try:
                offset = await self._start_at(topic, partition)
            except BaseException:
                self._failed_at[topic, partition] = asyncio.get_running_loop().time()
                await execute(connection, _LET_GO, name)
                raise
            self._failed_at.pop((topic, partition), None)
            self._next[topic, partition] = offset


def _no_topic(topic: str) -> LogUnavailable:
    return LogUnavailable(f"there is no topic {topic}; `shop migrate` creates it")


async def _append(
    connection: Connection, topic: str, partition: int, messages: Sequence[Message]
) -> bool:
    """Append to one partition. Returns False and appends nothing if the partition does not exist."""
    records = to_json(
        [
            {"k": key, "v": None if value is None else value.decode(), "h": headers}
            for key, value, headers in messages
        ]
    ).decode()
    appended = await execute(
        connection,
        _APPEND,
        {"count": len(messages), "topic": topic, "partition": partition, "records": records},
    )
    return appended.rowcount == 1


async def _read(
    connection: Connection, topic: str, partition: int, offset: int, limit: int
) -> list[Record]:
    cursor = await execute(
        connection,
        _READ,
        {"topic": topic, "partition": partition, "offset": offset, "limit": limit},
    )
    return [
        Record(
            topic, partition, at, key, None if value is None else value.encode(), from_json(headers)
        )
        for at, key, value, headers in await cursor.fetchall()
    ]
