"""PostgreSQL processes that serve the connections of a test."""

from eventspine.database import Database
from eventspine.outbox import Transaction
from tests.support.waiting import eventually

# A commit that takes as long as an advisory lock is held by somebody else.
_COMMITS_WAIT = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER commits_wait AFTER INSERT ON notes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();
"""


async def stored(database: Database) -> tuple[list[int], list[int]]:
    """The notes' ids, and the positions in the outbox."""
    ids = await database.fetch("SELECT id FROM notes ORDER BY 1")
    positions = await database.fetch("SELECT position FROM outbox ORDER BY 1")
    return [id_ for (id_,) in ids], [position for (position,) in positions]


async def pid_of(tx: Transaction) -> int:
    ((pid,),) = await tx.fetch("SELECT pg_backend_pid()")
    assert isinstance(pid, int)
    return pid


async def gone(database: Database, pid: int) -> None:
    async def is_gone() -> bool:
        return not await database.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE pid = %(pid)s", {"pid": pid}
        )

    await eventually(is_gone)


async def kill(database: Database, pid: int) -> None:
    await database.fetch("SELECT pg_terminate_backend(%(pid)s)", {"pid": pid})
    await gone(database, pid)


async def waiting_for_a_lock(database: Database, count: int = 1) -> list[int]:
    """The backends that wait, once there are so many."""
    pids: list[int] = []

    async def enough() -> bool:
        rows = await database.fetch(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        )
        pids[:] = [pid for (pid,) in rows]
        return len(pids) >= count

    await eventually(enough)
    return pids
