"""Rates and standstills, from the numbers that successive looks found."""

from collections import deque

_WINDOW = 5.0
"""Seconds over which a rate is measured, so that it does not jump from look to look."""


class Pace:
    """One number that should rise."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, now: float, number: int | None) -> None:
        """`now` is by `time.monotonic()`. After None, or after a fall, it begins anew."""
        if number is None or (self._seen and number < self._seen[-1][1]):
            self._seen.clear()
        if number is None:
            return
        self._seen.append((now, number))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW:  # noqa: PLR2004 - both ends stay
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """How much it rose a second; None before the second number."""
        if len(self._seen) < 2:  # noqa: PLR2004 - a difference needs two
            return None
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began else None


class Standstill:
    """How long something has waited without any movement."""

    def __init__(self) -> None:
        self._still_at: int | None = None
        self._since = 0.0

    def seconds(self, now: float, moved: int, *, waits: bool) -> float:
        """`moved` is the number that rises with each movement."""
        if not waits:
            self._still_at = None
            return 0.0
        if self._still_at != moved:
            self._still_at, self._since = moved, now
        return now - self._since
