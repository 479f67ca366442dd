"""The relay: outbox → log, in position order, from its last saved position.

It reads, appends, waits until the log confirms, and saves how far it came. A crash in between
repeats a stretch, which consumers recognise by its positions; it never leaves a hole, since the
outbox has none and nothing is skipped.

One relay of a service leads, held by an advisory lock; the others wait. That saves work and is
not what safety rests on: two leading at once only repeat each other's stretches.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog
from psycopg.rows import TupleRow

from eventspine.database import Connection, connect, execute, translated
from eventspine.errors import SpineError, Unavailable
from eventspine.event import NotAnEvent, envelope, message
from eventspine.log import EventLog, Message
from eventspine.outbox import CHANNEL
from eventspine.patience import Patience

_LOG = structlog.get_logger("eventspine.relay")

_LEAD = "SELECT pg_try_advisory_lock(7405)"

_TAKE_OFFICE = """
INSERT INTO relay (source, position, epoch) VALUES (%(source)s, 0, 1)
ON CONFLICT (source) DO UPDATE SET epoch = relay.epoch + 1
RETURNING position, epoch
"""

_OUTBOX_REACHES = """
SELECT (SELECT position FROM outbox_head), coalesce((SELECT min(position) FROM outbox), 0)
"""

_NEXT = """
SELECT position, topic, key, type, schema_version,
    to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), data::text, headers
FROM outbox WHERE position > %(position)s ORDER BY position LIMIT %(limit)s
"""

_SAVE = """
UPDATE relay SET position = %(position)s WHERE source = %(source)s AND epoch = %(epoch)s
"""


class BehindItsLog(SpineError):
    """The log holds positions that this database has not given out yet: it is an old backup."""


class Deposed(SpineError):
    """Another relay has taken the lead while this one was frozen or cut off."""


class Relay:
    """Feeds one service's outbox into the log for as long as `run` is left running.

    `batch` events are read and appended at a time; they are all this process holds of the outbox.
    """

    def __init__(
        self, database_url: str, log: EventLog, *, source: str, topics: Sequence[str], batch: int
    ) -> None:
        self._url = database_url
        self._log = log
        self._source = source
        self._topics = list(topics)
        self._batch = batch
        self._patience = Patience(_LOG, "the relay", of=source)
        self.position = 0

    @property
    def last_turn(self) -> float:
        """When it last relayed, found nothing to relay, or failed and waits; `time.monotonic()`."""
        return self._patience.last_turn

    async def run(self) -> None:
        """Never returns; whatever is away is waited for. Cancel it to stop."""
        while True:
            try:
                await self._lead()
            except Exception as error:  # noqa: BLE001 - nothing may end a relay
                await self._patience.after(error)

    async def _lead(self) -> None:
        async with AsyncExitStack() as held:
            # A frozen leader is put out of office by the server, which ends its idle session.
            connection = await connect(self._url, idle_session_timeout="10s")
            held.push_async_callback(connection.close)
            with translated():
                while not await _one(connection, _LEAD):
                    self._patience.over()
                    await asyncio.sleep(1.0)
                await connection.execute(f"LISTEN {CHANNEL}")
                # What is saved here can be done again: not worth waiting for the disk.
                await connection.execute("SET synchronous_commit = off")
                self.position, epoch = await self._take_office(connection)
                _LOG.info("relay leads", source=self._source, position=self.position, epoch=epoch)
                while True:
                    relayed = await self._relay(connection, epoch)
                    self._patience.over()
                    if relayed < self._batch:
                        # Polling is the truth, the notification a hint that saves waiting.
                        async for _ in connection.notifies(timeout=0.5, stop_after=1):
                            pass

    async def _take_office(self, connection: Connection) -> tuple[int, int]:
        saved, epoch = await _row(connection, _TAKE_OFFICE, {"source": self._source})
        head, first = await _row(connection, _OUTBOX_REACHES)
        shown = await self._last_in_log()
        if shown > head:
            raise BehindItsLog(
                f"the log already holds {self._source} events up to position {shown}, but this "
                f"database has only given out {head}: it was restored from an old backup. "
                "Publishing would reuse positions that consumers drop as repeats. "
                "Restore a newer backup, or rebuild this database from the log."
            )
        if shown < saved:
            # The log lost its end (a lost disk): feed it again, as far back as the outbox reaches.
            _LOG.error(
                "the log has lost events that were relayed; feeding it again from the outbox",
                source=self._source, relayed=saved, log_has=shown,
            )  # fmt: skip
            if first > shown + 1 or (first == 0 and saved > shown):
                last_missing = first - 1 if first else saved
                _LOG.error(
                    "these positions are neither in the log nor in the outbox any more",
                    source=self._source, first=shown + 1, last=last_missing,
                )  # fmt: skip
            saved = shown
        return saved, epoch

    async def _last_in_log(self) -> int:
        """The highest position of this source that the log ends with, over all partitions."""
        last = 0
        for topic in self._topics:
            for partition, end in (await self._log.end_offsets(topic)).items():
                last = max(last, await self._last_in_partition(topic, partition, end))
        return last

    async def _last_in_partition(self, topic: str, partition: int, end: int) -> int:
        # The end may be a repeated stretch, or records of strangers: look back a little further.
        while end > 0:
            start = max(0, end - 256)
            positions = []
            for record in await self._log.read(topic, partition, start, end - start):
                try:
                    found = envelope(record)
                except NotAnEvent:
                    continue
                if found.source == self._source:
                    positions.append(found.position)
            if positions:
                return max(positions)
            end = start
        return 0

    async def _relay(self, connection: Connection, epoch: int) -> int:
        rows = await _rows(connection, {"position": self.position, "limit": self._batch})
        if not rows:
            return 0
        by_topic: dict[str, list[Message]] = {}
        for position, topic, key, type_, schema_version, time, data, headers in rows:
            by_topic.setdefault(topic, []).append(
                message(self._source, position, key, type_, schema_version, time, data.encode(), headers)
            )  # fmt: skip
        for topic, messages in by_topic.items():
            await self._log.append(topic, messages)
        position = rows[-1][0]
        saved = await execute(
            connection, _SAVE, {"position": position, "source": self._source, "epoch": epoch}
        )
        if saved.rowcount != 1:
            raise Deposed(f"another relay of {self._source} leads now")
        self.position = position
        return len(rows)


async def _rows(connection: Connection, params: dict[str, int]) -> list[TupleRow]:
    return await (await execute(connection, _NEXT, params)).fetchall()


async def _row(connection: Connection, sql: str, params: dict[str, str] | None = None) -> TupleRow:
    row = await (await execute(connection, sql, params)).fetchone()
    if row is None:
        raise Unavailable("the spine's tables are empty; run `shop migrate`")
    return row


async def _one(connection: Connection, sql: str) -> object:
    return (await _row(connection, sql))[0]
