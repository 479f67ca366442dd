"""The launcher: failpoints strike once and where they are said to be, and the ledger tells of repeats."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.storm import launch
from tests.support.databases import Databases
from tests.support.living import living, settings
from tests.support.shop import environment, free_ports, new_user
from tests.support.waiting import until

PROJECT = Path(__file__).parents[2]
TIMEOUT = 60.0  # seconds

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def armed(tmp_path: Path) -> Path:
    directory = tmp_path / "armed"
    directory.mkdir()
    return directory


@pytest.fixture
def with_ledger(databases: Databases) -> Databases:
    for url in (databases.users, databases.orders):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(launch.LEDGER_SQL)
    return databases


@pytest.fixture
def start(with_ledger: Databases, armed: Path) -> Iterator[Start]:
    with ExitStack() as ends:

        def start(*words: str, **own: object) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                launch.command(*words),
                env=environment(**settings(with_ledger), **own) | launch.environment(armed),
                cwd=PROJECT,
            )
            ends.callback(_end, process)
            return process

        yield start


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGCONT)
    process.kill()
    process.wait()


def rows(url: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def test_an_api_is_frozen_before_and_killed_after_the_commit(
    start: Start, armed: Path, databases: Databases
) -> None:
    [port] = free_ports(1)
    process = start("api", "users", SHOP_USERS__PORT=port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:

        def answers() -> bool:
            with suppress(httpx.TransportError):
                return client.get("/health/ready").is_success
            return False

        until(answers, "it answers", TIMEOUT)
        launch.arm(armed, "committing", "freeze 0.5", service="users")
        began = time.monotonic()
        assert client.post("/users", json=new_user()).status_code == 201
        assert time.monotonic() - began > 0.4
        [struck] = launch.fired(armed, "committing", "users")
        assert struck == (process.pid, "api", "users", "freeze 0.5")

        launch.arm(armed, "committed", "kill")
        with pytest.raises(httpx.TransportError):
            client.post("/users", json=new_user())
    assert process.wait(TIMEOUT) == -signal.SIGKILL
    assert [struck.pid for struck in launch.fired(armed, "committed")] == [process.pid]
    assert rows(databases.users, "SELECT count(*) FROM users") == [(2,)]
    launch.disarm(armed)
    assert launch.fired(armed, "committed") == []


async def test_a_batch_that_a_worker_was_killed_in_is_applied_once_by_the_next(
    start: Start, armed: Path, databases: Databases
) -> None:
    async with living(databases) as system:
        await system.create(1)
    launch.arm(armed, "effects", "kill", service="orders")
    launch.arm(armed, "appended", "kill", service="users")
    relaying, applying = start("worker", "users"), start("worker", "orders")
    for process in (relaying, applying):
        assert process.wait(TIMEOUT) == -signal.SIGKILL
    assert rows(databases.orders, "SELECT * FROM storm_ledger") == []
    start("worker", "users")
    start("worker", "orders")
    until(lambda: rows(databases.orders, "SELECT * FROM customers"), "it is applied", TIMEOUT)
    until(
        lambda: rows(databases.log, "SELECT count(*) FROM log_records WHERE topic = 'users'")
        == [(2,)],
        "the next relay repeats it", TIMEOUT,
    )  # fmt: skip
    until(
        lambda: rows(databases.orders, "SELECT next_offset FROM cursors") == [(2,)],
        "the repeat is read", TIMEOUT,
    )  # fmt: skip
    entered = 'SELECT topic, partition, "offset", position, key, version, retried FROM storm_ledger'
    assert rows(databases.orders, entered) == [("users", 0, 0, 1, "1", 1, False)]
