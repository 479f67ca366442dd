"""The relay: outbox → log, in the order of positions, from its last saved position.

It reads, appends, waits for the log's confirmation, and saves its position. A crash in between repeats a
batch. Consumers recognise the repeat by its positions. No position is ever skipped, because the outbox has
no gaps.

One relay of a service is the leader, by an advisory lock; the others wait. That saves work, but correctness
does not depend on it: two leaders at once only repeat each other's batches.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import structlog
from psycopg.rows import TupleRow

from eventspine.address import Address
from eventspine.backlog import Batch, following
from eventspine.backoff import Backoff
from eventspine.database import Connection, Params, connect, execute, translated
from eventspine.errors import SpineError, Unavailable
from eventspine.event import NotAnEvent, envelope
from eventspine.frozen import LEASE
from eventspine.log import EventLog
from eventspine.outbox import CHANNEL
from eventspine.steps import NO_STEPS, Steps
from eventspine.turning import Fed, turn_to

_LOG = structlog.get_logger("eventspine.relay")

_Answer = TypeVar("_Answer")

LEAD = "SELECT pg_try_advisory_lock(7405)"

_TAKE_OFFICE = """
INSERT INTO relay (source, position, epoch) VALUES (%(source)s, 0, 1)
ON CONFLICT (source) DO UPDATE SET epoch = relay.epoch + 1
RETURNING position, epoch, log
"""

# Whether a position has been given out, and its time: null if its row has been pruned.
_GIVEN_OUT = """
SELECT %(position)s <= head.position, outbox.time
FROM outbox_head AS head LEFT JOIN outbox ON outbox.position = %(position)s
"""

_OUTBOX_BEGINS = "SELECT coalesce(min(position), 0) FROM outbox"

_SAVE = """
UPDATE relay SET position = %(position)s WHERE source = %(source)s AND epoch = %(epoch)s
"""


_LOOK_EVERY = 10.0  # seconds; a topic may be recreated while it is fed


class BehindItsLog(SpineError):
    """The log holds positions that this database has not given out: it is an old backup."""


class AnotherLog(SpineError):
    """The log was recreated while it was fed."""


class LeadershipLost(SpineError):
    """Another relay became the leader while this one was frozen or disconnected."""


class Relay:
    """Feeds one service's outbox into the log while `run` is running.

    `batch` events are read and appended at a time. This process holds no more of the outbox in memory.
    A leader that is silent for `frozen_after` seconds loses the leadership.
    """

    def __init__(
        self,
        address: Address,
        log: EventLog,
        *,
        source: str,
        topics: Sequence[str],
        batch: int,
        frozen_after: float = 10.0,
        steps: Steps = NO_STEPS,
    ) -> None:
        self._address = address
        self._log = log
        self._source = source
        self._topics = list(topics)
        self._batch = batch
        self._frozen_after = frozen_after
        self._steps = steps
        self._backoff = Backoff(_LOG, "relay", source=source)
        self._log_id = ""
        self._looked_at = 0.0
        self.position = 0
        self.leads = False
        """Whether it is the leader and feeds the log. False while it waits for the database, the log or the
        leadership."""
        self.stands_by = False
        """Whether another relay is the leader."""

    @property
    def last_turn(self) -> float:
        """When it last relayed, found nothing to relay, or failed, by `time.monotonic()`."""
        return self._backoff.last_turn

    async def run(self) -> None:
        """Never returns. It waits while the database or the log is unavailable. Cancel it to stop."""
        while True:
            try:
                await self.lead()
            except Exception as error:  # noqa: BLE001 - nothing may end a relay
                await self._backoff.after(error)

    async def lead(self) -> None:
        """Wait until it is the leader, and feed the log until the first error, which it raises."""
        self.leads = False
        await self._prepare_log()
        async with AsyncExitStack() as held:
            # If a leader freezes, PostgreSQL or another worker ends its idle session, and its
            # leadership with it.
            limit = f"{self._frozen_after * 1000:.0f}ms"
            connection = await connect(
                self._address, idle_session_timeout=limit, application_name=LEASE
            )
            held.push_async_callback(connection.close)
            with translated():
                while not await _one(connection, LEAD):
                    self.stands_by = True
                    self._backoff.comes_round()
                    await self._prepare_log()
                    await asyncio.sleep(1.0)
                self.stands_by = False
                await connection.execute(f"LISTEN {CHANNEL}")
                # A lost save only repeats a batch, so do not wait for the disk.
                await connection.execute("SET synchronous_commit = off")
                self.position, epoch = await self._take_office(connection)
                self.leads = True
                _LOG.info("relay.leading", source=self._source, position=self.position, epoch=epoch)
                batch = await self._after(connection, self.position)
                while True:
                    more = await self._relay(connection, epoch, batch)
                    self._backoff.over()
                    await self._look_which_log(connection)
                    if more is None:
                        # Correctness depends on polling alone. The notification only saves waiting.
                        notified = False
                        async for _ in connection.notifies(timeout=0.5, stop_after=1):
                            notified = True
                        if not notified:
                            await self._prepare_log()
                        more = await self._after(connection, self.position)
                    batch = more

    async def _prepare_log(self) -> None:
        for topic in self._topics:
            await self._log.prepare(topic)

    async def _identity(self) -> str:
        return " ".join([(await self._log.identity(topic)).id for topic in self._topics])

    async def _look_which_log(self, connection: Connection) -> None:
        """Check the log's identity every `_LOOK_EVERY` seconds. Raises `AnotherLog`."""
        now = time.monotonic()
        if now - self._looked_at > _LOOK_EVERY:
            self._looked_at = now
            if await self._in_office(connection, self._identity()) != self._log_id:
                raise AnotherLog(f"the log of {self._source} was recreated while it was fed")

    async def _take_office(self, connection: Connection) -> tuple[int, int]:
        saved, epoch, known = await _row(connection, _TAKE_OFFICE, {"source": self._source})
        self._log_id = await self._in_office(connection, self._identity())
        self._looked_at = time.monotonic()
        # Read the log first. A former leader may still append, but only positions that this
        # database has given out.
        shown, shown_time = await self._in_office(connection, self._last_in_log())
        if shown and not await _has_given_out(connection, shown, shown_time):
            raise BehindItsLog(
                f"the log ends with position {shown} of {self._source}, which this database has "
                "not given out, or to another event: it was restored from an old backup. "
                "Publishing would reuse positions that consumers drop as repeats. "
                "Stop the service, run `shop restore`, and start it again."
            )
        if known != self._log_id:
            fed = Fed(self._source, self._log_id, epoch)
            saved = await turn_to(connection, fed, known=known, saved=saved)
        if shown < saved:
            first = await _one(connection, _OUTBOX_BEGINS)
            # The log lost its end, for example with a disk. Feed it again, as far back as the outbox goes.
            _LOG.error("relay.log_truncated", source=self._source, relayed=saved, log_has=shown)
            if first > shown + 1 or (first == 0 and saved > shown):
                last_missing = first - 1 if first else saved
                _LOG.error(
                    "relay.positions_missing",
                    source=self._source, first=shown + 1, last=last_missing,
                )  # fmt: skip
            saved = shown
        return saved, epoch

    async def _last_in_log(self) -> tuple[int, str]:
        """The highest position of this source at the end of the log, and the time in its header.

        All partitions are read. (0, "") if the log has no event of this source.
        """
        last = (0, "")
        for topic in self._topics:
            ends = await self._log.end_offsets(topic)
            # If keys are spread evenly, this is more than the last two batches.
            at_once = max(100, 3 * self._batch // max(1, len(ends)))
            for partition, end in ends.items():
                last = max(last, await self._last_in_partition(topic, partition, end, at_once))
        return last

    async def _last_in_partition(
        self, topic: str, partition: int, end: int, at_once: int
    ) -> tuple[int, str]:
        # The end may be a batch that a former leader has repeated. Then look further back, to positions
        # lower than any in that batch. Foreign records at the end are skipped in the same way.
        last, lowest = (0, ""), 0
        while end > 0:
            start = max(0, end - at_once)
            events = []
            for record in await self._log.read(topic, partition, start, end - start):
                try:
                    found = envelope(record)
                except NotAnEvent:
                    continue
                if found.source == self._source:
                    events.append((found.position, record.headers.get("ce_time", "")))
            if events:
                lowest = lowest or events[-1][0] - 2 * self._batch
                last = max(last, *events)
                if min(events)[0] <= lowest:
                    break
            end = start
        return last

    async def _after(self, connection: Connection, position: int, *, many: bool = False) -> Batch:
        return await following(connection, self._source, position, self._batch, many=many)

    async def _relay(self, connection: Connection, epoch: int, batch: Batch) -> Batch | None:
        """Append the batch and save its last position. Returns the next batch, if there probably is one.

        The next batch is fetched while the log confirms this one, so that neither waits for the other.
        """
        if not batch:
            return None
        more: Batch | None = None
        if not batch.is_full:
            await self._in_office(connection, self._append(batch))
        else:
            after = self._after(connection, batch.last_position, many=True)
            fetching = asyncio.create_task(after)
            try:
                await self._in_office(connection, self._append(batch))
            except BaseException:
                fetching.cancel()
                await asyncio.wait([fetching])
                raise
            more = await fetching
        save = partial(self._save, connection, epoch, batch.last_position)
        if self._steps.save is None:
            await save()
        else:
            await self._steps.save(batch.last_position, save)
        return more

    async def _save(self, connection: Connection, epoch: int, position: int) -> None:
        saved = await execute(
            connection, _SAVE, {"position": position, "source": self._source, "epoch": epoch}
        )
        if saved.rowcount != 1:
            raise LeadershipLost(f"another relay of {self._source} leads now")
        self.position = position

    async def _in_office(
        self, connection: Connection, asking: Coroutine[Any, Any, _Answer]
    ) -> _Answer:
        """The answer of the log, however long that takes, with signs of life to the database.

        Waiting for the log must not cost the leadership. Otherwise a slow log would never have a
        leader. Only a frozen leader sends no signs of life.
        """
        asked = asyncio.ensure_future(asking)
        try:
            while not (await asyncio.wait([asked], timeout=self._frozen_after / 4))[0]:
                await connection.execute("SELECT 1")
        except BaseException:
            asked.cancel()
            await asyncio.wait([asked])
            raise
        return await asked

    async def _append(self, batch: Batch) -> None:
        if self._steps.append is None:
            await self._append_all(batch)
        else:
            await self._steps.append(batch, partial(self._append_all, batch))

    async def _append_all(self, batch: Batch) -> None:
        for topic, messages in batch.by_topic().items():
            await self._log.append(topic, messages)


async def _has_given_out(connection: Connection, position: int, time: str) -> bool:
    given_out, at = await _row(connection, _GIVEN_OUT, {"position": position})
    if not given_out or at is None:
        return bool(given_out)
    # A restored old backup may have given the same position out again, to another event.
    try:
        return bool(datetime.fromisoformat(time) == at)
    except ValueError:
        return False


async def _row(connection: Connection, sql: str, params: Params | None = None) -> TupleRow:
    row = await (await execute(connection, sql, params)).fetchone()
    if row is None:
        raise Unavailable("the spine's tables are empty; run `shop migrate`")
    return row


async def _one(connection: Connection, sql: str) -> Any:
    return (await _row(connection, sql))[0]
