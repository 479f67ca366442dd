"""Measures what a request costs in CPU time, against the least that it can cost with the same libraries."""

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psycopg

from benchmarks import cpu
from benchmarks.counted import Counts
from benchmarks.load import CUSTOMERS, Load, get_orders, post_orders, require_wrk
from benchmarks.orders_a_second import ratios
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import HOST, PROJECT, Shop, Stage, free_port, listens

TITLE = "A request against its floor, in CPU time"
HOW = """\
CPU time (user and system) of the API process for each request, over 64 kept-alive connections. It carries from one
machine to another better than a rate: it does not depend on how the cores are shared. The **floor** is made of the same
parts: bare uvicorn (uvloop, httptools) that validates the same body with the same Pydantic model and sends the same
bytes, and psycopg that sends the same statements, with as many orders in a transaction, and no HTTP
(`benchmarks/floor_service.py`). The floor's two figures are added. A ratio of 1 would mean that batching,
routing, limits, deadlines, events and answers cost nothing.
"""

_CONNECTIONS = 64
_KINDS = {"POST": (0.52, 0.65), "key": (0.46, 0.55), "GET": (0.56, 0.65)}
_CALLED = {
    "POST": "`POST /orders`",
    "key": "`POST /orders` with an `Idempotency-Key`",
    "GET": "`GET /orders/{order_id}`",
}


class Cost(NamedTuple):
    """Of one request, in µs of CPU time; the latencies in ms."""

    api: float
    postgres: float
    p50: float
    p99: float
    batch: float


def run(stage: Stage) -> Section:
    require_wrk()
    if not Path("/proc/self/stat").exists():
        return Section(TITLE, HOW, left_out="CPU time of a process is read from Linux's /proc")
    costs: dict[str, list[Cost]] = {kind: [] for kind in _KINDS}
    bare: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    driven: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    with ExitStack() as held:
        shop = stage.shop()
        add_customers(shop.orders, CUSTOMERS)
        shared = stage.directory / f"batches-{stage.made}"
        counts = Counts.create(shared)
        env = {**shop.env, "BATCHES": str(shared)}
        words = ("benchmarks.counted", "api", "orders")
        api = held.enter_context(stage.running(f"floors-api-{stage.made}", *words, env=env)).pid
        port = free_port()
        uvicorn = (
            *("uvicorn", "benchmarks.floor_service:app", "--host", HOST, "--port", str(port)),
            *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--lifespan", "off"),
            *("--log-level", "warning", "--no-server-header"),
        )
        floor = held.enter_context(
            stage.running("floor", *uvicorn, env=shop.env, answers=lambda: listens(port))
        ).pid
        assert api is not None
        assert floor is not None
        for kind in _KINDS:
            _load(kind, shop.orders_url, 1, _orders(shop))
            _load(kind, f"http://{HOST}:{port}/orders", 1, 1000)
        # Many short rounds in turn, because the speed of a machine varies from second to second.
        for number in range(2 * stage.rounds):
            stage.say(f"floors: round {number + 1} of {2 * stage.rounds}")
            for kind in _KINDS:
                stage.settle()
                costs[kind].append(_measured(stage, shop, kind, api, counts))
                bare[kind].append(_bare(stage, kind, floor, port))
                driven[kind].append(_sql(stage, shop, kind, costs[kind][-1].batch))
    return Section(
        TITLE,
        HOW,
        [_row(kind, costs[kind], bare[kind], driven[kind]) for kind in _KINDS],
        more=_table(costs, bare, driven),
    )


def _row(kind: str, costs: list[Cost], bare: list[float], driven: list[float]) -> Row:
    floors = [a + b for a, b in zip(bare, driven, strict=True)]
    ours = [cost.api for cost in costs]
    must, want = _KINDS[kind]
    return Row(
        f"{_CALLED[kind]}: CPU time of the floor, against the API's", ratios(floors, ours), "×",
        at_least=must, want=want,
        measured=f"{spread(floors, 'µs')} against {spread(ours, 'µs')}",
    )  # fmt: skip


def _table(
    costs: Mapping[str, list[Cost]],
    bare: Mapping[str, list[float]],
    driven: Mapping[str, list[float]],
) -> str:
    lines = [
        "| µs of CPU a request | API | PostgreSQL | floor: HTTP | floor: SQL | orders in a batch | p50 | p99 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in _KINDS:
        api, postgres, p50, p99, batch = (
            median(values) for values in zip(*costs[kind], strict=True)
        )
        lines.append(
            f"| {_CALLED[kind]} | {api:.1f} | {postgres:.1f} | {median(bare[kind]):.1f}"
            f" | {median(driven[kind]):.1f} | {batch:.0f} | {p50:.1f} ms | {p99:.1f} ms |"
        )
    return "\n".join(lines) + "\n"


def _load(kind: str, url: str, seconds: float, orders: int) -> Load:
    if kind == "GET":
        return get_orders(url, connections=_CONNECTIONS, seconds=seconds, orders=orders)
    return post_orders(url, connections=_CONNECTIONS, seconds=seconds, keyed=kind == "key")


def _measured(stage: Stage, shop: Shop, kind: str, api: int, counts: Counts) -> Cost:
    postgres = stage.postgres.pid
    assert postgres is not None
    orders = _orders(shop)
    commands, batches = counts.both
    before, sessions = cpu.seconds(api), cpu.of_children(postgres)
    load = _load(kind, shop.orders_url, stage.seconds(2), orders)
    # All that it has executed: wrk leaves without the last answers.
    done = counts.both[0] - commands
    return Cost(
        (cpu.seconds(api) - before) / done * 1e6,
        (cpu.of_children(postgres) - sessions) / done * 1e6,
        load.p50,
        load.p99,
        done / (counts.both[1] - batches),
    )


def _bare(stage: Stage, kind: str, pid: int, port: int) -> float:
    before = cpu.seconds(pid)
    load = _load(kind, f"http://{HOST}:{port}/orders", stage.seconds(1), 1000)
    return (cpu.seconds(pid) - before) / load.requests * 1e6


def _sql(stage: Stage, shop: Shop, kind: str, batch: float) -> float:
    given = {
        "kind": kind,
        "database": shop.orders,
        "batch": round(batch),
        "operations": stage.number(10_000),
        "orders": _orders(shop),
        "seed": random.randrange(2**64),
    }
    return floor("sql", given)["cpu"] * 1e6


def floor(name: str, given: Mapping[str, Any]) -> dict[str, float]:
    """What `floor_service.py` says about its work."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.floor_service", name],
        cwd=PROJECT, input=json.dumps(given), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the floor {name} failed:\n{done.stderr}")
    told: dict[str, float] = json.loads(done.stdout)
    return told


def _orders(shop: Shop) -> int:
    with psycopg.connect(shop.orders) as connection:
        row = connection.execute("SELECT coalesce(max(id), 1) FROM orders").fetchone()
    assert row is not None
    return int(row[0])
