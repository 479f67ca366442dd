"""Numbers as the parts of a process keep them: plain, in one event loop."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client.samples import Exemplar

from shop.platform.telemetry.declared import Declared


class Histogram:
    """Plain counts by bucket."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class Sample(NamedTuple):
    """A number of a metric, with the values of its labels."""

    of: Declared
    labels: tuple[str, ...]
    value: float | Histogram


Source = Callable[[], Iterable[Sample]]
"""Called at each scrape. It must not wait for anything."""
