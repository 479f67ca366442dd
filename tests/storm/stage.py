"""The shop as a storm meets it: servers, each behind a proxy, and processes that are supervised.

Each service has a PostgreSQL server, and the log is Kafka or another one. Whatever dies is
started again by the same supervisor that `shop up` has, in a thread of its own, since the children
end with the thread that started them.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self
from urllib.parse import urlsplit

import psutil
import psycopg
from psycopg.rows import TupleRow

from devstack.broker import Broker
from devstack.connect import Captured, Connect
from devstack.kafka import QUICK_START
from devstack.postgres import LocalPostgres
from devstack.process import Process
from devstack.supervisor import Server, StartFailed, Supervisor
from eventspine.log import EventLog
from shop.platform import discovery
from shop.platform.discovery import PACKAGES
from shop.platform.event_log import open_event_log
from shop.platform.settings import Settings
from tests.more.services.greetings.reactions import DELIVERIES
from tests.storm import disk, launch
from tests.storm.provider import Provider
from tests.storm.tokens import CLIENT, SCOPES, VALID_S, Tokens
from tests.support.checker import Sources
from tests.support.proxy import Proxy
from tests.support.shop import environment, free_ports
from tests.support.waiting import until

LogKind = Literal["kafka", "postgres", "cdc"]
"""`cdc`: Kafka, fed by Debezium."""

SERVICES = discovery.names()
DATABASES = tuple(f"{service}-db" for service in SERVICES)
SERVERS = (*DATABASES, "log")
_APIS = {"orders": 2}
_WORKERS = {"orders": 3}
APIS = tuple(
    f"{service}-api-{number}"
    for service in SERVICES
    for number in range(1, _APIS.get(service, 1) + 1)
)
WORKERS = tuple(
    f"{service}-worker-{number}"
    for service in SERVICES
    for number in range(1, _WORKERS.get(service, 2) + 1)
)
PROCESSES = (*APIS, *WORKERS)

_ROOT = Path(__file__).parents[2]
_DISK = 512  # megabytes: a new server, its write-ahead log, and an hour of clients

MAX_WAITING = 100
"""Requests that an API lets wait: few enough for a rush to be too many."""

SLOT_LIMIT = 160  # megabytes
RELAY = "relay"
"""The file that says who relays, under change data capture."""

_POSTGRES = {
    "shared_buffers": "64MB",
    # Or an hour's write-ahead log would be kept on the small disk.
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    # Of the small disk. Only change data capture has slots.
    "max_slot_wal_keep_size": f"{SLOT_LIMIT}MB",
    # Or a full disk would go unnoticed until the old segments are used up.
    "wal_recycle": "off",
}

# What no event may do to the copies, as a fault of ours would have it: so an event that is right
# can't be applied until the fault is mended.
UNFIT = "unfit"
_COPIES = {
    "users": ("orders", "product"),
    "orders": ("customers", "name"),
    "greetings": ("people", "name"),
}


class Supervised(Server, Protocol):
    @property
    def pid(self) -> int | None: ...


@dataclass(frozen=True)
class Options:
    log: LogKind = "kafka"
    mutation: str = ""
    """One of `tests.storm.mutations`, or none."""
    key_lead: float = 60.0
    """Seconds that a key is published before it signs: longer than anything is held, with the time to recover."""
    full_disks: bool = True
    """Put each server's data on a small file system of its own, where that can be had."""

    @property
    def on_kafka(self) -> bool:
        return self.log != "postgres"

    @property
    def back_within(self) -> float:
        """Seconds after the last fault in which the old speed is back. Kafka Connect takes half of it to start."""
        return 60.0 if self.log == "cdc" else 30.0


class Stage:
    def __init__(self, directory: Path, options: Options) -> None:
        self.directory = directory
        self.options = options
        self.said: list[str] = []
        """What the supervisor had to tell."""
        self.disks: dict[str, disk.SmallDisk] = {}
        self.proxies: dict[str, Proxy] = {}
        self.servers: dict[str, Supervised] = {}
        self.processes: dict[str, Process] = {}
        self.connect: Connect
        self.settings: dict[str, str] = {}
        self.provider = Provider()
        free = iter(free_ports(len(APIS)))
        self.capturing = threading.Lock()
        """Held by what changes slots: one thing at a time."""
        self.ports = {
            service: [next(free) for _ in range(_APIS.get(service, 1))] for service in SERVICES
        }
        self._stopping = threading.Event()
        self._began = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    # Its life

    def __enter__(self) -> Self:
        self._thread.start()
        self._began.wait()
        if self._failed:
            self.__exit__(None, None, None)
            raise self._failed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in (*self.servers, *self.processes):
            self.thaw(name)
        for proxy in self.proxies.values():
            proxy.heal()
        for small in self.disks.values():
            small.free()
        self._stopping.set()
        self._thread.join(60)
        self.provider.close()
        for proxy in self.proxies.values():
            proxy.close()
        with suppress(FileNotFoundError):
            # The others log elsewhere; this one's goes with its disk.
            shutil.copy(self._data("log") / "kafka.log", self.directory / "logs")
        for small in self.disks.values():
            small.close()

    def _supervise(self) -> None:
        supervisor = Supervisor(say=self._say, pause=self._pause)
        try:
            self._start(supervisor)
            self._began.set()
            supervisor.watch()
        except _Stopped:
            pass
        except BaseException as error:
            self._failed = error
        finally:
            self._began.set()
            supervisor.stop(10)

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _Stopped

    def _say(self, line: str) -> None:
        self.said.append(f"{time.strftime('%H:%M:%S')} {line}")

    def _start(self, supervisor: Supervisor) -> None:
        for name in SERVERS:
            self._add_server(name)
        supervisor.start(*self.servers.values(), timeout=120)
        databases = dict.fromkeys(SERVICES, "")
        for service in SERVICES:
            databases[service] = self._have_database(f"{service}-db", service)
            self.settings[f"SHOP_{service.upper()}__DATABASE_URL"] = self._by_proxy(service)
        self.settings |= {
            **self._log_settings(),
            # Not the one of a shop that a person may be running here.
            "SHOP_DATA_DIR": str(self.directory / "none"),
            "SHOP_MAX_WAITING": str(MAX_WAITING),
            PACKAGES: os.environ[PACKAGES],
            "SHOP_GREETINGS__PROVIDER_URL": self.provider.url,
            **self._auth_settings(),
        }
        # Past the proxies, so that what looks on is not struck.
        self.sources = Sources(databases, self.open_log)
        migrated = self.run("migrate")
        if migrated.returncode:
            raise StartFailed(f"the databases could not be migrated: {migrated.stderr}")
        # First: the keys publish events, and `mutations/head_lock` needs its sequence for that.
        for service in SERVICES:
            self.execute(service, launch.LEDGER_SQL)
        self.tokens = Tokens(self.ports["users"], self._first_key_and_client())
        self.execute("greetings", DELIVERIES)
        self.refuse_unfit()
        self.processes = {}
        if self.options.log == "cdc":
            self.processes["connect"] = self.connect = self._begin_capture()
        self.processes |= {name: self._process(name) for name in PROCESSES}
        supervisor.start(*self.processes.values(), timeout=120)

    def _add_server(self, name: str) -> None:
        if self.options.full_disks and disk.possible() is None:
            self.disks[name] = disk.SmallDisk(self.directory / name, _DISK)
        data = self._data(name)
        if name == "log" and self.options.on_kafka:
            broker = Broker(data, java_options=QUICK_START)
            host, port = broker.bootstrap_servers.split(":")
            self.proxies[name] = Proxy((host, int(port)))
            broker.advertise(f"127.0.0.1:{self.proxies[name].port}")
            self.servers[name] = broker
        else:
            log = self.directory / "logs" / f"{name}.log"
            server = LocalPostgres(data, settings=_POSTGRES, log=log, say=self._say)
            server.name = name
            self.proxies[name] = Proxy(str(server.socket_dir / ".s.PGSQL.5432"))
            self.servers[name] = server

    def _data(self, name: str) -> Path:
        # A step down from where a disk is mounted: PostgreSQL wants a directory that is its own.
        return self.directory / name / "data"

    def _have_database(self, name: str, database: str) -> str:
        server = self.servers[name]
        assert isinstance(server, LocalPostgres)
        server.ensure_databases([database])
        return server.dsn(database)

    def _by_proxy(self, database: str) -> str:
        name = "log" if database == "log" else f"{database}-db"
        return f"postgresql://{database}@127.0.0.1:{self.proxies[name].port}/{database}"

    def _log_settings(self) -> Mapping[str, str]:
        if self.options.on_kafka:
            servers = f"127.0.0.1:{self.proxies['log'].port}"
            return {"SHOP_EVENT_LOG": "kafka", "SHOP_KAFKA__BOOTSTRAP_SERVERS": servers}
        self._log_url = self._have_database("log", "log")
        return {"SHOP_EVENT_LOG": "postgres", "SHOP_EVENT_LOG_URL": self._by_proxy("log")}

    def _auth_settings(self) -> Mapping[str, str]:
        file = self.directory / "key-encryption-key"
        file.touch(0o600)
        file.write_text(b64encode(secrets.token_bytes(32)).decode())
        return {
            "SHOP_AUTH__REQUIRED": "true",
            "SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE": str(file),
            "SHOP_AUTH__ACCESS_TOKEN_S": str(VALID_S),
            # It is one client to the shop, and shall be the only one to hold itself back.
            "SHOP_AUTH__SERVICE_REQUESTS_A_SECOND": "1000000",
            # It is counted in running time, which stands still while workers are dead. `rotated_at` is the
            # storm's own.
            "SHOP_USERS__KEY_LEAD_S": "0",
        }

    def _begin_capture(self) -> Connect:
        """Debezium, not started yet, with slots. Its connections go through the proxies."""
        (self.directory / RELAY).write_text("cdc")
        self.settings["SHOP_RELAY_FILE"] = str(self.directory / RELAY)
        for service in SERVICES:
            server = self.servers[f"{service}-db"]
            assert isinstance(server, LocalPostgres)
            server.ensure_replicators([service])
            url = self._by_proxy(service).replace(f"//{service}@", f"//{service}_cdc@")
            self.settings[f"SHOP_{service.upper()}__CDC_DATABASE_URL"] = url
        for words in (["migrate"], ["cdc", "begin"]):
            done = self.run(*words)
            if done.returncode:
                raise StartFailed(f"change data capture could not begin: {done.stderr}")
        connect = Connect(
            self.directory / "connect",
            f"127.0.0.1:{self.proxies['log'].port}",
            [
                Captured(each, "127.0.0.1", self.proxies[f"{each}-db"].port, f"{each}_cdc")
                for each in SERVICES
            ],
            log=self.directory / "logs" / "connect.log",
            java_options=QUICK_START,
        )
        self.settings["SHOP_CONNECT_URL"] = connect.url
        return connect

    def _first_key_and_client(self) -> str:
        """The client's secret."""
        scopes = (word for scope in SCOPES for word in ("--scope", scope))
        # The first signs at once; the second one is the next.
        made = [self.run("keys", "new"), self.run("keys", "new")]
        self.rotated_at = time.monotonic()
        made.append(self.run("clients", "new", CLIENT, *scopes))
        for done in made:
            if done.returncode:
                raise StartFailed(f"no token can be had: {done.stderr}")
        return made[-1].stdout.strip()

    # Processes

    def armed(self, name: str) -> Path:
        """Where failpoints are armed for all processes of this one's kind, `orders-worker` say."""
        kind = "-".join(name.split("-")[:2])
        return self.directory / "armed" / kind

    def _process(self, name: str) -> Process:
        service, part = name.split("-")[:2]
        self.armed(name).mkdir(parents=True, exist_ok=True)
        own = {"STORM_ARMED": str(self.armed(name)), "STORM_LEDGER": "1"}
        if part == "api":
            number = int(name.rpartition("-")[2]) - 1
            own[f"SHOP_{service.upper()}__PORT"] = str(self.ports[service][number])
        return Process(
            name,
            _command(part, service),
            log=self.directory / "logs" / f"{name}.log",
            env=self._environment(**own),
        )

    def _environment(self, **own: str) -> dict[str, str]:
        mutation = {"STORM_MUTATION": self.options.mutation} if self.options.mutation else {}
        path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        others = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}
        return environment(**self.settings) | others | mutation | own

    def another_worker(self, service: str, number: int) -> Process:
        """One more, which nobody supervises."""
        return self._process(f"{service}-worker-{number}")

    def run(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A command of the shop's beside everything, as a person would run it, and as it is."""
        return subprocess.run(
            _command(*words), env=self._environment(STORM_LEDGER="1"),
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def living(self, name: str, timeout: float = 120) -> int:
        """The process id, once it is there again: the last fault may have been its own.

        A server has to be ready. A process need not: just born is as good a moment as any.
        """

        def found() -> int | None:
            part: Supervised = self.servers.get(name) or self.processes[name]
            in_order = name in self.processes or part.ready()
            return part.pid if in_order and part.ended() is None else None

        return until(found, f"{name} runs", timeout) or 0

    def kill(self, name: str) -> None:
        self._signal(self.living(name), signal.SIGKILL, alone=True)

    def end(self, name: str) -> None:
        """Ask it to stop; it is started again."""
        self._signal(self.living(name), signal.SIGTERM, alone=True)

    def freeze(self, name: str) -> None:
        """With all its children: a server stands still as a whole."""
        self._signal(self.living(name), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        part: Supervised | None = self.servers.get(name) or self.processes.get(name)
        if part and part.pid and part.ended() is None:
            self._signal(part.pid, signal.SIGCONT)

    def _signal(self, pid: int, number: signal.Signals, *, alone: bool = False) -> None:
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(pid)
            for process in [top] if alone else [top, *top.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    # What is there

    def open_log(self) -> EventLog:
        settings = (
            Settings(event_log="kafka", kafka={"bootstrap_servers": self._bootstrap})
            if self.options.on_kafka
            else Settings(event_log="postgres", event_log_url=self._log_url)
        )
        return open_event_log(settings)

    @property
    def _bootstrap(self) -> str:
        broker = self.servers["log"]
        assert isinstance(broker, Broker)
        return broker.bootstrap_servers

    def url(self, database: str) -> str:
        """Past the proxy."""
        return self._log_url if database == "log" else self.sources.databases[database]

    def rows(self, database: str, sql: str, *params: object) -> list[TupleRow]:
        """As the superuser. Asked again until the server answers."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.once(database, sql, *params)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def once(self, database: str, sql: str, *params: object) -> list[TupleRow]:
        url = urlsplit(self.url(database))._replace(netloc="postgres@").geturl()
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            found = connection.execute(sql.encode(), params or None)
            return [] if found.description is None else found.fetchall()

    def execute(self, database: str, sql: str) -> None:
        """As the database's own role, which then owns what is made."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            connection.execute(sql.encode())

    def refuse_unfit(self) -> None:
        for service in SERVICES:
            table, column = _COPIES[service]
            fit = f"CHECK ({column} NOT LIKE '{UNFIT}%') NOT VALID"
            self.execute(service, f"ALTER TABLE {table} ADD CONSTRAINT fit {fit}")

    def take_unfit(self) -> None:
        for service in SERVICES:
            self.execute(service, f"ALTER TABLE {_COPIES[service][0]} DROP CONSTRAINT fit")


class _Stopped(Exception):
    """Raised only by a pause, so never halfway through."""


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tests.storm.launch", *words]
