"""Measures durable orders per second, compared with services and a program with one order per transaction."""

import subprocess
from contextlib import ExitStack
from pathlib import Path

import psycopg

from benchmarks.baseline_service import create_tables
from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import Shop, Stage, create_topics, program, wait_for

TITLE = "Durable orders a second"
HOW = """\
`POST /orders` over 64 kept-alive connections, from 1,000 customers, by wrk with one thread. Load, service and database share
the machine. Each service has one API process. Afterwards every order answered with 201 is looked for in the database.

The services for comparison (`benchmarks/baseline_service.py`, on uvicorn with uvloop and httptools) have an ordinary
FastAPI route with a response model and one transaction for each request: select the customer, insert the order,
insert the outbox row with a serial number, commit. The **lean** one uses psycopg, the shop's own driver, and a
pool of connections: it is the same service, unbatched. The **ordinary** one uses a SQLAlchemy session in FastAPI's
thread pool, which is the most common design. **pgbench** runs `BEGIN`, `SELECT` customer, `INSERT` order, `INSERT`
outbox, `COMMIT` with 32 clients on the socket, with prepared statements and without a service.

*With a key on every request*: the same service and the same load, and each request has its own `Idempotency-Key`. So each
answer is stored as well. The rate is compared with the rate without keys. Every request is looked for among the
stored keys.

*With the workers*: every order also passes the relay, the log and the user service's consumer during the load, on the
same cores. The ordinary services have no such work.
"""

_PGBENCH = Path(__file__).with_name("pgbench.sql")


def run(stage: Stage) -> Section:
    require_wrk()
    seconds = stage.seconds(6)
    ordinary, lean, ours, keyed, flowing, bare = [], [], [], [], [], []
    lag = 0.0
    with ExitStack() as held:
        ordinary_db, lean_db, bare_db = (
            stage.database(name) for name in ("ordinary", "lean", "bare")
        )
        for url in (ordinary_db, lean_db, bare_db):
            create_tables(url, CUSTOMERS)
        ordinary_url = held.enter_context(stage.baseline("sqlalchemy", ordinary_db))
        lean_url = held.enter_context(stage.baseline("psycopg", lean_db))
        shop, busy = stage.shop(), stage.shop()
        for each in (shop, busy):
            add_customers(each.orders, CUSTOMERS)
        create_topics(busy)
        held.enter_context(stage.shop_process(shop, "api", "orders"))
        for part, service in (("api", "orders"), ("worker", "orders"), ("worker", "users")):
            held.enter_context(stage.shop_process(busy, part, service))
        # In the order A B A B; each is warmed up first.
        for url in (ordinary_url, lean_url, shop.orders_url, busy.orders_url):
            post_orders(url, connections=64, seconds=1)
        post_orders(shop.orders_url, connections=64, seconds=1, keyed=True)
        for number in range(stage.rounds):
            stage.say(f"orders a second: round {number + 1} of {stage.rounds}")
            ordinary.append(_orders(stage, ordinary_url, ordinary_db, seconds))
            ours.append(_orders(stage, shop.orders_url, shop.orders, seconds))
            keyed.append(_orders(stage, shop.orders_url, shop.orders, seconds, keyed=True))
            bare.append(_pgbench(stage, bare_db, seconds))
            lean.append(_orders(stage, lean_url, lean_db, seconds))
            stage.settle()
            _caught_up(busy)
            flowing.append(_orders(stage, busy.orders_url, busy.orders, seconds))
            lag = max(lag, _behind(busy) / flowing[-1])
            _caught_up(busy)
    a, b, c, d, e, f = (
        spread(values, "/s") for values in (ours, ordinary, lean, bare, flowing, keyed)
    )
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "orders a second, against one transaction a request (lean)", ratios(ours, lean),
                "×", at_least=3.0, want=5.0, measured=f"{a} against {c}",
            ),
            Row(
                "orders a second, against one transaction a request (ordinary)",
                ratios(ours, ordinary), "×", measured=f"{a} against {b}",
            ),
            Row(
                "orders a second, against pgbench with 32 clients", ratios(ours, bare), "×",
                at_least=0.65, want=1.0, measured=f"{a} against {d}",
            ),
            Row(
                "orders a second with an `Idempotency-Key` on each, against without",
                ratios(keyed, ours), "×", at_least=0.7, want=0.9, measured=f"{f} against {a}",
            ),
            Row(
                "with the workers, against one transaction a request (lean)",
                ratios(flowing, lean), "×",
                measured=f"{e} against {c}; at the end of a round events were at most {lag:.1f} s "
                "behind",
            ),
        ],
    )  # fmt: skip


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def unchanged(values: list[float]) -> list[float]:
    """What the machine does by itself: the ratio of rounds of one kind that followed each other, as A does in B A, A B, B A, …"""
    return [after / before for before, after in zip(values[::2], values[1::2], strict=False)]


def _orders(stage: Stage, url: str, database: str, seconds: float, *, keyed: bool = False) -> float:
    stage.settle()
    tables = ["orders", "idempotency_keys"] if keyed else ["orders"]
    before = {table: _count(database, table) for table in tables}
    load = post_orders(url, connections=64, seconds=seconds, keyed=keyed)
    for table in tables:
        # The table may have more rows: wrk stops without waiting for the last answers.
        added = _count(database, table) - before[table]
        if added < load.requests:
            raise RuntimeError(
                f"{load.requests} orders were answered 201, {added} rows are in {table}"
            )
    return load.per_second


def _count(database: str, table: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


def _pgbench(stage: Stage, database: str, seconds: float) -> float:
    stage.settle()
    command = [
        *(program("pgbench"), "-n", "-M", "prepared", "-c", "32", "-j", "2"),
        *("-T", str(round(seconds)), "-D", f"customers={CUSTOMERS}", "-f", str(_PGBENCH), database),
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in told.splitlines() if line.startswith("tps = "))
    return float(line.split()[2])


def _behind(shop: Shop) -> int:
    """The number of order events that the user service has not applied yet."""
    with psycopg.connect(shop.orders) as orders, psycopg.connect(shop.users) as users:
        (head,) = orders.execute("SELECT position FROM outbox_head").fetchone() or (0,)
        (applied,) = users.execute("SELECT max(last_position) FROM cursors").fetchone() or (0,)
    return int(head) - int(applied or 0)


def _caught_up(shop: Shop) -> None:
    wait_for(lambda: _behind(shop) == 0, timeout=120, pause=0.1)
