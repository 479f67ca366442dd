"""What a service's database says of its outbox: what waits for the log, and whether anything feeds the log.

A worker is the only process that reaches the log. While the log does not answer, it holds an advisory lock, so that
an API, which knows only the database, can say so. A worker that dies loses its lock.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

LOG_AWAY = "SELECT pg_advisory_lock_shared(7412)"
"""Taken by a worker that gets no answer from the log."""

# Feeding the log is an advisory lock, too: of the relay (`eventspine.relay.LEAD`), or of the process that follows change
# data capture (`eventspine.captured`).
_NOW = """
SELECT head.position, coalesce(relay.position, 0),
    (SELECT extract(epoch FROM clock_timestamp() - outbox.time) FROM outbox
     WHERE outbox.position > coalesce(relay.position, 0) ORDER BY outbox.position LIMIT 1),
    coalesce(locks.held && ARRAY[7405, 7411]::bigint[], false), coalesce(7412 = ANY(locks.held), false)
FROM outbox_head AS head LEFT JOIN relay ON relay.source = %(source)s,
    (SELECT array_agg(DISTINCT objid::bigint) AS held
     FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
     WHERE pg_database.datname = current_database() AND locktype = 'advisory' AND granted
        AND classid = 0 AND objid IN (7405, 7411, 7412) AND objsubid = 1) AS locks
"""


class OutboxNow(NamedTuple):
    published: int
    """The last position that was given out."""
    relayed: int
    """The position up to which the relay has fed the log."""
    oldest_seconds: float
    """The age of the oldest event that waits, by the database's clock; 0 if none waits."""
    led: bool
    """Whether a worker leads the relay."""
    log_away: bool
    """Whether a worker gets no answer from the log."""

    @property
    def waiting(self) -> int:
        return max(0, self.published - self.relayed)


async def outbox_now(fetch: Callable[..., Awaitable[list[Any]]], source: str) -> OutboxNow:
    """`fetch` is that of a database. Raises what it raises."""
    [(published, relayed, oldest, led, log_away)] = await fetch(_NOW, {"source": source})
    return OutboxNow(published, relayed, max(0.0, float(oldest or 0)), led, log_away)
