"""Measures how fast a service refuses requests of too many clients, and what that costs."""

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import NamedTuple

from benchmarks.load import CUSTOMERS
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import PROJECT, Shop, Stage
from shop.platform.settings import Settings

TITLE = "Overload"
HOW = """\
`POST /orders` from as many clients as the queue holds (`SHOP_MAX_WAITING`, with its default: 1024), and then from five
times as many, so that four times the queue is too many. Each client has a connection, and sends the next order
when it has an answer. After a 503 it waits for the time in `Retry-After`, plus or minus half of it. The clients
are one process (`benchmarks/crowd.py`), on the same two cores as the service and the database. So both figures
include the cost of the clients, and the time to a 503 includes their delay.
"""

_SURPLUS = 4


class Outcome(NamedTuple):
    """The answers that a crowd got."""

    accepted: float
    """Orders per second."""
    refused: float
    """503s per second."""
    p50: float
    """Milliseconds to a 503."""
    p99: float


def run(stage: Stage) -> Section:
    seconds = stage.seconds(8)
    room = Settings.model_fields["max_waiting"].default
    alone, crowded = [], []
    p50s, p99s, most = [], [], 0.0
    with ExitStack() as held:
        shop = stage.shop()
        add_customers(shop.orders, CUSTOMERS)
        held.enter_context(stage.shop_process(shop, "api", "orders"))
        _crowd(shop, 64, 1)
        for number in range(stage.rounds):
            stage.say(f"overload: round {number + 1} of {stage.rounds}")
            stage.settle()
            alone.append(_crowd(shop, room, seconds).accepted)
            stage.settle()
            outcome = _crowd(shop, (1 + _SURPLUS) * room, seconds)
            crowded.append(outcome.accepted)
            most = max(most, outcome.refused)
            p50s.append(outcome.p50)
            p99s.append(outcome.p99)
    ratios = [a / b for a, b in zip(crowded, alone, strict=True)]
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "four times the queue too many → a 503, p50", p50s, "ms", less_is_better=True,
                measured=f"at most {most:,.0f} of them a second",
            ),
            Row(
                "four times the queue too many → a 503, p99", p99s, "ms", less_is_better=True,
                at_least=50.0, want=20.0,
            ),
            Row(
                "orders a second meanwhile, against without the surplus", ratios, "×",
                at_least=0.9, want=0.95,
                measured=f"{spread(crowded, '/s')} against {spread(alone, '/s')}",
            ),
        ],
    )  # fmt: skip


def _crowd(shop: Shop, clients: int, seconds: float) -> Outcome:
    words = ("-m", "benchmarks.crowd", str(shop.orders_port), str(clients), str(seconds))
    told = subprocess.run(
        [sys.executable, *words], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise RuntimeError(f"the crowd failed:\n{told.stderr}")
    return Outcome(**json.loads(told.stdout))
