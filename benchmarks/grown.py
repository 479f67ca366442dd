"""Measures the cost of a plan from a small table after the table has grown."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import Stage
from eventspine.context import Request
from eventspine.database import Database
from eventspine.log import Record
from eventspine.outbox import transaction
from eventspine.received import Received
from eventspine.session import WHOLE_TABLES
from shop.contracts.users import UserCreated
from shop.services.orders.actions import place
from shop.services.orders.handlers import customers_changed
from shop.services.orders.schemas import PlaceOrder

TITLE = "A table that grows under a session"
HOW = """\
One session of the order service runs a statement on a small table until PostgreSQL keeps its plan. Then rows are
added, with autovacuum off, so that nothing causes a new plan. The CPU time that a batch takes in this session is
compared with that of a session that starts after the rows were added. The other sessions leave the plan to
PostgreSQL, as without the settings of `eventspine/session.py`. A figure is the median of the batches of a round.
"""

_SMALL = 1000
_PLACED = 28  # orders in a batch, the size with 64 clients
_HEARD = 200  # events in a batch; with more, the slowest case exceeds the statement timeout
_OFTEN = 12  # psycopg prepares after five executions, and PostgreSQL keeps a plan after five more

_OURS = "by index"
_FREE = "as PostgreSQL likes"
_SESSIONS: dict[str, dict[str, Any]] = {_OURS: {}, _FREE: WHOLE_TABLES}

Figures = dict[str, list[float]]


def run(stage: Stage) -> Section:
    if not Path("/proc/self/schedstat").exists():
        return Section(TITLE, HOW, left_out="CPU time of a session is read from Linux's /proc")
    placing: Figures = {}
    hearing: Figures = {}
    for number in range(stage.rounds):
        stage.say(f"a table that grows: round {number + 1} of {stage.rounds}")
        asyncio.run(_placing(stage, placing))
        stage.settle()
        asyncio.run(_hearing(stage, hearing))
        stage.settle()
    return Section(
        TITLE,
        HOW,
        [
            _grown("placing 28 orders, planned at 1,000 customers, at 300,000", placing, "ms"),
            _grown("keeping a customer's event, planned with no customer, at 30,000", hearing, "µs"),
            Row(
                "placing 28 orders at 1,000 customers: by index, against PostgreSQL's own plan",
                _ratios(placing, f"{_OURS}, small", f"{_FREE}, small"), "×",
                at_least=1.1, want=1.0, less_is_better=True,
                measured=_against(placing, f"{_OURS}, small", f"{_FREE}, small", "ms"),
            ),
        ],
    )  # fmt: skip


def _grown(what: str, figures: Figures, unit: str) -> Row:
    kept, new = (f"{_OURS}, {when}" for when in ("kept", "new"))
    free = _against(figures, f"{_FREE}, kept", f"{_FREE}, new", unit)
    return Row(
        f"{what}, against a plan made there", _ratios(figures, kept, new), "×",
        at_least=1.3, want=1.1, less_is_better=True,
        measured=f"{_against(figures, kept, new, unit)}; without these settings {free}",
    )  # fmt: skip


def _ratios(figures: Figures, one: str, other: str) -> list[float]:
    return [a / b for a, b in zip(figures[one], figures[other], strict=True)]


def _against(figures: Figures, one: str, other: str, unit: str) -> str:
    return f"{spread(figures[one], unit)} against {spread(figures[other], unit)}"


async def _placing(stage: Stage, figures: Figures) -> None:
    url = _orders(stage)
    add_customers(url, _SMALL)
    batch = [Request(PlaceOrder(1 + n, "coffee", 1, Decimal(5))) for n in range(_PLACED)]

    async def once(database: Database) -> None:
        async with transaction(database, durable=False) as tx:
            await place(tx, batch)
            tx._events.clear()

    many = stage.number(60, 10)
    async with _sessions(url) as kept:
        for database in kept.values():
            await _timed(once, [database], _OFTEN)
        for name, seconds in zip(kept, await _timed(once, [*kept.values()], many), strict=True):
            figures.setdefault(f"{name}, small", []).append(seconds * 1e3)
        _grow(url, stage.number(300_000, 30_000))
        await _compare(once, url, kept, many // 2, figures, 1e3)


async def _hearing(stage: Stage, figures: Figures) -> None:
    url = _orders(stage)
    add_customers(url, 0)
    ids = iter(range(10_000_000, 2**40))

    def events(count: int) -> list[Received[UserCreated]]:
        return [
            Received(
                UserCreated(id=id_, version=1, email=f"{id_}@x.org", name="N", created_at=_NOW),
                1, Record("users", 0, 0, str(id_), b"", {}),
            )
            for id_, _ in zip(ids, range(count), strict=False)
        ]  # fmt: skip

    async def hear(database: Database, count: int) -> None:
        batch = events(count)
        async with transaction(database, durable=False) as tx:
            await customers_changed(tx, batch)

    async def once(database: Database) -> None:
        await hear(database, _HEARD)

    async with _sessions(url) as kept:
        for database in kept.values():
            for _ in range(_OFTEN):
                await hear(database, 0)
        _grow(url, 30_000)
        await _compare(once, url, kept, stage.number(10, 3), figures, 1e6 / _HEARD)


_NOW = datetime(2026, 1, 2, tzinfo=UTC)


async def _compare(
    once: Callable[[Database], Awaitable[None]],
    url: str,
    kept: dict[str, Database],
    many: int,
    figures: Figures,
    scale: float,
) -> None:
    async with _sessions(url) as new:
        for database in new.values():
            await _timed(once, [database], _OFTEN)
        both = {
            **{f"{name}, kept": database for name, database in kept.items()},
            **{f"{name}, new": database for name, database in new.items()},
        }
        for name, seconds in zip(both, await _timed(once, [*both.values()], many), strict=True):
            figures.setdefault(name, []).append(seconds * scale)


async def _timed(
    once: Callable[[Database], Awaitable[None]], databases: list[Database], many: int
) -> list[float]:
    """Run it `many` times on each database in turns. Returns the median CPU seconds of each session."""
    clocks = [await _session(database) for database in databases]
    taken: list[list[float]] = [[] for _ in databases]
    for _ in range(many):
        for database, clock, times in zip(databases, clocks, taken, strict=True):
            began = _cpu(clock)
            await once(database)
            times.append(_cpu(clock) - began)
    return [median(times) for times in taken]


async def _session(database: Database) -> Path:
    [(pid,)] = await database.fetch("SELECT pg_backend_pid()")
    return Path(f"/proc/{pid}/schedstat")


def _cpu(clock: Path) -> float:
    """CPU seconds of a process. Linux gives nanoseconds for a process that is waiting."""
    return int(clock.read_text().split()[0]) / 1e9


def _orders(stage: Stage) -> str:
    url = stage.shop().orders
    with psycopg.connect(url, autocommit=True) as connection:
        for table in ("customers", "orders"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
    return url


def _grow(url: str, customers: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO customers SELECT n, n || '@example.com', 'N', 1, false"
            " FROM generate_series(%s::int, %s) n",
            (_SMALL + 1, customers),
        )


@asynccontextmanager
async def _sessions(url: str) -> AsyncIterator[dict[str, Database]]:
    databases = {name: Database(url, size=1, **settings) for name, settings in _SESSIONS.items()}
    for database in databases.values():
        await database.open()
    try:
        yield databases
    finally:
        for database in databases.values():
            await database.close()
