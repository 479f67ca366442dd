"""Follows change data capture: Debezium feeds the log from the write-ahead log, and this saves how far it came.

`relay.position` stays the only answer to the question up to where the log has everything; pruning and audit
depend on it. It is the lower of two:

* the slot: what Debezium has confirmed, which it does after Kafka has confirmed it. A new slot begins anywhere, so
  this alone would hide a hole;
* the topic: the positions that are there without a gap. Any writer may write to a topic, so this alone could be
  deceived.

The second is saved too, as `relay.captured`. Debezium's transformation compares it with the first event that it is
given, and refuses a hole. It can't compare with `relay.position`, because a slot's answer is a place in the write-ahead
log. Which position that is, is known only for the moments at which this has looked.

One worker of a service follows, by an advisory lock; the others wait.
"""

import asyncio
import time
from collections import deque
from contextlib import AsyncExitStack

import structlog

from eventspine.address import Address
from eventspine.backoff import Backoff
from eventspine.database import Connection, connect, execute, translated
from eventspine.errors import SpineError
from eventspine.event import NotAnEvent, envelope
from eventspine.frozen import LEASE
from eventspine.log import EventLog, Record

_LOG = structlog.get_logger("eventspine.captured")

_FOLLOW = "SELECT pg_try_advisory_lock(7411)"

_FROM = "SELECT position, log FROM relay WHERE source = %(source)s"

# In one statement. The snapshot is taken first, so the write-ahead log up to the place has the position's commit.
# A slot that is lost confirms nothing any more.
_LOOK = """
SELECT head.position, pg_current_wal_insert_lsn() - '0/0'::pg_lsn, slot.confirmed_flush_lsn - '0/0'::pg_lsn
FROM outbox_head AS head LEFT JOIN pg_replication_slots AS slot
    ON slot.slot_name = %(slot)s AND slot.database = current_database() AND slot.wal_status <> 'lost'
"""

_SAVE = """
UPDATE relay SET position = greatest(position, %(position)s), captured = %(captured)s
WHERE source = %(source)s AND log = %(log)s AND (position < %(position)s OR captured <> %(captured)s)
"""

_FROZEN_AFTER = 10.0  # seconds
_SAVE_EVERY = 0.5  # seconds
_LOOK_WHICH_LOG_EVERY = 10.0  # seconds
_PAGE = 1000  # records read back at a time
_AT_ONCE = 5000  # records
_GAP_WITHIN = 30.0  # seconds that a gap may last; a partition that is away makes one too
_MOST_ABOVE = 1_000_000  # positions above a gap that are kept in memory
_MOST_PLACES = 100_000


class NotBegun(SpineError):
    """Change data capture has not begun on this log."""


class MissingPositions(SpineError):
    """The topic lacks positions, and Debezium has gone on."""


class Whole:
    """The positions of the topic that have no gap before them."""

    def __init__(self, upto: int) -> None:
        self.upto = upto
        self._above: set[int] = set()

    def add(self, position: int) -> None:
        if position == self.upto + 1:
            self.upto = position
            while self._above and self.upto + 1 in self._above:
                self.upto += 1
                self._above.remove(self.upto)
        elif position > self.upto:
            self._above.add(position)

    @property
    def above(self) -> int:
        """How many positions are there above a gap."""
        return len(self._above)


class Confirmed:
    """Turns a slot's place in the write-ahead log into a position."""

    def __init__(self) -> None:
        self.position = 0
        self._places: deque[tuple[int, int]] = deque(maxlen=_MOST_PLACES)

    def look(self, head: int, place: int, confirmed: int | None) -> None:
        """`head` was given out at the latest when the write-ahead log reached `place`."""
        if not self._places or self._places[-1][0] < head:
            self._places.append((head, place))
        while confirmed is not None and self._places and self._places[0][1] <= confirmed:
            self.position = self._places.popleft()[0]


class Captured:
    """Follows one service's topic and slot while `run` is running. In a worker, it takes the relay's place."""

    def __init__(
        self, address: Address, log: EventLog, *, source: str, topic: str, slot: str, group: str
    ) -> None:
        self._address = address
        self._log = log
        self._source = source
        self._topic = topic
        self._slot = slot
        self._group = group
        self._backoff = Backoff(_LOG, "captured", source=source)
        self._whole = Whole(0)
        self.position = 0
        self.leads = False
        """Whether it is the one that follows. False while it waits for the database, the log or its turn."""

    @property
    def last_turn(self) -> float:
        """When it last looked, or failed, by `time.monotonic()`."""
        return self._backoff.last_turn

    async def run(self) -> None:
        """Never returns. It waits while the database or the log is unavailable. Cancel it to stop."""
        while True:
            try:
                await self._lead()
            except Exception as error:  # noqa: BLE001 - nothing may end it
                await self._backoff.after(error)

    async def _lead(self) -> None:
        self.leads = False
        async with AsyncExitStack() as held:
            connection = await connect(
                self._address,
                idle_session_timeout=f"{_FROZEN_AFTER * 1000:.0f}ms",
                application_name=LEASE,
            )
            held.push_async_callback(connection.close)
            with translated():
                while not (await _row(connection, _FOLLOW))[0]:
                    self._backoff.comes_round()
                    await asyncio.sleep(1.0)
                # A lost save is only made again, so do not wait for the disk.
                await connection.execute("SET synchronous_commit = off")
                log_id = await self._begin(connection)
                subscription = self._log.subscribe(self._group, [self._topic], self._start_at)
                held.push_async_callback(subscription.close)
                self.leads = True
                _LOG.info("captured.following", source=self._source, position=self.position)
                confirmed, saved_at, looked_at = Confirmed(), 0.0, time.monotonic()
                upto, moved_at = self._whole.upto, looked_at
                while True:
                    for record in await subscription.poll(_AT_ONCE, timeout=_SAVE_EVERY / 2):
                        self._whole.add(self._position(record))
                    now = time.monotonic()
                    if self._whole.upto > upto or not self._whole.above:
                        upto, moved_at = self._whole.upto, now
                    if self._whole.above > _MOST_ABOVE or now - moved_at > _GAP_WITHIN:
                        raise MissingPositions(self._hole())
                    if now - saved_at >= _SAVE_EVERY:
                        saved_at = now
                        await self._save(connection, confirmed, log_id)
                    if now - looked_at >= _LOOK_WHICH_LOG_EVERY:
                        looked_at = now
                        await self._same_log(log_id)
                    self._backoff.over()

    async def _begin(self, connection: Connection) -> str:
        """Start from the saved position. Returns the log's identity."""
        cursor = await execute(connection, _FROM, {"source": self._source})
        self.position, log_id = await cursor.fetchone() or (0, "")
        self._whole = Whole(self.position)
        await self._same_log(log_id)
        place = {"source": self._source, "log": log_id, "position": 0, "captured": self.position}
        await execute(connection, _SAVE, place)
        return str(log_id)

    async def _same_log(self, log_id: str) -> None:
        if (await self._log.identity(self._topic)).id != log_id:
            raise NotBegun(
                f"change data capture of {self._source} has not begun on this log: run `shop cdc begin`"
            )

    async def _save(self, connection: Connection, confirmed: Confirmed, log_id: str) -> None:
        head, place, slot = await _row(connection, _LOOK, {"slot": self._slot})
        confirmed.look(head, int(place), None if slot is None else int(slot))
        self.position = max(self.position, min(confirmed.position, self._whole.upto))
        saved = {
            "source": self._source,
            "log": log_id,
            "position": self.position,
            "captured": self._whole.upto,
        }
        await execute(connection, _SAVE, saved)

    def _position(self, record: Record) -> int:
        """The record's position; 0 if it is a foreign one."""
        try:
            found = envelope(record)
        except NotAnEvent:
            return 0
        return found.position if found.source == self._source else 0

    async def _start_at(self, topic: str, partition: int) -> int:
        """The offset of the first record above the saved position, or the end of the partition.

        Old records may follow it, because a writer may repeat them at any time. So this looks back until a whole page
        has only old ones.
        """
        first = end = (await self._log.end_offsets(topic)).get(partition, 0)
        while end > 0:
            self._backoff.comes_round()
            start = max(0, end - _PAGE)
            page = await self._log.read(topic, partition, start, end - start)
            positions = {record.offset: self._position(record) for record in page}
            above = [offset for offset, position in positions.items() if position > self.position]
            if not above and any(positions.values()):
                break
            first, end = min(above, default=first), start
        return first

    def _hole(self) -> str:
        return (
            f"position {self._whole.upto + 1} of {self._source} is not in the topic, and later ones are: run"
            " `shop cdc begin`, which sends it from the outbox"
        )


async def _row(
    connection: Connection, sql: str, params: dict[str, object] | None = None
) -> tuple[int, int, int | None]:
    return (await (await execute(connection, sql, params)).fetchall())[0]
