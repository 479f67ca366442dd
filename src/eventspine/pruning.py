"""Tables that would grow for ever, kept bounded.

Old rows go in chunks, each its own short transaction, far from where new ones come in: the outbox
loses positions at its old end, and nothing that is not relayed; keys go when they have expired.
Parked events stay until somebody has seen to them.
"""

import asyncio
import time

import structlog

from eventspine.database import Database, execute, translated
from eventspine.patience import Patience

_LOG = structlog.get_logger("eventspine.pruning")

_CHUNK = 5000  # rows of a transaction: some 20 ms
_PAUSE = 0.05  # seconds between chunks, so that pruning never takes more than a share of the disk
_EVERY = 30.0  # seconds between rounds

# By position and by age: what is relayed and older than the retention. A round with nothing to do
# reads a chunk's worth of the primary key, and no more.
_PRUNE_OUTBOX = """
DELETE FROM outbox WHERE position IN (
    SELECT position FROM outbox
    WHERE position <= (SELECT coalesce(min(position), 0) FROM relay)
    ORDER BY position LIMIT %(chunk)s
) AND time < now() - make_interval(secs => %(seconds)s)
"""

_PRUNE_KEYS = """
DELETE FROM idempotency_keys WHERE key IN (
    SELECT key FROM idempotency_keys
    WHERE created_at < now() - make_interval(secs => %(seconds)s)
    LIMIT %(chunk)s
)
"""

# One of a service's workers prunes at a time; the others find the lock taken and go on.
_LOCK = "SELECT pg_try_advisory_xact_lock(7408)"


class Pruner:
    """Keeps one service's outbox and idempotency keys bounded, while `run` is left running.

    Relayed rows are kept for `outbox_seconds`: long enough to feed a log again that has lost its
    end. Keys are honoured for `key_seconds`.
    """

    def __init__(self, database: Database, *, outbox_seconds: float, key_seconds: float) -> None:
        self._database = database
        self._outbox_seconds = outbox_seconds
        self._key_seconds = key_seconds
        self._patience = Patience(_LOG, "pruning")

    async def run(self) -> None:
        """Never returns; cancel it to stop."""
        while True:
            try:
                await self.prune()
                self._patience.over()
                await asyncio.sleep(_EVERY)
            except Exception as error:  # noqa: BLE001 - it can wait, whatever it is
                await self._patience.after(error)

    async def prune(self) -> tuple[int, int]:
        """One round, to the end; how many outbox rows and how many keys went."""
        began = time.monotonic()
        outbox = await self._in_chunks(_PRUNE_OUTBOX, self._outbox_seconds)
        keys = await self._in_chunks(_PRUNE_KEYS, self._key_seconds)
        if outbox or keys:
            seconds = round(time.monotonic() - began, 3)
            _LOG.info("pruned", outbox=outbox, idempotency_keys=keys, seconds=seconds)
        return outbox, keys

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
