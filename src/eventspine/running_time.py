"""Running time: how long the workers of a service have run. It ages rows without a wall clock.

Retention is measured in running time, never by a date. A wall clock may be set forward or back, be wrong for
hours, or belong to another server after a failover. A row whose age depends on it could be deleted too early.

The count is in the table `running_time`, in milliseconds, in the same database as the rows. So a backup or a
replica has both. Each worker looks at it from time to time. If the count is the same as last time, no other
worker has counted in between, so it adds the time that has passed, by a monotonic clock. If the count is higher,
another worker has counted, and it adds nothing. So each addition stands for a period of its own. A row is stored
with the count at that moment. From then on, the count grows by at most the real time that passes, plus
`LONGEST_STEP`.

It may grow by less: nothing is counted while no worker runs or while machines are suspended, and a worker's
first look adds nothing. Rows then stay longer.
"""

import time

from eventspine.database import Database
from eventspine.errors import Unavailable

LONGEST_STEP = 60.0
"""The most seconds that one look adds. The worker may have been frozen, and a row stored just now."""

# The raw hardware clock, where the system has one. A time service may correct the wall clock by making the
# monotonic clock run up to 8 % faster or slower for days.
_CLOCK = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)

# A compare-and-set: if two workers found the same count, only one of them adds.
_COUNT = """
WITH counted AS (
    UPDATE running_time SET ms = ms + %(passed)s WHERE ms = %(found)s AND %(passed)s > 0 RETURNING ms
)
SELECT coalesce((SELECT ms FROM counted), (SELECT ms FROM running_time))
"""


def _now() -> float:
    return time.clock_gettime(_CLOCK)


class RunningTime:
    """One worker's looks at its service's count."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: int | None = None
        self._at = 0.0
        """When the count was last known to have that value."""

    async def look(self) -> int:
        """Add what has passed, unless another worker has, and give the count in milliseconds.

        Raises `Unavailable`.
        """
        passed = 0.0 if self._found is None else min(_now() - self._at, LONGEST_STEP)
        # If a stale connection makes it run twice, the second run finds another count and adds nothing.
        [(ms,)] = await self._database.fetch(
            _COUNT, {"found": self._found, "passed": int(1000 * passed)}
        )
        if ms is None:
            raise Unavailable("the spine's tables are empty; run `shop migrate`")
        self._found, self._at = ms, _now()
        return int(ms)
