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
"""A search at the limit closes at most one of so many connections, if they are idle."""
_LOOK_AGAIN_AFTER = 0.1
"""Seconds between two searches for idle connections, if there were too few. A search checks all of them."""
_SAY_EVERY = 10.0  # seconds


class Connection(Protocol):
    def idle_until(self) -> float | None:
        """When it would be closed because it is idle; None while it has a request."""

    def close_idle(self) -> bool:
        """Close it, unless a request has just arrived."""


class Crowd:
    """The connections of one server. It holds at most `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.told = min(_MOST_TOLD, max(_FEWEST_TOLD, most // 4))
        """Connections beyond the limit that still get an answer with the reason."""
        self.refused = 0
        """Connections that were refused."""
        self.closed = 0
        """Idle connections that were closed to make room."""
        self._look_again = 0.0
        self._counts: dict[str, int] = {}
        """Counts that have not been logged yet."""
        self._said: dict[str, float] = {}

    def surplus(self, connections: Collection[Connection]) -> int:
        """The number of connections above the limit, after idle ones have been closed. Both are logged."""
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
            self.refused += 1
            self._say_now_and_then("api.connections_refused", 1)
        return max(0, surplus)

    def close_some(self, connections: Collection[Connection]) -> int:
        """Close a few idle connections, those that have been idle the longest first. Returns how many."""
        count = max(1, self.most // _AT_ONCE)
        idle = [
            (until, number, connection)
            for number, connection in enumerate(connections)
            if (until := connection.idle_until()) is not None
        ]
        closed = 0
        # A request may have arrived on one of them. Then the next one is closed instead.
        for _, _, connection in nsmallest(2 * count, idle):
            if closed < count:
                closed += connection.close_idle()
        self.closed += closed
        if closed:
            self._say_now_and_then("api.idle_connections_closed", closed)
        return closed

    def _say_now_and_then(self, log_event: str, count: int) -> None:
        self._counts[log_event] = self._counts.get(log_event, 0) + count
        now = monotonic()
        if now - self._said.get(log_event, -inf) >= _SAY_EVERY:
            self._said[log_event] = now
            _LOG.warning(log_event, limit=self.most, count=self._counts.pop(log_event))
