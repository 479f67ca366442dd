"""Measures the memory of the shop's processes after they have worked."""

from contextlib import ExitStack
from pathlib import Path

from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.pipeline import applied_after
from benchmarks.report import Row, Section
from benchmarks.shop_data import add_users
from benchmarks.stage import Stage, create_topics

TITLE = "Memory"
HOW = """\
Resident memory (RSS) of the order service's API and worker, after the worker has applied a backlog, and the API has
answered orders over 64 connections while the worker relayed them. The proportional share (PSS) is shown too. It
divides a page that several processes share among them.
"""


def run(stage: Stage) -> Section:
    require_wrk()
    events = stage.number(50_000, least=5_000)
    resident: dict[str, list[float]] = {"api": [], "worker": []}
    proportional: dict[str, list[float]] = {"api": [], "worker": []}
    for number in range(min(3, stage.rounds)):
        stage.say(f"memory: round {number + 1}")
        with ExitStack() as held:
            shop = stage.shop()
            create_topics(shop)
            add_users(shop.users, max(events, CUSTOMERS))
            processes = {
                part: held.enter_context(stage.shop_process(shop, part, "orders"))
                for part in ("worker", "api")
            }
            held.enter_context(stage.shop_process(shop, "worker", "users"))
            applied_after(shop, events)
            post_orders(shop.orders_url, connections=64, seconds=stage.seconds(8))
            for part, process in processes.items():
                assert process.pid
                rss, pss = _memory(process.pid)
                resident[part].append(rss)
                proportional[part].append(pss)
    return Section(
        TITLE,
        HOW,
        [
            Row(
                f"resident memory of {name}", resident[part], "MB", less_is_better=True,
                at_least=150, want=90,
                measured=f"PSS {max(proportional[part]):.0f} MB at most",
            )
            for part, name in (("api", "an API process"), ("worker", "a worker process"))
        ],
    )  # fmt: skip


def _memory(pid: int) -> tuple[float, float]:
    """RSS and PSS in MB."""
    kilobytes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        kilobytes[name] = int(rest.split()[0])
    return kilobytes["Rss"] * 1024 / 1e6, kilobytes["Pss"] * 1024 / 1e6
