"""Deletes old rows, so that tables stay small.

Rows are deleted in chunks, each in a short transaction, away from where new rows are inserted. From the outbox,
relayed events are deleted, the oldest first. Keys are deleted when they have expired. Of the dead letters only
foreign records are deleted, because any writer to a topic can add to them. A parked event blocks later events of
its key, and stays until an operator acts.

The age of a row is measured in running time (`running_time`), not by a wall clock.
"""

import asyncio
import time
from typing import NamedTuple

import structlog

from eventspine.backoff import Backoff
from eventspine.database import Database, execute, translated
from eventspine.running_time import LONGEST_STEP, RunningTime

_LOG = structlog.get_logger("eventspine.pruning")

_CHUNK = 5000  # rows of a transaction: some 20 ms
_PAUSE = 0.05  # seconds between chunks, so that pruning never takes more than a share of the disk
# Seconds between rounds: at most, at least, and how much longer than its retention a row may stay.
_SELDOM, _OFTEN, _LATE = 30.0, 1.0, 0.1
_MARKS = 100  # of the outbox, within its retention

KEY_MARGIN = 2 * LONGEST_STEP
"""Seconds that keys stay beyond their time: for what one look may add too much, and for what passes
between the moment a key is stored and its client's answer."""

# How far the outbox had come, and when: all up to there is at least as old. Where it has not moved,
# the older mark stands.
_MARK = """
INSERT INTO outbox_marks (position, running_ms)
SELECT position, %(now)s FROM outbox_head
WHERE NOT EXISTS (SELECT FROM outbox_marks WHERE running_ms > %(now)s - %(apart)s)
ON CONFLICT DO NOTHING
"""

# All but the last of those that are old enough to prune by.
_FORGET_MARKS = """
DELETE FROM outbox_marks
WHERE position < (SELECT max(position) FROM outbox_marks WHERE running_ms <= %(before)s)
"""

# By position alone: what is relayed and stands before an old mark. The positions are a range,
# as they have no holes, and whatever plan PostgreSQL takes reads that range of the primary key and
# no more. (`IN (SELECT … LIMIT)` does not promise that: planned once for any limit, it may become
# a scan of the whole table for each chunk.)
_PRUNE_OUTBOX = """
DELETE FROM outbox
WHERE position BETWEEN (SELECT min(position) FROM outbox) AND (
    SELECT least(
        min(position) + %(chunk)s - 1,
        (SELECT coalesce(min(position), 0) FROM relay),
        (SELECT coalesce(max(position), 0) FROM outbox_marks WHERE running_ms <= %(before)s)
    )
    FROM outbox
)
"""

# Likewise: the index by age finds them, their places in the table delete them.
_PRUNE_KEYS = """
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM idempotency_keys
    WHERE running_ms <= %(before)s
    ORDER BY running_ms LIMIT %(chunk)s
))
"""

# What is being retried or discarded at that moment is passed over, as both would wait for the other.
_PRUNE_PARKED = """
DELETE FROM parked WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM parked
    WHERE NOT holds_key AND running_ms <= %(before)s
    ORDER BY running_ms LIMIT %(chunk)s FOR UPDATE SKIP LOCKED
))
"""

# One of a service's workers prunes at a time; the others find the lock taken and go on.
_LOCK = "SELECT pg_try_advisory_xact_lock(7408)"


class Pruned(NamedTuple):
    """How many rows went."""

    outbox: int
    idempotency_keys: int
    parked: int


class Pruner:
    """Keeps one service's tables bounded, while `run` is left running.

    Relayed rows are kept for `outbox_seconds`: long enough to feed a log again that has lost its
    end. Keys are honoured for `key_seconds`, and not a second less. What is parked and holds no key
    can be looked at for `parked_seconds`. While no pruner runs, none of these seconds pass.
    """

    def __init__(
        self,
        database: Database,
        *,
        outbox_seconds: float,
        key_seconds: float,
        parked_seconds: float,
    ) -> None:
        self._database = database
        self._running_time = RunningTime(database)
        self._outbox_seconds = outbox_seconds
        self._key_seconds = key_seconds
        self._parked_seconds = parked_seconds
        shortest = min(outbox_seconds, key_seconds, parked_seconds)
        self._every = max(_OFTEN, min(_SELDOM, _LATE * shortest))
        self._backoff = Backoff(_LOG, "pruning")

    async def run(self) -> None:
        """Never returns; cancel it to stop."""
        while True:
            try:
                await self.prune()
                self._backoff.over()
                await asyncio.sleep(self._every)
            except Exception as error:  # noqa: BLE001 - it can wait, whatever it is
                await self._backoff.after(error)

    async def prune(self) -> Pruned:
        """One round, to the end."""
        began = time.monotonic()
        now = await self._running_time.look()
        await self._mark(now)
        outbox = await self._in_chunks(_PRUNE_OUTBOX, now - _ms(self._outbox_seconds))
        keys = await self._in_chunks(_PRUNE_KEYS, now - _ms(self._key_seconds + KEY_MARGIN))
        parked = await self._in_chunks(_PRUNE_PARKED, now - _ms(self._parked_seconds))
        pruned = Pruned(outbox, keys, parked)
        if any(pruned):
            seconds = round(time.monotonic() - began, 3)
            _LOG.info("pruning.finished", **pruned._asdict(), seconds=seconds)
        return pruned

    async def _mark(self, now: int) -> None:
        retention = _ms(self._outbox_seconds)
        async with self._database.connection() as connection:
            with translated():
                await execute(connection, _MARK, {"now": now, "apart": retention // _MARKS})
                await execute(connection, _FORGET_MARKS, {"before": now - retention})

    async def _in_chunks(self, delete: str, before: int) -> int:
        """`before` is a running time in milliseconds; what is younger stays."""
        gone = 0
        while True:
            async with self._database.connection() as connection:
                with translated():
                    async with connection.transaction():
                        if not (await (await execute(connection, _LOCK)).fetchall())[0][0]:
                            return gone
                        deleted = await execute(
                            connection, delete, {"chunk": _CHUNK, "before": before}
                        )
            gone += deleted.rowcount
            if deleted.rowcount < _CHUNK:
                return gone
            await asyncio.sleep(_PAUSE)


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
