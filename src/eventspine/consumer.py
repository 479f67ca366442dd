"""The consumer: log → handlers; the checkpoint moves in the transaction that applies the events.

For every partition a consumer has one row: the next offset to read, and the position of the last event
applied. Both move together with the applied events or not at all. So an event is applied once, however often
it is read:

* A relay that crashed repeats a batch. Its positions are not above the last one, so they are dropped.
* Two members believe that they hold the same partition. The row is moved by compare-and-set, so one of them
  finds it moved, rolls back, and continues from the row in the database.

Nothing is read past a failure. After a failure or a pause, a member reads its checkpoint from the database
before it continues: a crash of the server may have undone what the member remembers.

A partition with too many events that can't be applied pauses alone. It is not read meanwhile, so nothing of it
has to be stored, and the other partitions keep their speed.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog

from eventspine.backoff import Backoff
from eventspine.context import trace_id
from eventspine.database import Database
from eventspine.dead_letters import (
    BEHIND,
    PASSING,
    HeldKey,
    Park,
    TooManyParked,
    held_key,
    held_keys,
    park,
)
from eventspine.error_text import text_of
from eventspine.errors import SpineError
from eventspine.event import NotAnEvent, envelope
from eventspine.handlers import Handlers
from eventspine.log import EventLog, LogUnavailable, Record, Subscription
from eventspine.outbox import Transaction, transaction
from eventspine.reactions import Reaction
from eventspine.reading import Checkpoint, Partition, Rejected, read
from eventspine.received import Received
from eventspine.steps import GROUP
from eventspine.which_log import Earlier, take_up

_LOG = structlog.get_logger("eventspine.consumer")

_CHECKPOINTS = """
SELECT topic, partition, log, next_offset, last_position FROM cursors WHERE consumer = %(consumer)s
"""

# Compare-and-set. If the row has changed, another member has moved it. If the row is missing, another log
# is read now. The row is created when the partition is taken up.
_MOVE = """
UPDATE cursors AS c SET next_offset = %(next_offset)s, last_position = %(last_position)s
WHERE consumer = %(consumer)s AND topic = %(topic)s AND partition = %(partition)s AND log = %(log)s
    AND c.next_offset = %(from_offset)s AND c.last_position = %(from_position)s
"""

_WHICH_LOG_EVERY = 10.0  # seconds; a topic may be recreated while it is read


_BEHIND = "an earlier event of its key is parked"


class CheckpointConflict(SpineError):
    """Another member moved this partition's checkpoint. The records were already applied, or are stale."""


# Errors after which the same records are tried again, without a limit.
_PASSING = (CheckpointConflict, *PASSING)


class Consumer:
    """One member of a service's consumer group, while `run` is running.

    At most `batch` records are read and applied in one transaction. At most `most_parked` keys are
    parked. A partition that would park another key pauses, and the pause is logged.
    """

    def __init__(
        self,
        database: Database,
        log: EventLog,
        handlers: Handlers,
        *,
        batch: int = 2000,
        most_parked: int = 100,
    ) -> None:
        self._database = database
        self._log = log
        self._handlers = handlers
        self._reaction = handlers if isinstance(handlers, Reaction) else None
        self._batch = batch
        self._most_parked = most_parked
        self._backoff = Backoff(_LOG, "consumer", consumer=handlers.consumer)
        self._stopped: dict[Partition, Backoff] = {}
        self._checkpoints: dict[Partition, Checkpoint] = {}
        self._reads_next: dict[Partition, int] = {}
        self._logs: dict[str, str] = {}
        """For each topic, the identity of the log that its checkpoints belong to."""
        self._earlier: dict[str, Earlier] = {}
        self._looked_at = 0.0
        self.records = 0
        """Records whose checkpoints it has moved."""
        self.applied = 0
        """Events that it has applied."""
        self.repeats = 0
        """Records that it has recognised as repeats."""
        self.parked = 0
        """Records that it has parked, without those that only wait behind another."""

    @property
    def name(self) -> str:
        return self._handlers.consumer

    @property
    def last_turn(self) -> float:
        """When it last applied, found nothing to apply, or failed, by `time.monotonic()`."""
        return self._backoff.last_turn

    @property
    def reads(self) -> bool:
        """Whether it has read records. A spare member, without a partition, never does."""
        return bool(self._reads_next)

    async def run(self) -> None:
        """Never returns. It waits while the database or the log is unavailable. Cancel it to stop."""
        subscription = self._log.subscribe(
            self._handlers.consumer, self._handlers.topics, self._start_at
        )
        certain = True
        most = self._batch
        try:
            while True:
                try:
                    if not certain:
                        await self._find_back(subscription)
                    certain = False
                    records = await subscription.poll(most, timeout=1.0)
                    if records:
                        # The batch may be too large for the statement timeout or for the memory,
                        # which looks like temporary trouble. So halve it, and grow slowly again.
                        tried, most = most, max(1, most // 2)
                        await self._receive(subscription, records)
                        certain = True
                        most = min(self._batch, tried + tried // 8 + 1)
                    self._backoff.over()
                except CheckpointConflict as error:
                    _LOG.debug("consumer.batch_discarded", reason=str(error))
                except Exception as error:  # noqa: BLE001 - nothing may end a consumer
                    await self._backoff.after(error)
        finally:
            await subscription.close()

    async def _find_back(self, subscription: Subscription) -> None:
        """Continue from the database's checkpoints, not from what this member remembers."""
        rows = await self._database.fetch(_CHECKPOINTS, {"consumer": self._handlers.consumer})
        stand = {
            (topic, partition): Checkpoint(*checkpoint)
            for topic, partition, log, *checkpoint in rows
            if log == self._logs.get(topic)
        }
        changed = await self._changed_topics()
        for at, reads_next in list(self._reads_next.items()):
            if at not in stand or at[0] in changed:
                await subscription.seek(*at, await self._start_at(*at))
                continue
            checkpoint = self._checkpoints[at] = stand[at]
            if checkpoint.next_offset < reads_next:
                await subscription.seek(*at, checkpoint.next_offset)
                self._reads_next[at] = checkpoint.next_offset

    async def _changed_topics(self) -> set[str]:
        """The topics that were recreated while this member read them; checked every `_WHICH_LOG_EVERY` s."""
        now = time.monotonic()
        if now - self._looked_at < _WHICH_LOG_EVERY:
            return set()
        self._looked_at = now
        with suppress(LogUnavailable):  # reading reports the same error
            return {
                topic
                for topic, log in self._logs.items()
                if (await self._log.identity(topic)).id != log
            }
        return set()

    async def _receive(self, subscription: Subscription, records: Sequence[Record]) -> None:
        around = self._database.steps.receive
        if around is None:
            await self._apply_read(subscription, records)
        else:
            GROUP.set(self._handlers.consumer)
            await around(records, partial(self._apply_read, subscription, records))

    async def _apply_read(self, subscription: Subscription, records: Sequence[Record]) -> None:
        partitions: dict[Partition, list[Record]] = {}
        for record in records:
            partitions.setdefault((record.topic, record.partition), []).append(record)
        for at, share in partitions.items():
            self._reads_next[at] = share[-1].offset + 1
        too_many: dict[Partition, TooManyParked] = {}
        try:
            await self.apply(records)
        except _PASSING:
            raise
        except Exception as error:  # noqa: BLE001 - after any error, the consumer continues
            too_many = await self._isolate_each(partitions, error)
        for at in partitions:
            await subscription.commit(*at, self._checkpoints[at].next_offset)
            if at in too_many:
                await self._pause(subscription, at, too_many[at])
            elif at in self._stopped:
                self._stopped[at].over()

    async def _pause(self, subscription: Subscription, at: Partition, why: TooManyParked) -> None:
        """Pause the partition, for longer each time. The others continue."""
        if at not in self._stopped:
            consumer = self._handlers.consumer
            self._stopped[at] = Backoff(
                _LOG, "consumer", consumer=consumer, topic=at[0], partition=at[1]
            )
        await subscription.pause(*at, self._stopped[at].pause(why))
        self._reads_next[at] = self._checkpoints[at].next_offset

    async def _start_at(self, topic: str, partition: int) -> int:
        at = (topic, partition)
        identity = await self._log.identity(topic)
        checkpoint, self._earlier[topic], before = await take_up(
            self._database, self._handlers.consumer, topic, partition, identity
        )
        if before is not None:
            _LOG.warning(
                "consumer.log_changed",
                topic=topic, log=identity.id, before=before,
            )  # fmt: skip
        self._logs[topic] = identity.id
        self._checkpoints[at] = checkpoint
        if not await self._is_in_log(at, checkpoint):
            _LOG.error(
                "consumer.log_truncated",
                topic=topic, partition=partition, next_offset=checkpoint.next_offset,
            )  # fmt: skip
            # Read the partition from its beginning. Applied events are recognised by their positions.
            checkpoint = Checkpoint(0, checkpoint.last_position)
            async with transaction(self._database) as tx:
                await self._move(tx, at, checkpoint)
            self._checkpoints[at] = checkpoint
        self._reads_next[at] = checkpoint.next_offset
        return checkpoint.next_offset

    async def _is_in_log(self, at: Partition, checkpoint: Checkpoint) -> bool:
        """Whether the last record that was read is still at its offset.

        A log that lost its end and was fed again may hold new events at offsets that were already read.
        """
        if checkpoint.next_offset == 0:
            return True
        last = await self._log.read(*at, checkpoint.next_offset - 1, 1)
        if not last or last[0].offset >= checkpoint.next_offset:
            return False
        try:
            found = envelope(last[0])
        except NotAnEvent:
            return True
        known = self._handlers.knows_source(at[0], found.source)
        return not known or found.position <= checkpoint.last_position

    async def apply(self, records: Sequence[Record]) -> None:
        """Apply the events that are not applied yet, and move the checkpoints, in one transaction.

        Records must be in the order of their offsets within each partition. Raises `CheckpointConflict` if
        another member was faster. Whenever it raises, nothing has changed.
        """
        for at in {(record.topic, record.partition) for record in records}:
            if at not in self._checkpoints:
                await self._start_at(*at)
        moves, items, repeats = read(records, self._checkpoints, self._handlers, self._earlier)
        if not moves:
            self.repeats += repeats
            return
        if self._reaction is not None:
            await self._ask(self._reaction, items)
        # A crash of the server may undo the checkpoint together with the effects. Then the events
        # are read again.
        async with transaction(self._database, durable=False) as tx:
            # Always in the same order; otherwise two members could deadlock.
            for at in sorted(moves):
                await self._move(tx, at, moves[at])
            held = await held_keys(tx, self._handlers.consumer)
            received: list[Received[Any]] = []
            parks: list[Park] = []
            for item in items:
                if isinstance(item, Rejected):
                    parks.append(_rejected(item, held))
                elif held and held_key(item.record) in held:
                    parks.append(Park(item.record, item.position, True, BEHIND, _BEHIND))
                else:
                    received.append(item)
            if received:
                await self._handlers.apply(tx, received)
            await self._park(tx, parks, held)
        self._checkpoints.update(moves)
        self.records += len(records)
        self.repeats += repeats
        self.applied += len(received)
        self._report(parks)

    async def _ask(self, reaction: Reaction, items: Sequence[Received[Any] | Rejected]) -> None:
        """Ask the provider before the transaction, except about what will be parked behind another."""
        held = await held_keys(self._database, reaction.consumer)
        await reaction.ask(
            [
                item
                for item in items
                if isinstance(item, Received) and held_key(item.record) not in held
            ]
        )

    async def _isolate_each(
        self, partitions: Mapping[Partition, Sequence[Record]], error: Exception
    ) -> dict[Partition, TooManyParked]:
        """Isolate the failure in each partition. Returns the partitions that must pause."""
        stopped = {}
        for at, records in partitions.items():
            try:
                await self._isolate(records, error)
            except TooManyParked as too_many:
                stopped[at] = too_many
        return stopped

    async def _isolate(self, records: Sequence[Record], error: Exception) -> None:
        """At least one of these can't be applied. Apply the others, and park it with its error."""
        if len(records) == 1:
            try:
                await self.apply(records)
            except (*_PASSING, TooManyParked):
                raise
            except Exception:  # noqa: BLE001 - it has failed again, and alone: it is the event
                await self._park_failed(records[0], error)
            return
        middle = len(records) // 2
        for half in (records[:middle], records[middle:]):
            try:
                await self.apply(half)
            except _PASSING:
                raise
            except Exception as failure:  # noqa: BLE001 - it is what is being looked for
                await self._isolate(half, failure)

    async def _park_failed(self, record: Record, error: Exception) -> None:
        at = (record.topic, record.partition)
        moves, items, _ = read([record], self._checkpoints, self._handlers, self._earlier)
        if not moves:
            return
        async with transaction(self._database) as tx:
            await self._move(tx, at, moves[at])
            held = await held_keys(tx, self._handlers.consumer)
            cause = type(error).__name__
            parks = [Park(record, item.position, True, cause, text_of(error)) for item in items]
            held.add(held_key(record))
            await self._park(tx, parks, held)
        self._checkpoints.update(moves)
        self.records += 1
        self._report(parks)

    async def _park(self, tx: Transaction, parks: Sequence[Park], held: set[HeldKey]) -> None:
        """`held` are the blocked keys, including those of `parks`. Raises `TooManyParked`."""
        failed = [park for park in parks if park.cause != BEHIND]
        if len(held) > self._most_parked and any(park.holds_key for park in failed):
            raise TooManyParked(
                f"{len(held)} keys can't be applied, and at most {self._most_parked} may be parked: the "
                f"cause is probably the code or the database; the latest error: {failed[-1].error[:200]}"
            )
        if parks:
            await park(tx, self._handlers.consumer, parks)

    def _report(self, parks: Sequence[Park]) -> None:
        """Log and count what was parked, except events that only wait behind another."""
        for record, position, _, cause, error in parks:
            if cause != BEHIND:
                self.parked += 1
                _LOG.error(
                    "consumer.dead_lettered", cause=cause, reason=error,
                    topic=record.topic, partition=record.partition, offset=record.offset,
                    key=record.key, position=position,
                    trace_id=trace_id(record.headers.get("traceparent")),
                )  # fmt: skip

    async def _move(self, tx: Transaction, at: Partition, to: Checkpoint) -> None:
        was = self._checkpoints[at]
        moved = await tx.execute(
            _MOVE,
            {
                "consumer": self._handlers.consumer,
                "topic": at[0],
                "partition": at[1],
                "log": self._logs[at[0]],
                "from_offset": was.next_offset,
                "from_position": was.last_position,
                "next_offset": to.next_offset,
                "last_position": to.last_position,
            },
        )
        if moved.rowcount != 1:
            raise CheckpointConflict(
                f"another member of {self._handlers.consumer} has moved {at[0]}/{at[1]}"
            )


def _rejected(item: Rejected, held: set[HeldKey]) -> Park:
    """An event that can't be decoded blocks its key from now on; a foreign record blocks none."""
    record, position, error = item
    if position is not None:
        held.add(held_key(record))
    return Park(record, position, position is not None, "not an event", error)
