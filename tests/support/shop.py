"""The real command, as a person starts it, and what a test may do to it."""

import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
from psycopg.rows import TupleRow

from shop.platform import discovery
from shop.platform.discovery import PACKAGES
from shop.platform.event_log import open_event_log
from shop.platform.settings import Settings
from tests.support.checker import Sources

WITHOUT_FRONTS = tuple(f"--without={name}" for name in discovery.fronts())
"""For `shop up` in a test that looks at no pages."""

PARTS = ("users-api", "users-worker", "orders-api", "orders-worker")


def shop_command(*words: object) -> list[str]:
    return [sys.executable, "-m", "shop.cli", *map(str, words)]


def environment(**settings: object) -> dict[str, str]:
    """This process's, with these settings of the shop's and no others."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SHOP_")}
    return own | {name: str(value) for name, value in settings.items()}


def run_shop(*words: object, timeout: float = 90, **settings: object) -> subprocess.CompletedProcess[str]:  # fmt: skip
    if words[:1] == ("migrate",):
        # The tests' own server is one without fsync.
        settings = {"SHOP_ACCEPT_DATA_LOSS": "true", **settings}
    return subprocess.run(
        shop_command(*words),
        env=environment(**settings), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


_OURS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
_PORTS = random.sample(range(10_000 + 1_250 * _OURS, 11_250 + 1_250 * _OURS), 1_250)
_next_ports = itertools.cycle(_PORTS)


def free_ports(count: int) -> list[int]:
    """Ports below those the system gives to outgoing connections: one of a client's must not take the
    place of a server that is being restarted. Each process that runs tests has ports of its own, and gives each once
    before it begins anew, because some time passes before a server listens.
    """
    tried = itertools.islice(_next_ports, len(_PORTS))
    return list(itertools.islice(filter(_is_free, tried), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def answers(client: httpx.Client) -> bool:
    """Whether the API behind it is there."""
    try:
        return client.get("/health/live").is_success
    except httpx.TransportError:
        return False


class Output:
    """The lines of a process, read as they come, so that it never waits for its reader."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._news = threading.Condition()
        self._ended = False
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def until(self, text: str, *, after: int = 0, timeout: float = 60) -> str:
        """The first line with this text, among those after the first `after`."""

        def found() -> str | None:
            return next((line for line in self.lines[after:] if text in line), None)

        with self._news:
            self._news.wait_for(lambda: found() or self._ended, timeout)
        line = found()
        assert line is not None, f"it did not say {text!r}:\n" + "\n".join(self.lines)
        return line

    def close(self) -> None:
        self._thread.join(30)
        assert self._process.stdout
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Running:
    """One `shop` command that goes on until it is stopped."""

    def __init__(
        self, *words: object, by: Callable[..., list[str]] = shop_command, **settings: object
    ) -> None:
        self.process = subprocess.Popen(
            by(*words),
            env=environment(**settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.output = Output(self.process)

    def stop(self, number: signal.Signals = signal.SIGINT, timeout: float = 40) -> int:
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.output.close()
            raise
        self.output.close()
        return status


class Shop:
    """`shop up` on a data directory: started, stopped, killed and started again."""

    def __init__(
        self,
        data: Path,
        options: Sequence[str] = (),
        fronts: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        """`fronts`: those to start. Most tests look at none, and each costs a process."""
        self.data = data
        packages = str(settings.get(PACKAGES, "shop.services"))
        self.services = tuple(discovery._find(packages))
        names = (*self.services, *fronts)
        free = free_ports(len(names))
        self.ports = {name: [port] for name, port in zip(names, free, strict=True)}
        self._without = sorted({*discovery._find_fronts(packages)} - {*fronts})
        [self.users_port], [self.orders_port] = self.ports["users"], self.ports["orders"]
        self._options = options
        # A busy machine may take longer than the two seconds of the default to tell of a new customer.
        self._settings = {"SHOP_ORDERS__CUSTOMER_GRACE_MS": 5000, **settings}
        self._up: Running | None = None
        self.users = httpx.Client(base_url=f"http://127.0.0.1:{self.users_port}", timeout=30)
        self.orders = httpx.Client(base_url=f"http://127.0.0.1:{self.orders_port}", timeout=30)

    @property
    def up(self) -> Running:
        assert self._up, "it was not started"
        return self._up

    def start(self, within: float = 90) -> str:
        """The line that says that all is ready."""
        self._up = Running(
            "up", "--data", self.data, *self._at_ports(), *self._options, **self._settings,
        )  # fmt: skip
        return self.up.output.until("eventshop is ready", timeout=within)

    def _at_ports(self) -> list[str]:
        ports = [f"--port={name}={port}" for name, [port] in self.ports.items()]
        return [*ports, *(f"--without={name}" for name in self._without)]

    def close(self) -> None:
        """End everything that is still there, whatever became of it."""
        self.users.close()
        self.orders.close()
        if self._up is None:
            return
        left = self.processes() if self.up.process.poll() is None else []
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            self.up.stop()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def run(self, *words: object, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Another command, beside it."""
        return run_shop(*words, "--data", self.data, **settings)

    def processes(self) -> list[psutil.Process]:
        """Itself and all below it."""
        top = psutil.Process(self.up.process.pid)
        return [top, *top.children(recursive=True)]

    def part(self, name: str) -> psutil.Process:
        """One of `PARTS`, or "postgres"."""
        words = name.split("-")[::-1]
        for child in psutil.Process(self.up.process.pid).children():
            command = child.cmdline()
            if command[-2:] == words or (words == ["postgres"] and "/postgres" in command[0]):
                return child
        raise AssertionError(f"there is no {name}")

    def backends(self, database: str) -> list[psutil.Process]:
        """PostgreSQL's processes that serve connections to this database."""
        pids = self.rows(
            "postgres", "SELECT pid FROM pg_stat_activity WHERE datname = %s", database
        )
        return [psutil.Process(pid) for (pid,) in pids]

    def rows(self, database: str, sql: str, *params: object) -> list[TupleRow]:
        with psycopg.connect(self._url(database), autocommit=True) as connection:
            return connection.execute(sql.encode(), params or None).fetchall()

    def sources(self) -> Sources:
        """All that a checker may look at. Opens nothing yet."""
        running = json.loads((self.data / "running.json").read_text())
        kafka = {
            name.removeprefix("SHOP_KAFKA__").lower(): value
            for name, value in running.items()
            if name.startswith("SHOP_KAFKA__")
        }
        settings = Settings(
            event_log=running["SHOP_EVENT_LOG"],
            event_log_url=running.get("SHOP_EVENT_LOG_URL", ""),
            kafka=kafka,
        )
        return Sources(
            {name: self._url(name) for name in self.services},
            open_log=lambda: open_event_log(settings),
        )

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.data / 'postgres'}&port=5432"


def gone(processes: Sequence[psutil.Process]) -> bool:
    """Whether all of them have ended; what init has not yet collected has."""
    return not [each for each in processes if alive(each)]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def new_user(**fields: str) -> dict[str, str]:
    """A user whose e-mail nobody has yet."""
    unique = f"{random.getrandbits(60):x}"
    return {"email": f"{unique}@example.com", "name": f"Name {unique}", **fields}


def new_order(user_id: int, **fields: Any) -> dict[str, Any]:
    return {"user_id": user_id, "product": "tea", "quantity": 2, "total_price": "7.50", **fields}


def json_lines(text: str) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


TRACEBACK = re.compile(r"Traceback|File \"")
