"""Measures the cost of the interceptor chains: without interceptors, and with ones that do nothing."""

from contextlib import ExitStack
from pathlib import Path

from benchmarks import cpu
from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.orders_a_second import ratios
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import Stage

TITLE = "Interceptors"
HOW = """\
CPU time (user and system) of an API process for each `POST /orders`, over 64 kept-alive connections, against three API
processes in turn: one without interceptor code (`benchmarks/without_seams.py`), one as it is, and one with interceptors that do
nothing, around each request, each commit and each event. None has metrics, which are an interceptor too.
"""


def run(stage: Stage) -> Section:
    require_wrk()
    if not Path("/proc/self/stat").exists():
        return Section(TITLE, HOW, left_out="CPU time of a process is read from Linux's /proc")
    costs: dict[str, list[float]] = {"cut": [], "none": [], "one": []}
    with ExitStack() as held:
        apis: dict[str, tuple[str, int]] = {}
        for kind in costs:
            shop = stage.shop()
            env = {**shop.env, "SHOP_TELEMETRY__METRICS": "false"}
            if kind == "one":
                env["SHOP_INTERCEPTORS"] = "benchmarks.without_seams:nothing"
            add_customers(shop.orders, CUSTOMERS)
            module = "benchmarks.without_seams" if kind == "cut" else "shop.cli"
            api = held.enter_context(
                stage.running(f"orders-api-{kind}", module, "api", "orders", env=env)
            )
            assert api.pid is not None
            apis[kind] = shop.orders_url, api.pid
            post_orders(shop.orders_url, connections=64, seconds=1)
        # Many short rounds, because the speed of a machine varies by more than one percent from second to second.
        for number in range(3 * stage.rounds):
            stage.say(f"interceptors: round {number + 1} of {3 * stage.rounds}")
            kinds = list(costs) if number % 2 else list(reversed(costs))
            for kind in kinds:
                stage.settle()
                url, pid = apis[kind]
                before = cpu.seconds(pid)
                load = post_orders(url, connections=64, seconds=stage.seconds(1))
                costs[kind].append((cpu.seconds(pid) - before) / load.requests * 1e6)
    cut, none, one = (spread(costs[kind], "µs") for kind in costs)
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "CPU time of an order with no interceptor, against no seams",
                ratios(costs["none"], costs["cut"]), "×", at_least=1.01, less_is_better=True,
                measured=f"{none} against {cut}",
            ),
            Row(
                "CPU time of an order with interceptors that do nothing, against none",
                ratios(costs["one"], costs["none"]), "×", at_least=1.02, less_is_better=True,
                measured=f"{one} against {none}",
            ),
        ],
    )  # fmt: skip
