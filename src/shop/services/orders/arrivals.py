"""Orders from unknown customers wait together for the customers' events.

A customer's event arrives a few milliseconds after the customer was created. An order that arrives earlier waits. All
waiting orders ask the database with one query at a time. Their number has a limit, because clients could send
orders from any number of invented customers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from eventspine.errors import Overloaded

Look = Callable[[Collection[int]], Awaitable[Collection[int]]]
"""Returns which of these customers are known."""

_EVERY = 0.002  # seconds
# The pauses grow with the waiting time: about twenty queries in 2 s.
_LESS_OFTEN = 3


class _Waiting(NamedTuple):
    look_at: float
    number: int
    """Makes entries with the same time distinct."""
    since: float
    until: float
    customer: int
    arrived: asyncio.Future[bool]


class Arrivals:
    """The waiting orders. At most `max_waiting` wait; the next one is refused with `Overloaded`."""

    concurrency = 1

    def __init__(self, look: Look, *, max_waiting: int) -> None:
        self.name = "arrivals"
        self.sizes: list[int] = []
        self.refused_full = 0
        self.refused_late = 0
        self._look = look
        self._max_waiting = max_waiting
        self._waiting: list[_Waiting] = []
        self._present = 0
        self._number = count()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many orders wait for their customers."""
        return self._present

    async def wait(self, customer: int, until: float) -> bool:
        """Wait for the customer until `until`, by the loop's clock. Returns whether the customer is known.

        Raises `Unavailable`.
        """
        if self._present >= self._max_waiting:
            self.refused_full += 1
            raise Overloaded(f"{self._present} orders are already waiting for their customers")
        loop = asyncio.get_running_loop()
        now = loop.time()
        arrived: asyncio.Future[bool] = loop.create_future()
        first = min(now + _EVERY, until)
        heappush(self._waiting, _Waiting(first, next(self._number), now, until, customer, arrived))
        if self._task is None:
            self._task = asyncio.create_task(self._watch())
        self._present += 1
        try:
            return await arrived
        finally:
            self._present -= 1

    async def close(self) -> None:
        """Wait until no order is waiting any more."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        now = asyncio.get_running_loop().time
        try:
            while self._waiting:
                await asyncio.sleep(_EVERY)
                due = self._take_due(now())
                if due:
                    await self._answer(due, now())
        finally:
            self._task = None

    def _take_due(self, now: float) -> list[_Waiting]:
        due = []
        while self._waiting and self._waiting[0].look_at <= now:
            waiting = heappop(self._waiting)
            if not waiting.arrived.done():
                due.append(waiting)
        return due

    async def _answer(self, due: list[_Waiting], now: float) -> None:
        """Answer orders whose customer is known or whose time is over. `now` is the time before the query, because
        a missing customer may have arrived since.
        """
        try:
            known = await self._look({waiting.customer for waiting in due})
        except Exception as error:  # noqa: BLE001 - passed on to the waiting orders
            for waiting in due:
                if not waiting.arrived.done():
                    waiting.arrived.set_exception(error)
            return
        for waiting in due:
            if waiting.arrived.done():
                continue
            if waiting.customer in known:
                waiting.arrived.set_result(True)
            elif now >= waiting.until:
                waiting.arrived.set_result(False)
            else:
                pause = max(_EVERY, (now - waiting.since) / _LESS_OFTEN)
                heappush(self._waiting, waiting._replace(look_at=min(now + pause, waiting.until)))
