"""Ends the sessions of frozen processes, also where PostgreSQL does not.

A process that freezes (SIGSTOP, a paused machine) may hold a row, or the leadership of a relay. PostgreSQL ends
such a session by its timeouts, which it measures by its wall clock. If that clock is set back by a day while a
session is idle, the session stays for a day longer. So workers check as well, by monotonic clocks.
"""

import asyncio
import time

import structlog

from eventspine.backoff import Backoff
from eventspine.database import Connection, Database, execute, translated

_LOG = structlog.get_logger("eventspine.frozen")

LEASE = "eventspine-lease"
"""The `application_name` of sessions that hold an advisory lock for long. They send a query every few
seconds unless they are frozen."""

FROZEN_AFTER = 30.0
"""Seconds without a sign of life. It is longer than PostgreSQL's own timeouts for idle sessions."""

LOOK_EVERY = 5.0  # seconds

# Sessions that should not be idle for long. `state_change` is a wall-clock time, so it is only compared for
# equality with the value of the last look.
_STILL = """
SELECT pid, state_change::text FROM pg_stat_activity AS session
WHERE datname = current_database() AND pg_has_role(usesysid, 'USAGE') AND (
    application_name = 'eventspine' AND state LIKE 'idle in transaction%%'
    OR application_name = %(lease)s AND state LIKE 'idle%%' AND EXISTS (
        SELECT FROM pg_locks WHERE pid = session.pid AND locktype = 'advisory' AND granted
    )
)
"""

_END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %(pid)s AND state_change::text = %(still_since)s
"""


class FrozenSessions:
    """The idle sessions that one worker has seen in one database."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], float] = {}
        """When each session was first seen in its present state, by `time.monotonic()`."""
        self._looked_at = 0.0

    async def look(self, connection: Connection) -> None:
        """End sessions that have been idle for too long. Does nothing if the last look was just now."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        with translated():
            still = await (await execute(connection, _STILL, {"lease": LEASE})).fetchall()
            self._seen = {(pid, at): self._seen.get((pid, at), now) for pid, at in still}
            for (pid, at), since in self._seen.items():
                if now - since >= FROZEN_AFTER:
                    await execute(connection, _END, {"pid": pid, "still_since": at})
                    _LOG.warning("frozen_sessions.ended", pid=pid)


async def end_frozen_sessions(database: Database) -> None:
    """Never returns; cancel it to stop."""
    frozen = FrozenSessions()
    backoff = Backoff(_LOG, "frozen_sessions")
    while True:
        try:
            async with database.connection() as connection:
                await frozen.look(connection)
            backoff.over()
            await asyncio.sleep(LOOK_EVERY)
        except Exception as error:  # noqa: BLE001 - it can wait, whatever it is
            await backoff.after(error)
