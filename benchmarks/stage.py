"""The environment of the benchmarks: one PostgreSQL with production settings, and real processes."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from devstack.postgres import LocalPostgres, _binaries
from devstack.process import Process
from devstack.supervisor import wait_ready
from eventspine.log_tables import metadata as log_metadata
from eventspine.postgres_log import PostgresLog
from shop.platform import discovery
from shop.platform.migrations import migrate

HOST = "127.0.0.1"
PROJECT = Path(__file__).parents[1]
_LOG_MIGRATIONS = PROJECT / "src" / "eventspine" / "migrations" / "log"


@dataclass(frozen=True)
class Shop:
    """The databases of one shop, and the environment of its processes."""

    users: str
    orders: str
    log: str
    users_port: int
    orders_port: int
    env: Mapping[str, str]

    @property
    def orders_url(self) -> str:
        return f"http://{HOST}:{self.orders_port}/orders"


@dataclass
class Stage:
    """`effort` scales the amount of work: 1.0 for valid figures, less for a smoke run."""

    postgres: LocalPostgres
    directory: Path
    rounds: int
    effort: float = 1.0
    say: Callable[[str], None] = print
    made: int = field(default=0, init=False)

    def seconds(self, full: float) -> float:
        return max(1.0, full * self.effort)

    def number(self, full: int, least: int = 100) -> int:
        return max(least, int(full * self.effort))

    def database(self, name: str) -> str:
        """Create a database. Returns its URL."""
        self.made += 1
        name = f"{name}_{self.made}"
        with psycopg.connect(self.postgres.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        return self.postgres.dsn(name, "postgres")

    def shop(self, kafka: str | None = None, partitions: int = 12) -> Shop:
        """New migrated databases and two free ports. `kafka` names a broker to use instead of the table."""
        urls = {name: self.database(f"shop_{name}") for name in (*discovery.names(), "log")}
        ports = {name: free_port() for name in discovery.names()}
        for name in discovery.names():
            service = discovery.load(name)
            migrate(urls[name], service.tables(), service.migrations)
        env = {**os.environ, "PYTHONUNBUFFERED": "1", "SHOP_LOG_LEVEL": "warning"}
        for name in discovery.names():
            env[f"SHOP_{name.upper()}__DATABASE_URL"] = urls[name]
            env[f"SHOP_{name.upper()}__PORT"] = str(ports[name])
        if kafka is None:
            migrate(urls["log"], log_metadata, _LOG_MIGRATIONS)
            env |= {"SHOP_EVENT_LOG": "postgres", "SHOP_EVENT_LOG_URL": urls["log"]}
        else:
            env |= {
                "SHOP_EVENT_LOG": "kafka",
                "SHOP_KAFKA__BOOTSTRAP_SERVERS": kafka,
                "SHOP_KAFKA_PARTITIONS": str(partitions),
            }
        return Shop(
            users=urls["users"],
            orders=urls["orders"],
            log=urls["log"],
            users_port=ports["users"],
            orders_port=ports["orders"],
            env=env,
        )

    @contextmanager
    def running(
        self,
        name: str,
        *words: str,
        env: Mapping[str, str],
        answers: Callable[[], bool] | None = None,
    ) -> Iterator[Process]:
        """Run `python -m words…` as a process: it is ready when the block starts, and stops at its end."""
        log = self.directory / "logs" / f"{name}.log"
        argv = [sys.executable, "-m", *words]
        process = Process(name, argv, log=log, env=env, answers=answers)
        process.start()
        try:
            wait_ready(process, 30.0)
            yield process
            if (why := process.ended()) is not None:
                raise RuntimeError(f"{name} ended while it was measured: {why}")
        finally:
            process.stop(5.0)

    @contextmanager
    def shop_process(self, shop: Shop, part: str, service: str) -> Iterator[Process]:
        """Run a process of the shop, such as `shop api orders`."""
        name = f"{service}-{part}-{self.made}"
        with self.running(name, "shop.cli", part, service, env=shop.env) as process:
            yield process

    @contextmanager
    def baseline(self, kind: str, database: str, **more: str) -> Iterator[str]:
        """Run `baseline_service.py` as `kind`. Yields the address of its orders."""
        port = free_port()
        env = {**os.environ, **more, "BASELINE": kind, "DATABASE_URL": database}
        words = (
            *("uvicorn", "--factory", "benchmarks.baseline_service:app"),
            *("--host", HOST, "--port", str(port), "--loop", "uvloop", "--http", "httptools"),
            *("--no-access-log", "--log-level", "warning"),
        )
        with self.running(f"baseline-{kind}", *words, env=env, answers=lambda: listens(port)):
            yield f"http://{HOST}:{port}/orders"

    def settle(self) -> None:
        """Write dirty pages of earlier measurements to disk, so that they do not slow the next one."""
        with psycopg.connect(self.postgres.dsn("postgres"), autocommit=True) as admin:
            admin.execute("CHECKPOINT")


def create_topics(shop: Shop) -> None:
    """Create the topics in the log that is a table. On Kafka, `shop migrate` creates them."""
    import asyncio  # noqa: PLC0415

    async def create() -> None:
        log = PostgresLog(shop.log)
        for name in discovery.names():
            await log.create_topic(discovery.load(name).topic)
        await log.close()

    asyncio.run(create())


def program(name: str) -> str:
    """The path of one of PostgreSQL's own programs."""
    return str(_binaries() / name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=0.2).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool], *, timeout: float, pause: float = 0.005) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s")
        time.sleep(pause)
