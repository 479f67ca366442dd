"""Time that no wall clock can make leap: for how long a service's workers have run, as its database counts.

What is kept for a time is pruned by this count and never by a date. A wall clock may be set forward or
back, be wrong for hours, or be another server's after a failover. A row whose age is told by it could
go long before its time.

The count stands in the table `running_time`, in milliseconds, beside the rows that it ages: a backup or
a replica holds both as they belong together. Each worker looks at it from time to time. If it finds
what it found the last time, no other worker has counted in between, so it adds what has passed since, by a clock
that only measures. If it finds more, another worker has counted, and it adds nothing. So each addition
stands for a batch of time of its own. Of a row that is stored with the count beside it, this follows:
the count never grows by more than what has really passed since, plus `LONGEST_STEP`.

It may well grow by less: nothing is counted while no worker runs, nor while machines are suspended,
and a worker that looks for the first time can add nothing. Rows then stay for longer.
"""

import time

from eventspine.database import Database
from eventspine.errors import Unavailable

LONGEST_STEP = 60.0
"""Seconds added at most by one look: a worker may have been frozen, and a row stored just now."""

# The hardware's own pace, where the system tells it. A time service may correct a wall clock by letting
# the monotonic clock run faster or slower, by 8 % for days.
_CLOCK = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)

# A compare-and-set: of two workers that found the same, one adds.
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
        """When that was known to be what stands there."""

    async def look(self) -> int:
        """Add what has passed, unless another worker has, and give the count in milliseconds.

        Raises `Unavailable`.
        """
        passed = 0.0 if self._found is None else min(_now() - self._at, LONGEST_STEP)
        # Should it be asked twice, since the connection was stale, the second finds another count.
        [(ms,)] = await self._database.fetch(
            _COUNT, {"found": self._found, "passed": int(1000 * passed)}
        )
        if ms is None:
            raise Unavailable("the spine's tables are empty; run `shop migrate`")
        self._found, self._at = ms, _now()
        return int(ms)
