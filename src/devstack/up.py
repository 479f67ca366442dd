"""`shop up`: runs the whole shop on this machine, with one command, until Ctrl-C.

All its data is in one directory: `VERSION` (of this layout), `lock`, `postgres/` and `logs/`. While it runs,
`running.json` holds the settings of its processes. One PostgreSQL server has a database for each service and
one for the log. Each service has an API process and a worker process. They get the same settings as in
production.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import psycopg

from devstack.auth import FIRST_KEY, auth_settings
from devstack.data import check_format, locked, place
from devstack.files import hand_over, locked_out, make_folder, require_access, write_whole
from devstack.ports import WantedPort, check_ports
from devstack.postgres import CRASH_RECOVERY, LocalPostgres
from devstack.process import FIRST_SIGNAL, LogFile, Process
from devstack.supervisor import Pause, StartFailed, Supervisor, say
from shop.platform import discovery
from shop.platform.discovery import PACKAGES
from shop.platform.processes import files
from shop.platform.processes.files import TooFewFiles
from shop.platform.running import RUNNING
from shop.platform.settings import PREFIX
from shop.platform.settings_list import is_secret

if TYPE_CHECKING:
    from devstack.capture import LocalCapture
    from devstack.connect import Connect

START_TIMEOUT = 60.0
"""Seconds within which all processes of the shop must be ready."""

STOP_TIMEOUT = 5.0

METRICS = "metrics"
"""The folder with a file for each process, which has the address of its `/metrics`. Prometheus reads it."""

LOCAL = "local"
"""This value, instead of a Kafka broker's address, means a broker that is started here."""

FOR_PEOPLE = "shop: "
"""The start of lines that go to the terminal, in the output of commands that run before the start."""

_SHOWN = {"localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - no socket binds here
"""The address to print for a host."""


@dataclass(frozen=True)
class LocalService:
    """A service or a front, and the port of its API on this machine."""

    name: str
    port: int


@dataclass(frozen=True)
class UpOptions:
    data: Path
    services: Sequence[LocalService]
    fronts: Sequence[LocalService] = ()
    """Pages over the services. They have no database and no worker."""
    host: str = "localhost"
    """The host on which the APIs listen."""
    max_connections: int = 0
    """The most connections that each API holds."""
    stop_within: float = 0.0
    """Seconds that an API may take to finish accepted requests."""
    verbose: bool = False
    """Show the logs of the processes on the terminal too."""
    kafka: str | None = None
    """None: the log is a table. `LOCAL`: start a broker here. Otherwise a broker's HOST:PORT."""
    cdc: bool = False
    """Let Debezium feed Kafka, and not the workers."""
    reload: bool = False
    """Restart processes whose code was edited."""
    gateway: int | None = None
    """The port of the gateway in front of the APIs; None for no gateway."""
    auth: bool = False
    """Require access tokens."""
    copy_log_from: str | None = None
    """"postgres", "kafka" or a broker's HOST:PORT: the log to copy into this one before it is used."""


def shop_command(*words: str) -> list[str]:
    """The command of this installation's `shop`, independent of PATH."""
    return [sys.executable, "-m", "shop.cli", *words]


def run(options: UpOptions, command: Callable[..., list[str]] = shop_command) -> int:
    """Run the shop until SIGINT, SIGTERM or SIGHUP. Returns the exit status."""
    data = options.data
    logs: list[LogFile] = []
    try:
        data = place(data)
        with _stop_signals() as stop_asked, locked(data) as was_killed, _edits(options) as look:
            pause = _pause(stop_asked, logs, verbose=options.verbose)
            hand_over(data)
            require_access(data, data / "postgres")
            _check_files(options.max_connections)
            check_format(data)
            check_ports(_wanted_ports(options), pause, STOP_TIMEOUT if was_killed else 0.0)
            supervisor = Supervisor(pause=pause)
            try:
                parts, migrate = _bring_up(options, data, supervisor, logs, pause, command)
                supervisor.watch(partial(look, supervisor, parts, migrate))
            finally:
                (data / RUNNING).unlink(missing_ok=True)
                supervisor.stop(STOP_TIMEOUT)
                hand_over(data)
    except _Stopped:
        say(f"eventshop has stopped; its data stays in {data}")
        return 0
    except (StartFailed, TooFewFiles) as error:
        say(f"eventshop did not start: {error}")
    except psycopg.Error as error:
        say(f"eventshop did not start: PostgreSQL: {' '.join(str(error).split())}")
    except PermissionError as error:
        say(f"eventshop did not start: {locked_out(Path(error.filename or data), data)}")
    except OSError as error:
        say(f"eventshop did not start: {error.strerror}: {error.filename or data}")
    return 1


def _bring_up(
    options: UpOptions,
    data: Path,
    supervisor: Supervisor,
    logs: list[LogFile],
    pause: Pause,
    command: Callable[..., list[str]],
) -> tuple[Mapping[str, Sequence[Process]], Callable[[], None]]:
    """Start everything. Returns each service's processes, and the function that migrates the databases."""

    def process(name: str, *words: str) -> Process:
        shown = {"SHOP_TELEMETRY__TARGET_FILE": str(data / METRICS / f"{name}.json")}
        child = Process(name, command(*words), log=data / "logs" / f"{name}.log", env=env | shown)
        logs.append(child.log)
        return child

    # A shop that was killed left them.
    shutil.rmtree(data / METRICS, ignore_errors=True)
    postgres = LocalPostgres(data / "postgres", log=data / "logs" / "postgres.log")
    logs.append(postgres.log)
    supervisor.start(postgres, timeout=CRASH_RECOVERY)
    postgres.ensure_databases([*(service.name for service in options.services), "log"])

    settings = _settings(options, data, supervisor, postgres)
    capture, connect = _capture(options, data, postgres, settings)
    logs += [connect.log] if connect else []
    other = _other_log(options, data, supervisor, postgres)
    # For `shop events` and similar commands, which run at the same time.
    write_whole(data / RUNNING, json.dumps(settings, indent=2) + "\n")
    # Unbuffered, because the last lines of a killed process are the most useful. The logs are UTF-8 in every
    # locale.
    env = {
        **_around(settings, data / "secrets"),
        **settings,
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }

    migrating = process("migrate", "migrate")

    def migrate() -> None:
        _once(migrating, pause, migrated)

    migrated = "the databases could not be migrated"
    if other:
        # Migrate the tables of that log too, because an older release may have created them.
        env = {**env, **other}
        _once(process("migrate-other-log", "migrate"), pause, migrated)
        env = {**env, **settings}
    migrate()
    if options.auth:
        _once(process("first-key", *FIRST_KEY), pause, "the first signing key could not be made")
    if options.copy_log_from:
        copying = process("copy-log", "log", "copy", "--from", options.copy_log_from)
        _once(copying, pause, "the log could not be copied")
    if capture:
        env = {**env, "SHOP_CONNECT_URL": ""}  # it does not run yet
        capture.settle(partial(_once, pause=pause), process, begin=connect is not None)
        env = {**env, **settings}
    parts = {
        name: [process(f"{name}-{part}", part, name) for part in ("api", "worker")]
        for name in (service.name for service in options.services)
    }
    parts |= {
        front.name: [process(f"{front.name}-api", "api", front.name)] for front in options.fronts
    }
    supervisor.start(
        *chain.from_iterable(parts.values()),
        *([connect] if connect else []),
        timeout=2 * START_TIMEOUT if connect else START_TIMEOUT,
        stop_within=options.stop_within / FIRST_SIGNAL,
    )
    apis = {service.name: f"{_shown(options.host)}:{service.port}" for service in options.services}
    addresses = [f"{name} http://{address}" for name, address in apis.items()]
    addresses += [
        f"{front.name} http://{_shown(options.host)}:{front.port}" for front in options.fronts
    ]
    if options.gateway is not None:
        addresses.append(_start_gateway(options.gateway, data, apis, supervisor, logs))
    _say_ready(options, addresses, data)
    return parts, migrate


def _own_settings(options: UpOptions, postgres: LocalPostgres) -> dict[str, str]:
    """The databases and ports of the services, and the ports of the fronts."""
    # Otherwise other commands on this directory would not find all services.
    settings = {PACKAGES: os.environ[PACKAGES]} if PACKAGES in os.environ else {}
    # Where the console keeps the results of its checks.
    settings["SHOP_DATA_DIR"] = str(options.data.absolute())
    for service in options.services:
        settings[f"SHOP_{service.name.upper()}__DATABASE_URL"] = postgres.dsn(service.name)
    for each in [*options.services, *options.fronts]:
        settings[f"SHOP_{each.name.upper()}__PORT"] = str(each.port)
    return settings


def _settings(
    options: UpOptions, data: Path, supervisor: Supervisor, postgres: LocalPostgres
) -> dict[str, str]:
    """The settings of all processes. Starts the broker if it runs here."""
    settings = _own_settings(options, postgres)
    if options.gateway is not None:
        settings |= _behind_gateway()
    if options.auth:
        sections = discovery.sections()
        issuers = [each.port for each in options.services if sections[each.name].issues_tokens]
        settings |= auth_settings(data, f"http://127.0.0.1:{issuers[0] if issuers else 8001}")
    return settings | dict(_log_settings(options, data, supervisor, postgres))


def _capture(
    options: UpOptions, data: Path, postgres: LocalPostgres, settings: dict[str, str]
) -> "tuple[LocalCapture | None, Connect | None]":
    """What captures, if it is wanted; adds its settings.

    Without `--cdc`, it is there if it has run here before. Then it must be ended, because its slots hold back the
    write-ahead log.
    """
    if not options.cdc and not (data / "connect").exists():
        return None, None
    # Imported only here, because most users never capture.
    from devstack.capture import LocalCapture  # noqa: PLC0415

    capture = LocalCapture(data / "connect", postgres, [each.name for each in options.services])
    settings |= capture.prepare()
    if not options.cdc:
        return capture, None
    servers = settings["SHOP_KAFKA__BOOTSTRAP_SERVERS"]
    connect = capture.connect(servers, data / "logs" / "connect.log")
    settings |= {"SHOP_RELAY": "cdc", "SHOP_CONNECT_URL": connect.url}
    return capture, connect


def _say_ready(options: UpOptions, addresses: Sequence[str], data: Path) -> None:
    if not options.auth:
        say("no access token is required: any request may do anything (--auth requires tokens)")
    with suppress(OSError):  # a closed pipe or a full disk does not stop the shop
        sys.stdout.write(
            f"eventshop is ready: {' · '.join(addresses)} · data in {data} · Ctrl-C stops\n"
        )
        sys.stdout.flush()


def _start_gateway(
    port: int, data: Path, apis: Mapping[str, str], supervisor: Supervisor, logs: list[LogFile]
) -> str:
    """Start the gateway. Returns its address and the certificate authority to trust."""
    # Imported only here, because it loads the services to know their routes.
    from devstack.nginx import local_gateway  # noqa: PLC0415

    gateway, certificate = local_gateway(data, apis, port)
    logs.append(gateway.log)
    supervisor.start(gateway, timeout=START_TIMEOUT)
    return f"gateway https://localhost:{port} (its authority: {certificate.authority})"


def _behind_gateway() -> dict[str, str]:
    """For services that need to know from where a client asks."""
    return {
        f"SHOP_{name.upper()}__TRUSTED_PROXIES": "127.0.0.1,::1"
        for name, section in discovery.sections().items()
        if "trusted_proxies" in section.model_fields
    }


def _shown(host: str) -> str:
    return _SHOWN.get(host, f"[{host}]" if ":" in host else host)


def _around(settings: Mapping[str, str], secrets: Path) -> dict[str, str]:
    """The environment, without variables that would override these settings (`SHOP_…_FILE`), and without secrets.

    Secrets of settings are given to the processes in files. The databases here have no passwords.
    """
    over = {f"{name}_FILE" for name in settings} | {"PGPASSWORD"}
    over |= {name.replace("_URL", "_PASSWORD") for name in settings if name.endswith("_URL")}
    over |= {f"{name}_FILE" for name in over}
    found = {}
    for name, value in os.environ.items():
        if name in over:
            continue
        if name.startswith(PREFIX) and value and is_secret(name):
            make_folder(secrets, 0o700)
            write_whole(secrets / name, value)
            found[f"{name}_FILE"] = str(secrets / name)
        else:
            found[name] = value
    return found


def _log_settings(
    options: UpOptions, data: Path, supervisor: Supervisor, postgres: LocalPostgres
) -> Mapping[str, str]:
    """The settings of the event log. Starts the broker if it runs here."""
    if options.kafka is None:
        return {"SHOP_EVENT_LOG": "postgres", "SHOP_EVENT_LOG_URL": postgres.dsn("log")}
    servers = options.kafka
    if servers == LOCAL:
        # Imported only here, because most users never start a broker.
        from devstack.broker import Broker  # noqa: PLC0415

        kafka = Broker(data / "kafka")
        supervisor.start(kafka, timeout=START_TIMEOUT)
        servers = kafka.bootstrap_servers
    return {"SHOP_EVENT_LOG": "kafka", "SHOP_KAFKA__BOOTSTRAP_SERVERS": servers}


def _other_log(
    options: UpOptions, data: Path, supervisor: Supervisor, postgres: LocalPostgres
) -> Mapping[str, str] | None:
    """The settings of the local log to copy from, or None. Starts its broker if necessary."""
    of = options.copy_log_from
    if of is None:
        return None
    if of == ("kafka" if options.kafka else "postgres"):
        raise StartFailed(f"--copy-log-from {of} names the log that the shop itself uses")
    if of == "kafka" and not (data / "kafka").exists():
        raise StartFailed(f"there is no log to copy in {data / 'kafka'}: no broker has run here")
    if of not in {"postgres", "kafka"}:
        return {}
    other = replace(options, kafka=LOCAL if of == "kafka" else None)
    return _log_settings(other, data, supervisor, postgres)


def _once(work: Process, pause: Pause, failed: str) -> None:
    """Run a command to its end before the next part starts, and show its lines for people."""
    try:
        work.start()
        status = work.wait(pause)
    finally:
        work.stop(STOP_TIMEOUT / 2)
    if status:
        for line in work.log.tail():
            say(f"  {line}")
        raise StartFailed(f"{failed} ({work.ended()}); {work.log.path} has its output")
    for line in work.log.tail():
        if line.startswith(FOR_PEOPLE):
            say(line.removeprefix(FOR_PEOPLE))


def _check_files(max_connections: int) -> None:
    """Raise the limit of open files, also for child processes. Prints a line if the limit is too low."""
    held = files.connections(max_connections)
    if held < max_connections:
        say(
            f"only {files.allow(0)} files may be open here (ulimit -n), so an API holds {held} "
            f"connections, and not {max_connections}"
        )


def _wanted_ports(options: UpOptions) -> Iterator[WantedPort]:
    for name, port in ((each.name, each.port) for each in [*options.services, *options.fronts]):
        way_out = f"choose another with --port {name}=… or SHOP_{name.upper()}__PORT"
        yield WantedPort(name, options.host, port, way_out)
    if options.gateway is not None:
        way_out = "choose another with --gateway-port"
        yield WantedPort("the gateway", "localhost", options.gateway, way_out)


@contextmanager
def _edits(options: UpOptions) -> Iterator[Callable[..., None]]:
    """The function that checks for edited files. Watching starts now, so that no save is missed."""
    if not options.reload:
        yield lambda *_: None
        return
    # Imported only here, because `make up` watches no files.
    from devstack.reload import Reload  # noqa: PLC0415

    with Reload() as reload:
        yield reload.look


class _Stopped(Exception):
    """A signal asked the shop to stop. Only a pause raises it, so it never interrupts a step."""


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Yields whether a stop signal has arrived. Several signals count as one."""
    asked = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # Under nohup, a closed terminal must not stop the shop.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pause(stop_asked: Callable[[], bool], logs: Sequence[LogFile], *, verbose: bool) -> Pause:
    """A pause that notices Ctrl-C and truncates large log files."""

    def pause(seconds: float) -> None:
        if stop_asked():
            raise _Stopped
        time.sleep(seconds)
        for log in logs:
            if verbose:
                for line in log.follow():
                    say(f"{log.path.stem:>13} │ {line}")
            log.cut()
        if stop_asked():
            raise _Stopped

    return pause
