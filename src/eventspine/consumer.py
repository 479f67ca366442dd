"""The consumer: log → handlers; the checkpoint moves in the transaction that applies the events.

For every partition a consumer has one row: the next offset to read, and the position of the last event
applied. Both move together with the applied events or not at all. So an event is applied once, however often
it is read:

* A relay that crashed repeats a batch. Its positions are not above the last one, so they are dropped.
* Two members believe that they hold the same partition. The row is moved by compare-and-set, so one of them
  finds it moved, rolls back, and continues from the row in the database.

Nothing is applied past a failure. While there is a backlog, a member reads and decodes the next records as it
applies the last ones, and drops them after a failure or a pause. Then it reads its checkpoint from the database
before it continues: a crash of the server may have undone what the member remembers.

A partition with too many events that can't be applied pauses alone. It is not read meanwhile, so nothing of it
has to be stored, and the other partitions keep their speed.
"""

import asyncio
import time
from contextlib import suppress
from functools import partial

import structlog

from eventspine.applying import PASSES, Applier, CheckpointConflict
from eventspine.backoff import Backoff
from eventspine.database import Database
from eventspine.dead_letters import TooManyParked
from eventspine.event import NotAnEvent, envelope
from eventspine.handlers import Handlers
from eventspine.log import EventLog, LogUnavailable, Record
from eventspine.outbox import transaction
from eventspine.read_ahead import Prepared, ReadAhead
from eventspine.reading import Checkpoint, Partition
from eventspine.steps import GROUP
from eventspine.which_log import take_up

_LOG = structlog.get_logger("eventspine.consumer")

_CHECKPOINTS = """
SELECT topic, partition, log, next_offset, last_position FROM cursors WHERE consumer = %(consumer)s
"""

_WHICH_LOG_EVERY = 10.0  # seconds; a topic may be recreated while it is read


class Consumer(Applier):
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
        super().__init__(database, handlers, most_parked)
        self._log = log
        self._batch = batch
        self._backoff = Backoff(_LOG, "consumer", consumer=handlers.consumer)
        self._stopped: dict[Partition, Backoff] = {}
        self._reads_next: dict[Partition, int] = {}
        self._looked_at = 0.0
        self._at_work = asyncio.Lock()
        """Held while records are applied: a checkpoint must not be taken up meanwhile."""

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
            self._handlers.consumer, self._handlers.topics, self._start_at_in_turn
        )
        ahead = ReadAhead(subscription, self._prepare)
        certain = True
        most = self._batch
        try:
            while True:
                try:
                    if not certain:
                        await self._find_back(ahead)
                    certain = False
                    batch = await ahead.poll(most)
                    if batch.records:
                        # The batch may be too large for the statement timeout or for the memory,
                        # which looks like temporary trouble. So halve it, and grow slowly again.
                        tried, most = most, max(1, most // 2)
                        more = min(self._batch, tried + tried // 8 + 1)
                        async with self._at_work:
                            if len(batch.records) >= tried:
                                ahead.begin(more)
                            await self._receive(ahead, batch)
                        certain = not ahead.dropped
                        most = more
                    self._backoff.over()
                except CheckpointConflict as error:
                    _LOG.debug("consumer.batch_discarded", reason=str(error))
                except Exception as error:  # noqa: BLE001 - nothing may end a consumer
                    await self._backoff.after(error)
        finally:
            await ahead.close()

    async def _find_back(self, ahead: ReadAhead) -> None:
        """Continue from the database's checkpoints, not from what this member remembers."""
        await ahead.stop()
        for record in ahead.dropped:
            self._reads_next[record.topic, record.partition] = record.offset + 1
        ahead.dropped.clear()
        subscription = ahead.subscription
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

    async def _receive(self, ahead: ReadAhead, batch: Prepared) -> None:
        around = self._database.steps.receive
        if around is None:
            await self._apply_read(ahead, batch)
        else:
            GROUP.set(self._handlers.consumer)
            await around(batch.records, partial(self._apply_read, ahead, batch))

    async def _apply_read(self, ahead: ReadAhead, batch: Prepared) -> None:
        partitions: dict[Partition, list[Record]] = {}
        records = batch.records
        for record in records:
            partitions.setdefault((record.topic, record.partition), []).append(record)
        for at, share in partitions.items():
            self._reads_next[at] = share[-1].offset + 1
        too_many: dict[Partition, TooManyParked] = {}
        try:
            await self.apply(records, batch)
        except PASSES:
            raise
        except Exception as error:  # noqa: BLE001 - after any error, the consumer continues
            too_many = await self._isolate_each(partitions, error)
        for at in partitions:
            await ahead.subscription.commit(*at, self._checkpoints[at].next_offset)
            if at in too_many:
                await self._pause(ahead, at, too_many[at])
            elif at in self._stopped:
                self._stopped[at].over()

    async def _pause(self, ahead: ReadAhead, at: Partition, why: TooManyParked) -> None:
        """Pause the partition, for longer each time. The others continue."""
        if at not in self._stopped:
            consumer = self._handlers.consumer
            self._stopped[at] = Backoff(
                _LOG, "consumer", consumer=consumer, topic=at[0], partition=at[1]
            )
        await ahead.stop()
        await ahead.subscription.pause(*at, self._stopped[at].pause(why))
        self._reads_next[at] = self._checkpoints[at].next_offset

    async def _start_at_in_turn(self, topic: str, partition: int) -> int:
        async with self._at_work:
            return await self._start_at(topic, partition)

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
