"""Measures `shop restore` from Kafka against COPY, and how long the swap of `shop rebuild` keeps others waiting."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg

from benchmarks.kafka_stage import broker, empty_shop, left_out
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_orders, add_users, wake_relay
from benchmarks.stage import HOST, Shop, Stage
from devstack.kafka import KafkaNotPossible, LocalKafka
from shop.platform import discovery
from shop.platform.migrations import migrate

TITLE = "Restore and rebuild"
HOW = """\
Kafka holds the events of orders and users: ten orders for each user. The order service's database is empty, and
`shop restore orders` restores it: its orders, its customers and its checkpoints. The time is that of the whole command. The
events are all that it reads: those of both topics.

For comparison, the restored rows of both tables are written by `COPY … FROM STDIN` (binary) into the same tables with the same
indexes in another empty database, one after the other, from a file. The time does not include writing the file.

The restore is measured with a tenth of the orders, with all of them, and with five times as many.

Then some customers are damaged, and `shop rebuild orders` runs beside the API and the worker, while one client reads a
customer's row and another one places orders, each as often as it can. The time is the longest of all reads and of all
orders while the rebuild runs.
"""

_TABLES = ("orders", "customers")


def run(stage: Stage) -> Section:
    orders = stage.number(1_000_000, least=20_000)
    rates: list[float] = []
    shares: list[float] = []
    flat: list[float] = []
    large: list[float] = []
    reads: list[float] = []
    writes: list[float] = []
    held: list[float] = []
    try:
        with broker(stage) as kafka:
            for number in range(stage.rounds):
                stage.say(f"restore and rebuild: round {number + 1} of {stage.rounds}")
                small = _restored(stage, kafka, orders // 10)[0]
                rate, shop = _restored(stage, kafka, orders)
                rates.append(rate)
                shares.append(rate * _copied(stage, shop) / _events(shop))
                read, write, kept = _rebuilt(stage, shop)
                reads.append(read * 1000)
                writes.append(write * 1000)
                held.append(kept)
                large.append(_restored(stage, kafka, orders * 5)[0])
                flat.append(min(small, rate, large[-1]) / max(small, rate, large[-1]))
    except KafkaNotPossible as why:
        return left_out(TITLE, HOW, why)
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "restore from Kafka, events a second", rates, "/s",
                at_least=40_000, want=100_000,
                measured=f"{orders:,} orders and {orders // 10:,} users",
            ),
            Row("the same, against COPY of the same rows", shares, "×", at_least=0.2, want=0.5),
            Row(
                "slowest of three sizes, against the fastest", flat, "×",
                at_least=0.8, want=0.9, measured=f"{spread(large, '/s')} with {orders * 5:,} orders",
            ),
            Row(
                "rebuild under load: longest read", reads, "ms",
                at_least=1000, want=100, less_is_better=True,
            ),
            Row(
                "rebuild under load: longest order", writes, "ms",
                at_least=1000, want=100, less_is_better=True,
                measured=f"locks held for {spread(held, 'ms')}",
            ),
        ],
    )  # fmt: skip


def _restored(stage: Stage, kafka: LocalKafka, orders: int) -> tuple[float, Shop]:
    """Events a second, and the shop with the restored database."""
    shop = empty_shop(stage, kafka)
    users = orders // 10
    add_users(shop.users, users)
    add_orders(shop.orders, orders, customers=users)
    for name, database, count in (("users", shop.users, users), ("orders", shop.orders, orders)):
        with stage.shop_process(shop, "worker", name):
            wake_relay(database)
            _until(database, "SELECT position FROM relay", count)
    url = stage.database("restored")
    service = discovery.load("orders")
    migrate(url, service.tables(), service.migrations)
    shop = replace(shop, orders=url, env={**shop.env, "SHOP_ORDERS__DATABASE_URL": url})
    stage.settle()
    started = time.perf_counter()
    _shop(shop, "restore", "orders")
    took = time.perf_counter() - started
    events = _events(shop)
    if events != orders + users:
        raise RuntimeError(f"{events} rows were restored, not {orders + users}")
    return events / took, shop


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


def _rebuilt(stage: Stage, shop: Shop) -> tuple[float, float, float]:
    """The longest read and the longest order, in seconds, and the milliseconds that the command reports."""
    with psycopg.connect(shop.orders, autocommit=True) as connection:
        connection.execute("UPDATE customers SET name = '' WHERE id % 100 = 7")
    with stage.shop_process(shop, "worker", "orders"), stage.shop_process(shop, "api", "orders"):
        with _longest(_reading(shop)) as read, _longest(_placing(shop)) as placed:
            time.sleep(2)
            read.clear()
            placed.clear()
            told = _shop(shop, "rebuild", "orders")
        if "the tables were replaced" not in told:
            raise RuntimeError(told)
        kept = float(told.split("readers and writers waited ")[1].split(" ms")[0])
        return max(read), max(placed), kept


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


def _until(database: str, progress: str, enough: int) -> None:
    deadline = time.monotonic() + 600
    with psycopg.connect(database, autocommit=True) as connection:
        while True:
            row = connection.execute(progress.encode()).fetchone()
            if row and row[0] >= enough:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{row} of {enough} after 600 s")
            time.sleep(0.05)
