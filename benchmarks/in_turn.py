"""Measures what one part of an API process costs: the same process, with the part and without it, in turn.

Two processes of one program differ by some percent in CPU time a request, with the same load. That is more than the
parts that are measured here cost.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

from benchmarks import cpu
from benchmarks.load import CUSTOMERS, Load, post_orders
from benchmarks.shop_data import add_customers
from benchmarks.stage import Shop, Stage

_TAKES_EFFECT_S = 0.1


class Both(NamedTuple):
    """What was measured: each list has one value a round, and rounds with the same index follow each other."""

    cpu_without: list[float]
    """µs of CPU time a request, of the API process."""
    cpu_with: list[float]
    rate_without: list[float]
    """Requests a second."""
    rate_with: list[float]

    @property
    def cpu(self) -> list[float]:
        return _pairs(self.cpu_with, self.cpu_without)

    @property
    def rate(self) -> list[float]:
        return _pairs(self.rate_with, self.rate_without)


def _pairs(ours: list[float], theirs: list[float]) -> list[float]:
    """A ratio for each three pairs, of medians: a single pair says what the machine did in these seconds."""
    return [
        median(ours[first : first + 3]) / median(theirs[first : first + 3])
        for first in range(0, len(ours) - 2, 3)
    ]


Send = Callable[[Shop, bool, float], Load]
"""Sends requests for so many seconds, with the part (True) or without it."""


def orders(shop: Shop, with_part: bool, seconds: float) -> Load:
    return post_orders(shop.orders_url, connections=64, seconds=seconds)


def measured(
    stage: Stage,
    part: str,
    env: Mapping[str, str] | None = None,
    *,
    send: Send = orders,
    prepare: Callable[[Shop], None] = lambda _: None,
) -> Both:
    """Measure `POST /orders` with and without the part, in turn, in one process."""
    both = Both([], [], [], [])
    with _running(stage, part, env or {}, prepare) as (shop, pid):
        for kept in (False, True):
            _switch(pid, kept)
            send(shop, kept, 2)
        rounds = 6 * stage.rounds
        for number in range(rounds):
            stage.say(f"{part}: round {number + 1} of {rounds}")
            for kept in (True, False) if number % 2 else (False, True):
                _switch(pid, kept)
                stage.settle()
                before = cpu.seconds(pid)
                load = send(shop, kept, stage.seconds(1))
                spent = (cpu.seconds(pid) - before) / load.requests * 1e6
                (both.cpu_with if kept else both.cpu_without).append(spent)
                (both.rate_with if kept else both.rate_without).append(load.per_second)
    return both


def _switch(pid: int, kept: bool) -> None:
    os.kill(pid, signal.SIGUSR2 if kept else signal.SIGUSR1)
    time.sleep(_TAKES_EFFECT_S)


@contextmanager
def _running(
    stage: Stage, part: str, env: Mapping[str, str], prepare: Callable[[Shop], None]
) -> Iterator[tuple[Shop, int]]:
    shop = stage.shop()
    prepare(shop)
    add_customers(shop.orders, CUSTOMERS)
    words = ("benchmarks.switched", "api", "orders")
    given = {**shop.env, **env, "SWITCHED": part}
    with stage.running(f"orders-api-{part}", *words, env=given) as process:
        assert process.pid is not None
        yield shop, process.pid
