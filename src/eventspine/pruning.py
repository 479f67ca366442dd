"""Tables that would grow for ever, kept bounded.

Old rows go in chunks, each its own short transaction, far from where new ones come in: the outbox
loses positions at its old end, and nothing that is not relayed; keys go when they have expired; of
what is parked, strangers' records go, since anybody who can write to a topic can add to them. A parked
event of ours holds its key's later ones behind it, and stays until somebody has seen to it.
"""

import asyncio
import time
from typing import NamedTuple

import structlog

from eventspine.database import Database, execute, translated
from eventspine.patience import Patience

_LOG = structlog.get_logger("eventspine.pruning")

_CHUNK = 5000  # rows of a transaction: some 20 ms
_PAUSE = 0.05  # seconds between chunks, so that pruning never takes more than a share of the disk
# Seconds between rounds: at most, at least, and how much longer than its retention a row may stay.
_SELDOM, _OFTEN, _LATE = 30.0, 1.0, 0.1

# By position and by age: what is relayed and older than the retention. The positions are a range,
# as they have no holes, and whatever plan PostgreSQL takes reads that range of the primary key and
# no more. (`IN (SELECT … LIMIT)` does not promise that: planned once for any limit, it may become
# a scan of the whole table for each chunk.)
_PRUNE_OUTBOX = """
DELETE FROM outbox
WHERE position BETWEEN (SELECT min(position) FROM outbox) AND (
    SELECT least(min(position) + %(chunk)s - 1, (SELECT coalesce(min(position), 0) FROM relay))
    FROM outbox
) AND time < now() - make_interval(secs => %(seconds)s)
"""

# Likewise: the index by age finds them, their places in the table delete them.
_PRUNE_KEYS = """
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM idempotency_keys
    WHERE created_at < now() - make_interval(secs => %(seconds)s)
    ORDER BY created_at LIMIT %(chunk)s
))
"""

# What is being retried or discarded at that moment is passed over, as both would wait for the other.
_PRUNE_PARKED = """
DELETE FROM parked WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM parked
    WHERE NOT holds_key AND parked_at < now() - make_interval(secs => %(seconds)s)
    ORDER BY parked_at LIMIT %(chunk)s FOR UPDATE SKIP LOCKED
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
    end. Keys are honoured for `key_seconds`. What is parked and holds no key can be looked at for
    `parked_seconds`.
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
        self._outbox_seconds = outbox_seconds
        self._key_seconds = key_seconds
        self._parked_seconds = parked_seconds
        shortest = min(outbox_seconds, key_seconds, parked_seconds)
        self._every = max(_OFTEN, min(_SELDOM, _LATE * shortest))
        self._patience = Patience(_LOG, "pruning")

    async def run(self) -> None:
        """Never returns; cancel it to stop."""
        while True:
            try:
                await self.prune()
                self._patience.over()
                await asyncio.sleep(self._every)
            except Exception as error:  # noqa: BLE001 - it can wait, whatever it is
                await self._patience.after(error)

    async def prune(self) -> Pruned:
        """One round, to the end."""
        began = time.monotonic()
        outbox = await self._in_chunks(_PRUNE_OUTBOX, self._outbox_seconds)
        keys = await self._in_chunks(_PRUNE_KEYS, self._key_seconds)
        parked = await self._in_chunks(_PRUNE_PARKED, self._parked_seconds)
        pruned = Pruned(outbox, keys, parked)
        if any(pruned):
            seconds = round(time.monotonic() - began, 3)
            _LOG.info("pruned", **pruned._asdict(), seconds=seconds)
        return pruned

    async def _in_chunks(self, delete: str, seconds: float) -> int:
        gone = 0
        while True:
            async with self._database.connection() as connection:
                with translated():
                    async with connection.transaction():
                        if not (await (await execute(connection, _LOCK)).fetchall())[0][0]:
                            return gone
                        deleted = await execute(
                            connection, delete, {"chunk": _CHUNK, "seconds": seconds}
                        )
            gone += deleted.rowcount
            if deleted.rowcount < _CHUNK:
                return gone
            await asyncio.sleep(_PAUSE)
