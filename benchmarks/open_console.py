"""Measures what an open console costs the shop: with a viewer who follows its Flow page, against no console at all."""

import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks import cpu
from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.orders_a_second import ratios
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import HOST, Shop, Stage, create_topics, free_port, wait_for

TITLE = "An open console"
HOW = """\
`POST /orders` over 64 kept-alive connections, in turn: with a console whose Flow page one viewer follows, without a console, and
without one again, which shows how much two equal sides differ. Without a console, its process is stopped (`SIGSTOP`), so that it
takes no CPU time and asks nothing. The viewer reads the page's server-sent events in the benchmark's own process. CPU time is that
of the API, of the console, and of PostgreSQL's processes for each.
"""

# Nothing but the console opens the databases of users and of the log here.
_SESSIONS = """
SELECT pid FROM pg_stat_activity
WHERE application_name IN ('eventshop console', 'eventshop flow') OR datname = ANY(%s)
"""


class _Round(NamedTuple):
    per_second: float
    requests: int
    shop: float
    """CPU seconds of the API, and of PostgreSQL for it."""
    console: float
    """CPU seconds of the console, and of PostgreSQL for it."""

    @property
    def cost(self) -> float:
        """CPU time for each request, in µs: all of it."""
        return (self.shop + self.console) / self.requests * 1e6


def run(stage: Stage) -> Section:
    require_wrk()
    if not Path("/proc/self/stat").exists():
        return Section(TITLE, HOW, left_out="CPU time of a process is read from Linux's /proc")
    rounds: dict[str, list[_Round]] = {"open": [], "none": [], "again": []}
    with ExitStack() as held:
        shop = stage.shop()
        create_topics(shop)
        add_customers(shop.orders, CUSTOMERS)
        api = held.enter_context(stage.shop_process(shop, "api", "orders")).pid
        port = free_port()
        env = {
            **shop.env,
            "SHOP_CONSOLE__PORT": str(port),
            "SHOP_CONSOLE__APIS": f"orders={shop.orders_url.removesuffix('/orders')}",
        }
        running = stage.running("console", "shop.cli", "api", "console", env=env)
        console = held.enter_context(running).pid
        assert api is not None
        assert console is not None
        post_orders(shop.orders_url, connections=64, seconds=1)
        # Many short rounds in turn, because the speed of a machine varies from second to second.
        for number in range(3 * stage.rounds):
            stage.say(f"an open console: round {number + 1} of {3 * stage.rounds}")
            for kind in list(rounds) if number % 2 else list(reversed(rounds)):
                stage.settle()
                with _viewer(port) if kind == "open" else _stopped(console):
                    rounds[kind].append(_round(stage, shop, api, console))
    rates = {kind: [each.per_second for each in of_kind] for kind, of_kind in rounds.items()}
    costs = {kind: [each.cost for each in of_kind] for kind, of_kind in rounds.items()}
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "CPU time that an open console takes, against that of the API",
                [each.console / each.shop * 100 for each in rounds["open"]],
                "%", at_least=2, less_is_better=True,
                measured=f"{spread([each.console * 1e3 for each in rounds['open']], 'ms')} in a round",
            ),
            Row(
                "orders a second with an open console, against none",
                ratios(rates["open"], rates["none"]), "×", at_least=0.98,
                measured=f"{spread(rates['open'], '/s')} against {spread(rates['none'], '/s')}",
            ),
            Row(
                "orders a second with none, against none again",
                ratios(rates["none"], rates["again"]), "×",
                measured=f"{spread(rates['none'], '/s')} against {spread(rates['again'], '/s')}",
            ),
            Row(
                "CPU time of an order without a console, against one with it open",
                ratios(costs["none"], costs["open"]), "×",
                measured=f"{spread(costs['none'], 'µs')} against {spread(costs['open'], 'µs')}",
            ),
        ],
    )  # fmt: skip


@contextmanager
def _viewer(port: int) -> Iterator[None]:
    """Somebody looks at the Flow page. Raises if it shows nothing new meanwhile."""
    url = f"http://{HOST}:{port}/flow/stream"
    shown = 0
    ends = threading.Event()

    def look() -> None:
        nonlocal shown
        with urllib.request.urlopen(url, timeout=10) as stream:
            for line in stream:
                shown += line == b"event: point\n"
                if ends.is_set():
                    return

    viewer = threading.Thread(target=look, daemon=True)
    viewer.start()
    wait_for(lambda: shown > 0, timeout=10)
    before = shown
    try:
        yield
        if shown == before:
            raise RuntimeError("the Flow page showed nothing new while it was measured")
    finally:
        ends.set()
        viewer.join(10)


@contextmanager
def _stopped(console: int) -> Iterator[None]:
    os.kill(console, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(console, signal.SIGCONT)


def _round(stage: Stage, shop: Shop, api: int, console: int) -> _Round:
    postgres = stage.postgres.pid
    assert postgres is not None
    with psycopg.connect(shop.orders) as connection:
        others = [conninfo_to_dict(url)["dbname"] for url in (shop.users, shop.log)]
        sessions = {pid: 0.0 for (pid,) in connection.execute(_SESSIONS, [others])}

    def spent() -> tuple[float, float]:
        """Of the console, and of all else, in CPU seconds so far."""
        for pid in sessions:
            with suppress(OSError):  # a session that has ended keeps what it had
                sessions[pid] = cpu.seconds(pid)
        theirs = cpu.seconds(console) + sum(sessions.values())
        everything = cpu.seconds(api) + cpu.seconds(console) + cpu.of_children(postgres)
        return theirs, everything - theirs

    began = spent()
    load = post_orders(shop.orders_url, connections=64, seconds=stage.seconds(2))
    theirs, ours = (after - before for before, after in zip(began, spent(), strict=True))
    return _Round(load.per_second, load.requests, ours, theirs)
