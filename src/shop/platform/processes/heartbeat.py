"""How a worker, which answers no requests, shows that it is well: it writes a file every second.

What it writes is its pulse, and no date. It comes from the event loop that does the work, so a process that is frozen, or whose event
loop is, stops writing by itself. It also stops when one of the worker's loops has not come round
for `STUCK_AFTER`: a loop that waits for a database or a broker comes round with each failure, so
waiting is being well, and only a call that never returns is not. `shop.platform.processes.healthy` is the reader.
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
"""Seconds: twice what the longest single wait may take, the log's 30 s for a confirmation."""

_EVERY = 1.0  # seconds


class Loop(Protocol):
    @property
    def last_turn(self) -> float:
        """When it last came round, by `time.monotonic()`."""
        ...


async def beat(file: Path, loops: Mapping[str, Loop]) -> None:
    """Never returns. The loops' names are for the log."""
    said = ""
    while True:
        now = time.monotonic()
        stuck = [name for name, loop in loops.items() if now - loop.last_turn > STUCK_AFTER]
        trouble = f"stuck: {', '.join(stuck)}" if stuck else ""
        if not stuck:
            try:
                _write(file)  # in no thread: this loop's own life is to be seen
            except OSError as error:  # a full disk, a missing folder: no reason to stop working
                trouble = str(error)
        if trouble != said:
            said = trouble
            if trouble:
                _LOG.error("worker.heartbeat_stopped", reason=trouble, file=str(file))
            else:
                _LOG.info("worker.heartbeat_resumed", file=str(file))
        await asyncio.sleep(_EVERY)


def _write(file: Path) -> None:
    """A reader at that moment finds the previous one, complete."""
    boot, now = pulse()
    new = file.with_name(f"{file.name}.new")
    new.write_text(f"{boot} {now:.3f}")
    os.replace(new, file)  # noqa: PTH105 - as quick as it gets
