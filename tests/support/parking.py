"""A copy of the notes that cannot apply some of them, and what is parked there."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors
from psycopg_pool import PoolTimeout

from eventspine import dead_letters
from eventspine.consumer import Consumer
from eventspine.database import Database
from eventspine.dead_letters import Parked
from eventspine.errors import OutcomeUnknown, Unavailable
from eventspine.handlers import Handlers
from eventspine.log import LogUnavailable
from eventspine.outbox import Transaction
from eventspine.received import Received
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.notes import TOPIC, NoteChanged, NoteEvent, NoteTaken


class Copy:
    """The service that listens. It can't apply what is `broken`, a note or one version of it."""

    def __init__(self, *broken: int | tuple[int, int]) -> None:
        self.broken = set(broken)
        self.troubles: list[Exception] = []
        """What will be raised next, once each, whatever the event."""

    def handlers(self) -> Handlers:
        async def taken(tx: Transaction, received: Sequence[Received[NoteTaken]]) -> None:
            await notes.taken(tx, received)
            self._break([one.event for one in received])

        async def changed(tx: Transaction, received: Sequence[Received[NoteChanged]]) -> None:
            await notes.changed(tx, received)
            self._break([one.event for one in received])

        return Handlers("copy", {NoteTaken: taken, NoteChanged: changed})

    def consumer(self, database: Database, log: MemoryLog, **options: Any) -> Consumer:
        return Consumer(database, log, self.handlers(), **options)

    async def retry(self, database: Database, id_: int, **options: Any) -> dead_letters.Retried:
        return await dead_letters.retry(database, self.handlers(), TOPIC, str(id_), **options)

    def _break(self, events: Sequence[NoteEvent]) -> None:
        if self.troubles:
            raise self.troubles.pop(0)
        for one in events:
            if self.broken & {one.id, (one.id, one.version)}:
                raise ValueError(f"note {one.id}, version {one.version} is broken")


def put(log: MemoryLog, *events: NoteEvent) -> None:
    """Behind what is there; positions count the records of all partitions."""
    for one in events:
        position = sum(map(len, log.partitions)) + 1
        log.put(one.id % len(log.partitions), notes.wire(position, one))


async def parked(database: Database, **which: Any) -> list[Parked]:
    return await dead_letters.find(database, "copy", **which)


async def places(database: Database) -> list[tuple[str | None, int | None, str]]:
    return [(each.key, each.position, each.cause) for each in await parked(database)]


async def has_parked(database: Database, count: int) -> bool:
    return len(await parked(database)) == count


def passing() -> list[Exception]:
    return [
        Unavailable("away"), OutcomeUnknown("nobody knows"), LogUnavailable("away"),
        TimeoutError(), ConnectionResetError(), MemoryError(), PoolTimeout(),
        psycopg.OperationalError("the connection is lost"),
        errors.DeadlockDetected(), errors.SerializationFailure(), errors.LockNotAvailable(),
        errors.QueryCanceled(), errors.AdminShutdown(), errors.DiskFull(), errors.OutOfMemory(),
        errors.TooManyConnections(), errors.ReadOnlySqlTransaction(),
        errors.IdleInTransactionSessionTimeout(), errors.CannotConnectNow(),
    ]  # fmt: skip
