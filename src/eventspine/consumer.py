"""The consumer: log → handlers, with the cursor in the transaction of the effects.

For every partition a consumer keeps one row: the next offset to read, and the position of the
last event applied. Both move with the effects or not at all, so an event is applied once, however
often it is read:

* a relay that crashed repeats a stretch: those positions are not above the last one, and dropped;
* two members that both believe they hold a partition: the row is moved by compare-and-set, so one
  of them finds it moved, rolls back, and reads again from where the database says.

Nothing is read past a failure. After one, and after a pause, a member asks the database where it
stands before it reads on: what it remembers may have been taken back by a crash of the server.
"""

from collections.abc import Sequence
from typing import NamedTuple

import structlog

from eventspine.database import Database
from eventspine.errors import OutcomeUnknown, SpineError, Unavailable
from eventspine.event import Event, NotAnEvent, decode, envelope
from eventspine.handlers import Handlers
from eventspine.log import EventLog, Record, Subscription
from eventspine.outbox import Transaction, transaction
from eventspine.patience import Patience

_LOG = structlog.get_logger("eventspine.consumer")

_CURSOR = """
SELECT next_offset, last_position FROM cursors
WHERE consumer = %(consumer)s AND topic = %(topic)s AND partition = %(partition)s
"""

_CURSORS = """
SELECT topic, partition, next_offset, last_position FROM cursors WHERE consumer = %(consumer)s
"""

# Compare-and-set: a row that is not where this member left it means another member was here. The
# first move of a partition inserts the row; of two that try, the second waits and finds it there.
_MOVE = """
INSERT INTO cursors AS c (consumer, topic, partition, next_offset, last_position)
SELECT %(consumer)s, %(topic)s, %(partition)s, %(next_offset)s, %(last_position)s
WHERE %(from_offset)s = 0 OR EXISTS (
    SELECT FROM cursors
    WHERE consumer = %(consumer)s AND topic = %(topic)s AND partition = %(partition)s
)
ON CONFLICT (consumer, topic, partition) DO UPDATE
SET next_offset = excluded.next_offset, last_position = excluded.last_position
WHERE c.next_offset = %(from_offset)s AND c.last_position = %(from_position)s
"""

Partition = tuple[str, int]


class Cursor(NamedTuple):
    next_offset: int
    last_position: int


class Moved(SpineError):
    """Another member moved this partition's cursor: what was read is applied already, or stale."""


_NOT_THE_RECORDS = (Moved, Unavailable, OutcomeUnknown)


class Consumer:
    """One member of a service's consumer group, for as long as `run` is left running.

    `batch` records at most are read and applied in one transaction.
    """

    def __init__(
        self, database: Database, log: EventLog, handlers: Handlers, *, batch: int = 2000
    ) -> None:
        self._database = database
        self._log = log
        self._handlers = handlers
        self._batch = batch
        self._patience = Patience(_LOG, "the consumer", of=handlers.consumer)
        self._cursors: dict[Partition, Cursor] = {}
        self._reads_next: dict[Partition, int] = {}

    @property
    def last_turn(self) -> float:
        """When it last applied, found nothing to apply, or failed and waits; `time.monotonic()`."""
        return self._patience.last_turn

    @property
    def reads(self) -> bool:
        """Whether the log has given it something to read yet: to a spare member it gives nothing."""
        return bool(self._reads_next)

    async def run(self) -> None:
        """Never returns; whatever is away is waited for. Cancel it to stop."""
        subscription = self._log.subscribe(
            self._handlers.consumer, self._handlers.topics, self._start_at
        )
        certain = True
        try:
            while True:
                try:
                    if not certain:
                        await self._find_back(subscription)
                    certain = False
                    records = await subscription.poll(self._batch, timeout=1.0)
                    if records:
                        await self._apply_read(subscription, records)
                        certain = True
                    self._patience.over()
                except Moved as error:
                    _LOG.debug("batch not applied", reason=str(error))
                except Exception as error:  # noqa: BLE001 - nothing may end a consumer
                    await self._patience.after(error)
        finally:
            await subscription.close()

    async def _find_back(self, subscription: Subscription) -> None:
        """Read on from where the database's cursors stand, wherever this member believed them."""
        rows = await self._database.fetch(_CURSORS, {"consumer": self._handlers.consumer})
        stand = {(topic, partition): Cursor(*cursor) for topic, partition, *cursor in rows}
        for at, reads_next in self._reads_next.items():
            cursor = self._cursors[at] = stand.get(at, Cursor(0, 0))
            if cursor.next_offset < reads_next:
                await subscription.seek(*at, cursor.next_offset)
                self._reads_next[at] = cursor.next_offset

    async def _apply_read(self, subscription: Subscription, records: Sequence[Record]) -> None:
        partitions: dict[Partition, list[Record]] = {}
        for record in records:
            partitions.setdefault((record.topic, record.partition), []).append(record)
        for at, share in partitions.items():
            self._reads_next[at] = share[-1].offset + 1
        try:
            await self.apply(records)
        except _NOT_THE_RECORDS:
            raise
        except Exception:
            if len(partitions) == 1:
                raise
            await self._apply_each(list(partitions.values()))
        for at in partitions:
            await subscription.commit(*at, self._cursors[at].next_offset)

    async def _apply_each(self, partitions: Sequence[Sequence[Record]]) -> None:
        """Something in one partition is in the way: the others need not wait for it."""
        failures: list[Exception] = []
        for records in partitions:
            try:
                await self.apply(records)
            except _NOT_THE_RECORDS:
                raise
            except Exception as error:  # noqa: BLE001 - raised below
                failures.append(error)
        if failures:
            raise failures[0]

    async def _start_at(self, topic: str, partition: int) -> int:
        at = (topic, partition)
        rows = await self._database.fetch(
            _CURSOR,
            {"consumer": self._handlers.consumer, "topic": topic, "partition": partition},
        )
        cursor = self._cursors[at] = Cursor(*rows[0]) if rows else Cursor(0, 0)
        if not await self._is_in_log(at, cursor):
            _LOG.error(
                "the log is not the one that was read, it has lost its end: reading it again",
                topic=topic, partition=partition, next_offset=cursor.next_offset,
            )  # fmt: skip
            # From its beginning: what has been applied is known by its positions.
            cursor = Cursor(0, cursor.last_position)
            async with transaction(self._database) as tx:
                await self._move(tx, at, cursor)
            self._cursors[at] = cursor
        self._reads_next[at] = cursor.next_offset
        return cursor.next_offset

    async def _is_in_log(self, at: Partition, cursor: Cursor) -> bool:
        """Whether the last record that was read is still where it was.

        A log that lost its end and was fed again may hold new events at offsets already passed.
        """
        if cursor.next_offset == 0:
            return True
        last = await self._log.read(*at, cursor.next_offset - 1, 1)
        if not last or last[0].offset >= cursor.next_offset:
            return False
        try:
            found = envelope(last[0])
        except NotAnEvent:
            return True
        known = self._handlers.knows_source(at[0], found.source)
        return not known or found.position <= cursor.last_position

    async def apply(self, records: Sequence[Record]) -> None:
        """Apply what has not been applied, and move the cursors, in one transaction.

        Records must be in the order of their offsets within each partition. Raises `Moved` when
        another member has come first, and leaves everything as it was whenever it raises.
        """
        moves: dict[Partition, Cursor] = {}
        fresh: list[tuple[type[Event], Record]] = []
        for record in records:
            at = (record.topic, record.partition)
            cursor = moves.get(at) or await self._cursor(*at)
            if record.offset < cursor.next_offset:
                continue
            position = self._position(record, cursor, fresh)
            moves[at] = Cursor(record.offset + 1, max(position, cursor.last_position))
        if not moves:
            return
        events = _decoded(fresh)
        # Whatever a crash of the server takes back, cursor and effects together, is read again.
        async with transaction(self._database, durable=False) as tx:
            # In one order everywhere, or two members could wait for each other for ever.
            for at in sorted(moves):
                await self._move(tx, at, moves[at])
            await self._handlers.apply(tx, events)
        self._cursors.update(moves)

    async def _cursor(self, topic: str, partition: int) -> Cursor:
        at = (topic, partition)
        if at not in self._cursors:
            await self._start_at(topic, partition)
        return self._cursors[at]

    def _position(
        self, record: Record, cursor: Cursor, fresh: list[tuple[type[Event], Record]]
    ) -> int:
        """The record's position, 0 if it has none; adds it to `fresh` if it is to be applied."""
        try:
            found = envelope(record)
        except NotAnEvent as error:
            _report(record, error)
            return 0
        if not self._handlers.knows_source(record.topic, found.source):
            _report(record, NotAnEvent(f"its source {found.source} does not publish here"))
            return 0
        if found.position > cursor.last_position:
            event_class = self._handlers.event_class(record.topic, found.type)
            if event_class is not None:
                fresh.append((event_class, record))
        return found.position

    async def _move(self, tx: Transaction, at: Partition, to: Cursor) -> None:
        was = self._cursors[at]
        moved = await tx.execute(
            _MOVE,
            {
                "consumer": self._handlers.consumer,
                "topic": at[0],
                "partition": at[1],
                "from_offset": was.next_offset,
                "from_position": was.last_position,
                "next_offset": to.next_offset,
                "last_position": to.last_position,
            },
        )
        if moved.rowcount != 1:
            raise Moved(f"another member of {self._handlers.consumer} has moved {at[0]}/{at[1]}")


def _decoded(fresh: Sequence[tuple[type[Event], Record]]) -> list[Event]:
    """The events, in the order of the records. What is not one is reported and left out."""
    by_class: dict[type[Event], list[int]] = {}
    for index, (event_class, _) in enumerate(fresh):
        by_class.setdefault(event_class, []).append(index)
    events: list[Event | None] = [None] * len(fresh)
    for event_class, indexes in by_class.items():
        records = [fresh[index][1] for index in indexes]
        try:
            decoded: Sequence[Event | None] = decode(event_class, _values(records))
        except NotAnEvent:
            decoded = [_decoded_alone(event_class, record) for record in records]
        for index, event in zip(indexes, decoded, strict=True):
            events[index] = event
    return [event for event in events if event is not None]


def _decoded_alone(event_class: type[Event], record: Record) -> Event | None:
    try:
        return decode(event_class, _values([record]))[0]
    except NotAnEvent as error:
        _report(record, error)
        return None


def _values(records: Sequence[Record]) -> list[bytes]:
    return [record.value for record in records if record.value is not None]


def _report(record: Record, why: NotAnEvent) -> None:
    """The partition goes on; the record stays in the log, and this line says where."""
    _LOG.error(
        "record is not an event of ours, passed over", reason=str(why),
        topic=record.topic, partition=record.partition, offset=record.offset, key=record.key,
    )  # fmt: skip
