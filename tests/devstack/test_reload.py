"""`shop up --reload`, with stand-ins for the shop's own processes: which one runs an edited file."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.up import read_until, stop

STAND_IN = """
import os, signal, sys, time
from shop.platform.processes.ready import notify_ready
task, *service = sys.argv[1:]
if task == "migrate":
    import fresh.services.users.migrations.first
    sys.exit()
import fresh.contracts.users
if service[0] == "users":
    import fresh.services.users.app
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(os.getpid(), "runs")
notify_ready()
while True:
    time.sleep(60)
"""

UP = """
import sys
from pathlib import Path
from devstack.up import run
from devstack.up_options import LocalService, UpOptions
data, users, orders, stand_in = sys.argv[1:]
services = [LocalService("users", int(users)), LocalService("orders", int(orders))]
sys.exit(run(UpOptions(Path(data), services, reload=True),
             lambda *words: [sys.executable, "-c", stand_in, *words]))
"""

PARTS = ("users-api", "users-worker", "orders-api", "orders-worker")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Two services, in a package of their own."""
    package = tmp_path / "fresh"
    for name in ("users", "orders"):
        (package / "services" / name / "migrations").mkdir(parents=True)
        for part in ("__init__", "app", "settings", "migrations/first"):
            (package / "services" / name / f"{part}.py").touch()
    (package / "contracts").mkdir()
    for name in ("users", "orders"):
        (package / "contracts" / f"{name}.py").touch()
    return package


@pytest.fixture
def up(
    code: Path, tmp_path: Path, ports: tuple[int, int]
) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    words = [tmp_path / "data", *ports, STAND_IN]
    up = subprocess.Popen(
        [sys.executable, "-c", UP, *map(str, words)],
        env={
            **os.environ,
            "SHOP_SERVICES": "fresh.services",
            "PYTHONPATH": str(code.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        read_until(up, "eventshop is ready")
        yield up
    finally:
        up.kill()
        up.communicate()


def pids(tmp_path: Path) -> list[str]:
    """Of the latest run of each part."""
    logs = [(tmp_path / "data" / "logs" / f"{part}.log").read_text() for part in PARTS]
    return [log.splitlines()[-1].split()[0] for log in logs]


def read_until_all(up: subprocess.Popen[str], *texts: str) -> list[str]:
    """The lines until each of these has been seen, in any order."""
    lines: list[str] = []
    while not all(any(text in line for line in lines) for text in texts):
        lines += read_until(up, "")
    return lines


def test_a_process_is_started_again_after_an_edit_and_an_error_waits_for_the_next(
    up: subprocess.Popen[str], code: Path, tmp_path: Path
) -> None:
    app, shared = code / "services" / "users" / "app.py", code / "contracts" / "users.py"
    first = pids(tmp_path)

    app.write_text("x = 1\n")
    assert read_until(up, "saved")[-1] == "app.py saved; starting again: users"
    read_until_all(up, "users-api is ready again", "users-worker is ready again")
    second = pids(tmp_path)
    assert [new != old for new, old in zip(second, first, strict=True)] == [
        True,
        True,
        False,
        False,
    ]

    app.write_text("x = = 2\n")
    lines = read_until_all(up, "users-api does not start", "users-worker does not start")
    assert [line for line in lines if "x = = 2" in line]
    assert [line for line in lines if line.startswith("users-api does not start")] == [
        "users-api does not start: exit status 1: SyntaxError: invalid syntax; the next save tries again"
    ]
    app.write_text("x = 2\n")
    lines = read_until_all(up, "users-api is ready again", "users-worker is ready again")
    assert not [line for line in lines if "does not start" in line], "it was tried in between"
    assert pids(tmp_path)[2:] == first[2:]

    shared.write_text("y = 1\n")
    lines = read_until_all(up, *(f"{part} is ready again" for part in PARTS))
    assert "users.py saved; starting again: users, orders" in lines
    assert not set(pids(tmp_path)) & set(first)
    stop(up)


@pytest.mark.heavy
def test_a_migration_that_was_edited_is_run_before_anything_starts_again(
    up: subprocess.Popen[str], code: Path, tmp_path: Path
) -> None:
    first = pids(tmp_path)
    migration = code / "services" / "users" / "migrations" / "first.py"
    migration.write_text("raise SystemExit('no such column')\n")
    *_, said = read_until(up, "the next save tries again")
    assert said.startswith("the databases could not be migrated (exit status 1: no such column)")
    assert pids(tmp_path) == first

    migration.write_text("")
    read_until_all(up, "users-api is ready again", "users-worker is ready again")
    assert pids(tmp_path)[2:] == first[2:]
    stop(up)
