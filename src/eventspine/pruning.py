"""Deletes old rows, so that tables stay small.

Rows are deleted in chunks, each in a short transaction, away from where new rows are inserted. From the outbox,
relayed events are deleted, the oldest first. Keys are deleted when they have expired. Of the dead letters only
foreign records are deleted, because any writer to a topic can add to them. A parked event blocks later events of
its key, and stays until an operator acts.

The age of a row is measured in running time (`running_time`), not by a wall clock.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from eventspine.backoff import Backoff
from eventspine.database import Database, execute, translated
from eventspine.running_time import LONGEST_STEP, RunningTime

_LOG = structlog.get_logger("eventspine.pruning")

_CHUNK = 5000  # rows in a transaction, which takes about 20 ms
_PAUSE = 0.05  # seconds between chunks, so that pruning uses only a part of the disk bandwidth
# Seconds between rounds, at most and at least; and the share of its retention by which a row may stay longer.
_SELDOM, _OFTEN, _LATE = 30.0, 1.0, 0.1
_MARKS = 100  # marks in the outbox's retention time

KEY_MARGIN = 2 * LONGEST_STEP
"""Seconds that keys are kept longer. One look may add too much running time, and some time passes between
the moment a key is stored and the client's answer."""

# A mark stores the outbox's last position and the running time. All rows up to that position are at least as
# old. If the position has not changed, the older mark remains.
_MARK = """
INSERT INTO outbox_marks (position, running_ms)
SELECT position, %(now)s FROM outbox_head
WHERE NOT EXISTS (SELECT FROM outbox_marks WHERE running_ms > %(now)s - %(apart)s)
ON CONFLICT DO NOTHING
"""

# Deletes the marks that are old enough to prune by, except the last of them.
_FORGET_MARKS = """
DELETE FROM outbox_marks
WHERE position < (SELECT max(position) FROM outbox_marks WHERE running_ms <= %(before)s)
"""

# Deletes by position alone: relayed rows before an old mark. Positions have no gaps, so they are a range.
# Every plan of PostgreSQL reads only that range of the primary key. (`IN (SELECT … LIMIT)` does not guarantee
# that. It is planned once for any limit, and may scan the whole table for each chunk.)
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

# Like the outbox: the index by age finds the rows, and their `ctid` deletes them.
_PRUNE_KEYS = """
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM idempotency_keys
    WHERE running_ms <= %(before)s
    ORDER BY running_ms LIMIT %(chunk)s
))
"""

# Skips rows that are being retried or discarded at the moment; otherwise both could deadlock.
_PRUNE_PARKED = """
DELETE FROM parked WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM parked
    WHERE NOT holds_key AND running_ms <= %(before)s
    ORDER BY running_ms LIMIT %(chunk)s FOR UPDATE SKIP LOCKED
))
"""

# Only one worker of a service prunes at a time. The others find the lock taken and skip the round.
_LOCK = "SELECT pg_try_advisory_xact_lock(7408)"


class Pruned(NamedTuple):
    """How many rows were deleted."""

    outbox: int
    idempotency_keys: int
    parked: int


class Aged(NamedTuple):
    """A table of the service's own, whose rows are deleted when they are older than `seconds`.

    `column` holds the running time at which a row was stored, and has an index.
    """

    table: str
    column: str
    seconds: float

    @property
    def delete(self) -> str:
        # A row in use is skipped: it may be about to become younger.
        return f"""
        DELETE FROM {self.table} WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM {self.table} WHERE {self.column} <= %(before)s
            ORDER BY {self.column} LIMIT %(chunk)s FOR UPDATE SKIP LOCKED
        ))
        """  # noqa: S608 - names from the code


class Pruner:
    """Keeps one service's tables bounded, while `run` is running.

    Relayed rows are kept for `outbox_seconds`, so that a log that lost its end can be fed again. Keys
    are valid for at least `key_seconds`. Foreign records stay parked for `parked_seconds`. While no
    pruner runs, this time does not pass.
    """

    def __init__(
        self,
        database: Database,
        *,
        outbox_seconds: float,
        key_seconds: float,
        parked_seconds: float,
        aged: Sequence[Aged] = (),
    ) -> None:
        self._database = database
        self._aged = aged
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
                if self._aged:
                    await self.prune_aged()
                self._backoff.over()
                await asyncio.sleep(self._every)
            except Exception as error:  # noqa: BLE001 - it can wait, whatever it is
                await self._backoff.after(error)

    async def prune(self) -> Pruned:
        """Run one complete round."""
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

    async def prune_aged(self) -> dict[str, int]:
        """Run one round over the service's own tables. Returns the number of deleted rows of each."""
        now = await self._running_time.look()
        gone = {each.table: 0 for each in self._aged}
        for each in self._aged:
            gone[each.table] += await self._in_chunks(each.delete, now - _ms(each.seconds))
        if any(gone.values()):
            _LOG.info("pruning.aged_finished", **gone)
        return gone

    async def _mark(self, now: int) -> None:
        retention = _ms(self._outbox_seconds)
        async with self._database.connection() as connection:
            with translated():
                await execute(connection, _MARK, {"now": now, "apart": retention // _MARKS})
                await execute(connection, _FORGET_MARKS, {"before": now - retention})

    async def _in_chunks(self, delete: str, before: int) -> int:
        """Delete rows in chunks. `before` is a running time in milliseconds; younger rows stay."""
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
