"""CPU time of other processes, user and system, with the threads that have ended."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS = 100  # a second, in /proc


def seconds(pid: int) -> float:
    """The CPU time of a process since it started, in seconds. Linux measures it in nanoseconds."""
    # CPUCLOCK_SCHED of another process, as clock_getcpuclockid(3) computes it.
    return time.clock_gettime((~pid << 3) | 2)


def of_children(pid: int) -> float:
    """The CPU time of a process's children, those that have ended included. For all sessions of PostgreSQL."""
    while True:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ended = (int(fields[13]) + int(fields[14])) / _TICKS
        # One that ends meanwhile, such as an autovacuum worker, is among those that have ended next time.
        with suppress(OSError):
            return ended + sum(seconds(child) for child in _children(pid))


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())
