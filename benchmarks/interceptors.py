"""Measures the cost of the interceptor chains: without interceptors, and with ones that do nothing."""

from contextlib import ExitStack
from dataclasses import replace

from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.orders_a_second import ratios
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import Shop, Stage

TITLE = "Interceptors"
HOW = """\
`POST /orders` over 64 kept-alive connections, as above, against three API processes in turn: one without interceptor
code (`benchmarks/without_seams.py`), one as it is, and one with interceptors that do nothing, around each request,
each commit and each event.
"""


def run(stage: Stage) -> Section:
    require_wrk()
    rates: dict[str, list[float]] = {"cut": [], "none": [], "one": []}
    with ExitStack() as held:
        shops: dict[str, Shop] = {}
        for kind in rates:
            shop = stage.shop()
            if kind == "one":
                names = "benchmarks.without_seams:nothing"
                shop = replace(shop, env={**shop.env, "SHOP_INTERCEPTORS": names})
            add_customers(shop.orders, CUSTOMERS)
            module = "benchmarks.without_seams" if kind == "cut" else "shop.cli"
            held.enter_context(
                stage.running(f"orders-api-{kind}", module, "api", "orders", env=shop.env)
            )
            post_orders(shop.orders_url, connections=64, seconds=1)
            shops[kind] = shop
        # Many short rounds, because the speed of a machine varies by more than one percent from second to second.
        for number in range(3 * stage.rounds):
            stage.say(f"interceptors: round {number + 1} of {3 * stage.rounds}")
            kinds = list(rates) if number % 2 else list(reversed(rates))
            for kind in kinds:
                stage.settle()
                url = shops[kind].orders_url
                load = post_orders(url, connections=64, seconds=stage.seconds(2))
                rates[kind].append(load.per_second)
    cut, none, one = (spread(rates[kind], "/s") for kind in rates)
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "orders a second with no interceptor, against no seams",
                ratios(rates["none"], rates["cut"]), "×", at_least=0.99,
                measured=f"{none} against {cut}",
            ),
            Row(
                "orders a second with interceptors that do nothing, against none",
                ratios(rates["one"], rates["none"]), "×", at_least=0.98,
                measured=f"{one} against {none}",
            ),
        ],
    )  # fmt: skip
