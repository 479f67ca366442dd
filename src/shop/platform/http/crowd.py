"""The limit of connections, and what happens at the limit.

Most connections of a server are idle: clients' pools keep them for the next request. So a new connection is not
refused because of them. The connection that has been idle the longest is closed, and a few more with it, so that
not every new connection causes a search. Only if every connection is busy, a new one is refused.
"""

from collections.abc import Collection
from heapq import nsmallest
from math import inf
from time import monotonic
from typing import Protocol

import structlog

_LOG = structlog.get_logger("shop.web")

_FEWEST_TOLD, _MOST_TOLD = 8, 64
_AT_ONCE = 64
"""One in so many is closed at once, where idle ones are."""
_LOOK_AGAIN_AFTER = 0.1
"""Seconds after which it looks for idle ones again, when there were too few: it takes a look at all."""
_SAY_EVERY = 10.0  # seconds


class Connection(Protocol):
    def idle_until(self) -> float | None:
        """When it would be closed as nothing is asked; None while something is."""

    def close_idle(self) -> bool:
        """Close it, unless a request has arrived just now."""


class Crowd:
    """See the module. `most` connections are held."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.told = min(_MOST_TOLD, max(_FEWEST_TOLD, most // 4))
        """Connections beyond that which are still told why they are refused."""
        self._look_again = 0.0
        self._counts: dict[str, int] = {}
        """What was not said yet."""
        self._said: dict[str, float] = {}

    def surplus(self, connections: Collection[Connection]) -> int:
        """How many there are too many, once some that were idle have been closed. The log is told."""
        surplus = len(connections) - self.most
        if surplus <= 0:
            return 0
        now = monotonic()
        if now >= self._look_again:
            closed = self.close_some(connections)
            if closed < surplus:
                self._look_again = now + _LOOK_AGAIN_AFTER
            surplus -= closed
        if surplus > 0:
            self._say_now_and_then("api.connections_refused", 1)
        return max(0, surplus)

    def close_some(self, connections: Collection[Connection]) -> int:
        """Close a few that are idle, those first that have been so for the longest; how many there were."""
        count = max(1, self.most // _AT_ONCE)
        idle = [
            (until, number, connection)
            for number, connection in enumerate(connections)
            if (until := connection.idle_until()) is not None
        ]
        closed = 0
        # A request may have arrived on one of them; then the next has to go.
        for _, _, connection in nsmallest(2 * count, idle):
            if closed < count:
                closed += connection.close_idle()
        if closed:
            self._say_now_and_then("api.idle_connections_closed", closed)
        return closed

    def _say_now_and_then(self, log_event: str, count: int) -> None:
        self._counts[log_event] = self._counts.get(log_event, 0) + count
        now = monotonic()
        if now - self._said.get(log_event, -inf) >= _SAY_EVERY:
            self._said[log_event] = now
            _LOG.warning(log_event, limit=self.most, count=self._counts.pop(log_event))
