"""Applies records to the database, and moves the checkpoints in the same transaction. It knows no log.

A batch that fails for another reason than trouble that passes is halved, until the event that can't be applied is found
and parked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

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
from eventspine.handlers import Handlers
from eventspine.log import Record
from eventspine.outbox import Transaction, transaction
from eventspine.reactions import Reaction
from eventspine.read_ahead import Prepared
from eventspine.reading import Checkpoint, Partition, Rejected, read
from eventspine.received import Received
from eventspine.which_log import Earlier

_LOG = structlog.get_logger("eventspine.consumer")

# Compare-and-set. If the row has changed, another member has moved it. If the row is missing, another log
# is read now. The row is created when the partition is taken up.
_MOVE = """
UPDATE cursors AS c SET next_offset = %(next_offset)s, last_position = %(last_position)s
WHERE consumer = %(consumer)s AND topic = %(topic)s AND partition = %(partition)s AND log = %(log)s
    AND c.next_offset = %(from_offset)s AND c.last_position = %(from_position)s
"""

_BEHIND = "an earlier event of its key is parked"


class CheckpointConflict(SpineError):
    """Another member moved this partition's checkpoint. The records were already applied, or are stale."""


# Errors after which the same records are tried again, without a limit.
PASSES = (CheckpointConflict, *PASSING)


class Applier:
    """What a consumer does in its database, from the checkpoints that it was given.

    At most `most_parked` keys are parked.
    """

    def __init__(self, database: Database, handlers: Handlers, most_parked: int) -> None:
        self._database = database
        self._handlers = handlers
        self._reaction = handlers if isinstance(handlers, Reaction) else None
        self._most_parked = most_parked
        self._checkpoints: dict[Partition, Checkpoint] = {}
        self._moving: dict[Partition, Checkpoint] = {}
        """Where the checkpoints will be after the transaction that is under way."""
        self._logs: dict[str, str] = {}
        """For each topic, the identity of the log that its checkpoints belong to."""
        self._earlier: dict[str, Earlier] = {}
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

    async def _start_at(self, topic: str, partition: int) -> int:
        """Take up the checkpoint of a partition. Returns the offset to read next."""
        raise NotImplementedError

    def _prepare(self, records: Sequence[Record]) -> Prepared:
        """Decode records that may be applied after the transaction that is under way, and not before it."""
        if not records:
            return Prepared(records)
        partitions = {(record.topic, record.partition) for record in records}
        starts = {at: self._moving.get(at) or self._checkpoints.get(at) for at in partitions}
        known = {at: start for at, start in starts.items() if start is not None}
        if len(known) < len(starts):
            return Prepared(records)
        earlier = {topic: self._earlier.get(topic) for topic, _ in partitions}
        reading = read(records, known, self._handlers, self._earlier)
        return Prepared(records, known, earlier, reading)

    async def apply(self, records: Sequence[Record], prepared: Prepared | None = None) -> None:
        """Apply the events that are not applied yet, and move the checkpoints, in one transaction.

        Records must be in the order of their offsets within each partition. `prepared` are the same records,
        decoded ahead. Raises `CheckpointConflict` if another member was faster. Whenever it raises, nothing has
        changed.
        """
        for at in {(record.topic, record.partition) for record in records}:
            if at not in self._checkpoints:
                await self._start_at(*at)
        reading = prepared and prepared.still_right(self._checkpoints, self._earlier)
        moves, items, repeats = reading or read(
            records, self._checkpoints, self._handlers, self._earlier
        )
        if not moves:
            self.repeats += repeats
            return
        self._moving = moves
        try:
            received, parks = await self._commit(moves, items)
        finally:
            self._moving = {}
        self.records += len(records)
        self.repeats += repeats
        self.applied += len(received)
        self._report(parks)

    async def _commit(
        self, moves: Mapping[Partition, Checkpoint], items: Sequence[Received[Any] | Rejected]
    ) -> tuple[list[Received[Any]], list[Park]]:
        """Apply the items and move the checkpoints. Returns what was applied, and what was parked."""
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
        return received, parks

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
            except (*PASSES, TooManyParked):
                raise
            except Exception:  # noqa: BLE001 - it has failed again, and alone: it is the event
                await self._park_failed(records[0], error)
            return
        middle = len(records) // 2
        for half in (records[:middle], records[middle:]):
            try:
                await self.apply(half)
            except PASSES:
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
