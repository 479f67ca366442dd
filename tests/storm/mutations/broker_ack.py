"""An append returns before the log has confirmed it, and the relay saves its position.

Where nothing that was on its way arrives, the next relay sees that the log ends before its position,
and feeds it again. So what brings it to light is a loss with something behind it: on Kafka, workers
that die with messages in transit, of which some partitions get theirs; on a table, a server that
goes away and comes back.
"""

import asyncio
from contextlib import suppress

from eventspine.backlog import Batch
from eventspine.interceptors import Interceptor, Proceed
from eventspine.log import LogUnavailable

FAULTS = ("crash-in-transit", "kill-log")


def apply() -> Interceptor:
    return _DoesNotWait()


class _DoesNotWait(Interceptor):
    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._going_on: set[asyncio.Task[None]] = set()

    async def append(self, batch: Batch, proceed: Proceed) -> None:
        async def when_its_turn_comes() -> None:
            # In order, as a producer would.
            async with self._turn:
                with suppress(LogUnavailable):
                    await proceed()

        task = asyncio.create_task(when_its_turn_comes())
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
