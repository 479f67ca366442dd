"""A worker answers no requests, so it shows that it is healthy by writing a file every second.

It writes a time of the monotonic clock. The event loop that does the work also writes the file. So if the
process or its event loop is frozen, no heartbeat is written. It also stops if one of the worker's loops makes
no turn for `STUCK_AFTER`. A loop that waits for a database or a broker makes a turn with each failed attempt.
So a waiting worker is healthy, and a worker with a call that never returns is not.
`shop.platform.processes.healthy` reads the file.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import structlog

from shop.platform.processes.healthy import pulse

_LOG = structlog.get_logger("shop.worker")

STUCK_AFTER = 60.0
"""Seconds. The longest single wait is the log's confirmation, with 30 s; this is twice as long."""

_EVERY = 1.0  # seconds


class Loop(Protocol):
    @property
    def last_turn(self) -> float:
        """When the loop last made a turn, by `time.monotonic()`."""
        ...


async def beat(file: Path, loops: Mapping[str, Loop]) -> None:
    """Write heartbeats. Never returns. The names of the loops are used in log lines."""
    said = ""
    while True:
        now = time.monotonic()
        stuck = [name for name, loop in loops.items() if now - loop.last_turn > STUCK_AFTER]
        trouble = f"stuck: {', '.join(stuck)}" if stuck else ""
        if not stuck:
            try:
                _write(file)  # not in a thread: it shows that this event loop runs
            except OSError as error:  # a full disk or a missing folder must not stop the worker
                trouble = str(error)
        if trouble != said:
            said = trouble
            if trouble:
                _LOG.error("worker.heartbeat_stopped", reason=trouble, file=str(file))
            else:
                _LOG.info("worker.heartbeat_resumed", file=str(file))
        await asyncio.sleep(_EVERY)


def _write(file: Path) -> None:
    """Write atomically: a reader finds either the previous or the new heartbeat."""
    boot, now = pulse()
    new = file.with_name(f"{file.name}.new")
    new.write_text(f"{boot} {now:.3f}")
    os.replace(new, file)  # noqa: PTH105 - as quick as it gets
