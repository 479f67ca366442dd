"""Measures what one part of an API process costs: the same process, with the part and without it, in turn.

Two processes of one program differ by some percent in CPU time a request, with the same load. So do two measurements
of one process that are seconds apart. Both are more than the parts that are measured here cost. So the process itself
takes the part out and puts it back, two to ten times a second, while the load goes on (`benchmarks/switched.py`).
"""

import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

from benchmarks.load import CUSTOMERS, Load, post_orders
from benchmarks.shop_data import add_customers
from benchmarks.stage import Shop, Stage
from benchmarks.windows import LENGTH, Measured, read

_LOADS = 3  # in a round
_WARM = 1.5  # seconds of each load that are not measured


class Both(NamedTuple):
    """What was measured: each list has one value a load."""

    cpu_without: list[float]
    """µs of CPU time a request, of the API process: the median of the windows."""
    cpu_with: list[float]
    cpu: list[float]
    """The ratio of windows that follow each other: with the part, against without it. The mean of the middle half."""
    rate_without: list[float]
    """Requests a second."""
    rate_with: list[float]
    rate: list[float]


Send = Callable[[Shop, float], Load]
"""Sends requests for so many seconds."""


def orders(shop: Shop, seconds: float) -> Load:
    return post_orders(shop.orders_url, connections=64, seconds=seconds)


def measured(
    stage: Stage,
    part: str,
    env: Mapping[str, str] | None = None,
    *,
    send: Send = orders,
    prepare: Callable[[Shop], None] = lambda _: None,
    seconds: float = 6.0,
    window: float = LENGTH,
) -> Both:
    """Measure `POST /orders` with and without the part, in turn, in one process, in loads of so many seconds. `window` is the
    length of a turn.
    """
    both = Both([], [], [], [], [], [])
    shop = stage.shop()
    prepare(shop)
    add_customers(shop.orders, CUSTOMERS)
    words = ("benchmarks.switched", "api", "orders")
    windows = Path(stage.directory, f"windows-{part}-{stage.made}")
    given = {**shop.env, **(env or {}), "SWITCHED": part}
    given |= {"SWITCHED_WINDOWS": str(windows), "SWITCHED_LENGTH": str(window)}
    with stage.running(f"orders-api-{part}", *words, env=given):
        send(shop, 2)
        for number in range(_LOADS * stage.rounds):
            stage.say(f"{part}: load {number + 1} of {_LOADS * stage.rounds}")
            stage.settle()
            began = time.monotonic()
            send(shop, max(3.0, stage.seconds(seconds)))
            _add(both, read(windows, began + _WARM, time.monotonic()))
    return both


def _add(both: Both, windows: list[Measured]) -> None:
    """A window and the one before it are a pair if only one of them has the part."""
    pairs = [
        (one, other) if one.has_part else (other, one)
        for one, other in pairwise(windows)
        if one.has_part is not other.has_part
    ]
    both.cpu.append(_middle([ours.cpu / theirs.cpu for ours, theirs in pairs]))
    both.rate.append(_middle([ours.rate / theirs.rate for ours, theirs in pairs]))
    for has_part, cpu, rate in (
        (True, both.cpu_with, both.rate_with),
        (False, both.cpu_without, both.rate_without),
    ):
        cpu.append(median(each.cpu for each in windows if each.has_part is has_part))
        rate.append(median(each.rate for each in windows if each.has_part is has_part))


def _middle(values: list[float]) -> float:
    """The mean of the middle half: it varies less than the median, and outliers do not count either."""
    quarter = len(values) // 4
    return mean(sorted(values)[quarter : len(values) - quarter])
