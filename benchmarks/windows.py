"""The windows of time in which a part is in a process, or is not. `wrk.lua` computes them too.

Windows begin at full multiples of their length of the wall clock, so that the client and the service agree on them. Two
with the part follow two without it, so that what grows during a measurement weighs on both sides alike.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LENGTH = 0.5  # seconds
SHORT = 0.1
"""For parts that only the process knows of. What slows the machine down lasts longer, and weighs on both sides alike."""
_EDGE = 0.16  # of a window, at both ends: it is not measured


class Measured(NamedTuple):
    """One window."""

    has_part: bool
    began: float
    """By `time.monotonic()`."""
    seconds: float
    requests: int
    spent: float
    """CPU seconds of the process."""

    @property
    def cpu(self) -> float:
        """µs of CPU time a request."""
        return self.spent / self.requests * 1e6

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def has_part(window: int) -> bool:
    return (window + 1) // 2 % 2 == 1


def take_turns(
    change: Callable[[bool], None], requests: Callable[[], int], path: Path, length: float
) -> None:
    """Put the part in and take it out at each window, and write what was measured. Never returns."""
    with path.open("a", buffering=1) as file:
        while True:
            change(has_part(int(time.time() / length)))  # this woke up late if it changes anything
            window = int(time.time() / length) + 1
            _sleep_until(window * length)
            change(has_part(window))
            _sleep_until((window + _EDGE) * length)
            began, done, spent = time.monotonic(), requests(), time.process_time()
            _sleep_until((window + 1 - _EDGE) * length)
            seconds = time.monotonic() - began
            measured = (seconds, requests() - done, time.process_time() - spent)
            file.write(json.dumps([has_part(window), began, *measured]) + "\n")


def read(path: Path, since: float, until: float) -> list[Measured]:
    """The windows that lie between two moments, by `time.monotonic()`."""
    windows = [Measured(*json.loads(line)) for line in path.read_text().splitlines()]
    return [each for each in windows if since <= each.began and each.began + each.seconds <= until]


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))
