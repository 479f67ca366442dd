"""When a client may come back that was refused because a queue is full.

A refusal costs the process a quarter to a third of an order: the request must be read and the answer be sent. If
thousands of clients come back each second, that is time which orders do not get. So the more are refused, the later
they are asked back.
"""

from functools import lru_cache
from time import monotonic

from eventspine.answers import Answer
from shop.platform.problems import TemporarilyUnavailable

A_SECOND_MORE_EACH = 256
"""Refusals in one second for which one more second is asked for."""
LONGEST = 10  # seconds


class Surplus:
    """The refusals of one route."""

    def __init__(self) -> None:
        self._second = 0
        self._count = 0
        self._before = 0

    def answer(self, why: str) -> Answer:
        """The answer to one more that is refused."""
        second = int(monotonic())
        if second != self._second:
            self._before = self._count if second == self._second + 1 else 0
            self._second, self._count = second, 0
        self._count += 1
        refused = max(self._before, self._count)
        return _refusal(why, min(LONGEST, 1 + refused // A_SECOND_MORE_EACH))


@lru_cache(64)
def _refusal(why: str, seconds: int) -> Answer:
    # Under overload most answers are this one, with few reasons.
    problem = TemporarilyUnavailable(why)
    problem.seconds = seconds
    return problem.answer()
