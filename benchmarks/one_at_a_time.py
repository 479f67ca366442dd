"""Measures the cost of batching without a load: the latency of one request at a time."""

from contextlib import ExitStack

from benchmarks.baseline_service import create_tables
from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import Stage

TITLE = "A single request at a time"
HOW = """\
`POST /orders` over one kept-alive connection by wrk. It sends the next request when the last one is answered. The ratio is
that of the median latencies. The unbatched routes are those of the first benchmark.
"""


def run(stage: Stage) -> Section:
    require_wrk()
    seconds = stage.seconds(4)
    ours, lean, ordinary = [], [], []
    slowest = 0.0
    with ExitStack() as held:
        urls = {}
        for name in ("psycopg", "sqlalchemy"):
            database = stage.database("alone")
            create_tables(database, CUSTOMERS)
            urls[name] = held.enter_context(stage.baseline(name, database))
        shop = stage.shop()
        add_customers(shop.orders, CUSTOMERS)
        held.enter_context(stage.shop_process(shop, "api", "orders"))
        for url in (*urls.values(), shop.orders_url):
            post_orders(url, connections=1, seconds=1)
        for number in range(stage.rounds):
            stage.say(f"one at a time: round {number + 1} of {stage.rounds}")
            lean.append(_p50(stage, urls["psycopg"], seconds))
            stage.settle()
            load = post_orders(shop.orders_url, connections=1, seconds=seconds)
            ours.append(load.p50)
            slowest = max(slowest, load.p99)
            ordinary.append(_p50(stage, urls["sqlalchemy"], seconds))
    a, b, c = (spread(values, "ms") for values in (ours, lean, ordinary))
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "latency of a single order, against the lean unbatched route", _ratios(ours, lean),
                "×", at_least=1.2, want=1.0, less_is_better=True,
                measured=f"p50 {a} against {b}; our p99 at most {slowest:.2f} ms",
            ),
            Row(
                "latency of a single order, against the ordinary unbatched route",
                _ratios(ours, ordinary), "×", less_is_better=True, measured=f"p50 {a} against {c}",
            ),
        ],
    )  # fmt: skip


def _p50(stage: Stage, url: str, seconds: float) -> float:
    stage.settle()
    return post_orders(url, connections=1, seconds=seconds).p50


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]
