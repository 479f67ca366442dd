"""Measures `shop restore` from Kafka against COPY, and how long the swap of `shop rebuild` keeps others waiting."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx
import psycopg

from benchmarks import kafka_filled
from benchmarks.kafka_stage import broker, empty_shop, left_out
from benchmarks.report import Row, Section, figure
from benchmarks.stage import HOST, Shop, Stage, wait_for
from devstack.kafka import KafkaNotPossible, LocalKafka
from shop.platform import discovery
from shop.platform.migrations import migrate

SIZES = "Restore from 100 thousand to 5 million orders"
HOW_SIZES = """\
Kafka holds the events of orders and users, ten orders for each user, each with one event, as in the benchmark *Restore and rebuild*. The
order service's database is empty, and `shop restore orders` restores it. The rate is that which the command reports, without its start.
It is measured with a hundred thousand orders, a million, and five million, at each size in a new database every time.
"""

TITLE = "Restore and rebuild"
HOW = """\
Kafka holds the events of orders and users: ten orders for each user, each with one event. They were put there directly, as the
relay writes them. The order service's database is empty, and `shop restore orders` restores it: its orders, its
customers and its checkpoints. The rate counts the time of the whole command. The events are all that it reads: those of both
topics.

For comparison, the restored rows of both tables are written by `COPY … FROM STDIN` (binary) into the same tables with the same
indexes in another empty database, one after the other, from a file. The time does not include writing the file.

The restore is measured with a tenth of the orders, with all of them, and with five times as many (and those that are placed meanwhile). What is compared there is the time
that the command reports, which does not include its start. All of this ends after six minutes: what does not fit into
them on a slow machine is left out, and said.

With a tenth of the orders, some customers are damaged, and `shop rebuild orders` runs beside the API and the worker, while one client reads a
customer's row and another one places orders, each as often as it can. The time is the longest of all reads and of all
orders while the rebuild runs; beside it, the longest in the ten seconds before.
"""

_TABLES = ("orders", "customers")

_SECONDS = 360.0
"""All of it, at most; a part begins only if it is likely to end by then."""


class _Restored(NamedTuple):
    shop: Shop
    events: int
    whole: float
    """Seconds of the command."""
    told: float
    """Seconds that it reports."""

    @property
    def rate(self) -> float:
        return self.events / self.whole

    @property
    def reported(self) -> float:
        return self.events / self.told


class _Rebuilt(NamedTuple):
    """The longest waits, in seconds, without a rebuild and with one."""

    read_before: float
    order_before: float
    read: float
    order: float
    held: float
    """For how long the locks were held, in milliseconds, as the command reports it."""


def run(stage: Stage) -> Section:
    orders = stage.number(1_000_000, least=20_000)
    until = time.monotonic() + _SECONDS
    restored: list[_Restored] = []
    shares: list[float] = []
    by_size: dict[int, float] = {}
    try:
        with broker(stage) as kafka:
            shop = empty_shop(stage, kafka)
            _fill(stage, kafka, orders // 10)
            small = _restored(stage, shop)
            by_size[orders // 10] = small.reported
            rebuilt = _rebuilt(stage, small.shop)
            began = time.monotonic()
            _fill(stage, kafka, orders - orders // 10, small.shop)
            filling = time.monotonic() - began
            began = time.monotonic()
            for number in range(stage.rounds):
                # Half of the time is for the rest.
                spent = (time.monotonic() - began) / number if number else 0.0
                if time.monotonic() + spent > until - _SECONDS / 2:
                    break
                stage.say(f"restore: round {number + 1} of {stage.rounds}")
                one = _restored(stage, shop)
                restored.append(one)
                shares.append(_copied(stage, one.shop) / one.whole)
            last = restored[-1]
            by_size[orders] = median(one.reported for one in restored)
            # Five times as many, which also takes five times as long.
            if time.monotonic() + 4.5 * filling + 7 * last.whole < until:
                _fill(stage, kafka, 4 * orders, last.shop)
                by_size[5 * orders] = _restored(stage, shop).reported
    except KafkaNotPossible as why:
        return left_out(TITLE, HOW, why)
    sizes = ", ".join(f"{figure(rate, '/s')} with {size:,}" for size, rate in by_size.items())
    missing = "" if 5 * orders in by_size else f"; {5 * orders:,} orders did not fit into the time"
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "restore from Kafka, events a second", [one.rate for one in restored], "/s",
                at_least=40_000, want=100_000,
                measured=f"{orders:,} orders and {orders // 10:,} users",
            ),
            Row("the same, against COPY of the same rows", shares, "×", at_least=0.2, want=0.5),
            Row(
                "slowest of three sizes, against the fastest",
                [min(by_size.values()) / max(by_size.values())], "×",
                at_least=0.8, want=0.9, measured=f"{sizes}{missing}",
            ),
            Row(
                "rebuild under load: longest read", [rebuilt.read * 1000], "ms",
                at_least=1000, want=100, less_is_better=True,
                measured=f"{figure(rebuilt.read_before * 1000, 'ms')} without it",
            ),
            Row(
                "rebuild under load: longest order", [rebuilt.order * 1000], "ms",
                at_least=1000, want=100, less_is_better=True,
                measured=f"{figure(rebuilt.order_before * 1000, 'ms')} without it; locks held for"
                f" {figure(rebuilt.held, 'ms')}",
            ),
        ],
    )  # fmt: skip


def sizes(stage: Stage) -> Section:
    """However long it takes."""
    rates: dict[int, list[float]] = {}
    try:
        with broker(stage) as kafka:
            shop = empty_shop(stage, kafka)
            known: Shop | None = None
            filled = 0
            for orders in (stage.number(full) for full in (100_000, 1_000_000, 5_000_000)):
                _fill(stage, kafka, orders - filled, known)
                filled = orders
                rates[orders] = []
                for number in range(min(3, stage.rounds)):
                    stage.say(f"restore: {orders:,} orders, round {number + 1}")
                    restored = _restored(stage, shop)
                    rates[orders].append(restored.reported)
                    if known is not None:
                        _drop(stage, known)
                    known = restored.shop
    except KafkaNotPossible as why:
        return left_out(SIZES, HOW_SIZES, why)
    typical = [median(each) for each in rates.values()]
    return Section(
        SIZES,
        HOW_SIZES,
        [
            *(Row(f"{orders:,} orders", each, "/s") for orders, each in rates.items()),
            Row(
                "slowest size, against the fastest", [min(typical) / max(typical)], "×",
                at_least=0.8, want=0.9,
            ),
        ],
    )  # fmt: skip


def _drop(stage: Stage, shop: Shop) -> None:
    name = psycopg.conninfo.conninfo_to_dict(shop.orders)["dbname"]
    with psycopg.connect(stage.postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} (FORCE)".encode())


def _fill(stage: Stage, kafka: LocalKafka, count: int, known: Shop | None = None) -> None:
    """So many more orders, and a tenth as many users, than this shop's order service knows."""
    stage.say(f"restore: {count:,} orders into Kafka")
    position = order = user = 0
    if known is not None:
        with psycopg.connect(known.orders) as connection:
            row = connection.execute(
                "SELECT position, (SELECT max(id) FROM orders), (SELECT max(id) FROM customers)"
                " FROM outbox_head"
            ).fetchone()
        assert row is not None
        position, order, user = row
    users = count // 10
    kafka_filled.fill(kafka, "users", kafka_filled.users(users, after=user))
    made = kafka_filled.orders(count, of=users, after=order, after_position=position)
    kafka_filled.fill(kafka, "orders", made)


def _restored(stage: Stage, shop: Shop) -> _Restored:
    """With the new database in the place of the old one."""
    url = stage.database("restored")
    service = discovery.load("orders")
    migrate(url, service.tables(), service.migrations)
    shop = replace(shop, orders=url, env={**shop.env, "SHOP_ORDERS__DATABASE_URL": url})
    stage.settle()
    started = time.perf_counter()
    told = _shop(shop, "restore", "orders")
    took = time.perf_counter() - started
    found = re.search(r"(\d+) events read and restored in ([0-9.]+) s", told)
    if found is None or int(found[1]) != _events(shop):
        raise RuntimeError(f"{_events(shop)} rows were restored: {told}")
    return _Restored(shop, int(found[1]), took, float(found[2]))


def _events(shop: Shop) -> int:
    """Each order and each user has one."""
    with psycopg.connect(shop.orders) as connection:
        return sum(
            connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0]
            for table in _TABLES
        )


def _copied(stage: Stage, shop: Shop) -> float:
    """Seconds."""
    url = stage.database("copied")
    service = discovery.load("orders")
    migrate(url, service.tables(), service.migrations)
    files = {table: stage.directory / f"{table}.copy" for table in _TABLES}
    with psycopg.connect(shop.orders) as connection:
        for table, file in files.items():
            with file.open("wb") as out, connection.cursor() as cursor:
                with cursor.copy(f"COPY {table} TO STDOUT (FORMAT binary)".encode()) as copy:
                    for block in copy:
                        out.write(block)
    stage.settle()
    started = time.perf_counter()
    with psycopg.connect(url) as connection:
        for table, file in files.items():
            _copy_in(connection, table, file)
    took = time.perf_counter() - started
    for file in files.values():
        file.unlink()
    return took


def _copy_in(connection: psycopg.Connection, table: str, file: Path) -> None:
    with file.open("rb") as rows, connection.cursor() as cursor:
        with cursor.copy(f"COPY {table} FROM STDIN (FORMAT binary)".encode()) as copy:
            while block := rows.read(1024 * 1024):
                copy.write(block)


def _rebuilt(stage: Stage, shop: Shop) -> _Rebuilt:
    with psycopg.connect(shop.orders, autocommit=True) as connection:
        connection.execute("UPDATE customers SET name = '' WHERE id % 100 = 7")
    with stage.shop_process(shop, "worker", "orders"), stage.shop_process(shop, "api", "orders"):
        with _longest(_reading(shop)) as read, _longest(_placing(shop)) as placed:
            time.sleep(1)
            read.clear()
            placed.clear()
            time.sleep(stage.seconds(10))
            before = max(read), max(placed)
            read.clear()
            placed.clear()
            told = _shop(shop, "rebuild", "orders")
        if "the tables were replaced" not in told:
            raise RuntimeError(told)
        wait_for(lambda: _all_relayed(shop), timeout=30)
        kept = float(told.split("readers and writers waited ")[1].split(" ms")[0])
        return _Rebuilt(*before, max(read), max(placed), kept)


def _all_relayed(shop: Shop) -> bool:
    with psycopg.connect(shop.orders) as connection:
        return bool(
            connection.execute("SELECT FROM relay JOIN outbox_head USING (position)").rowcount
        )


def _reading(shop: Shop) -> Callable[[], None]:
    connection = psycopg.connect(shop.orders, autocommit=True)

    def read() -> None:
        connection.execute("SELECT name FROM customers WHERE id = 1").fetchone()

    return read


def _placing(shop: Shop) -> Callable[[], None]:
    client = httpx.Client(base_url=f"http://{HOST}:{shop.orders_port}", timeout=30)
    order = {"user_id": 1, "product": "coffee", "quantity": 1, "total_price": "10.50"}

    def place() -> None:
        if client.post("/orders", json=order).status_code != 201:
            raise RuntimeError("an order was refused during a rebuild")

    return place


@contextmanager
def _longest(act: Callable[[], None]) -> Iterator[list[float]]:
    """Does it again and again while the block lasts; how long each took."""
    took: list[float] = []
    stopping = threading.Event()
    failed: list[Exception] = []

    def repeat() -> None:
        try:
            while not stopping.is_set():
                started = time.perf_counter()
                act()
                took.append(time.perf_counter() - started)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield took
    finally:
        stopping.set()
        thread.join()
    if failed:
        raise failed[0]


def _shop(shop: Shop, *words: str) -> str:
    command = [sys.executable, "-m", "shop.cli", *words, "--data", "/nowhere"]
    done = subprocess.run(command, env=dict(shop.env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"shop {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout
