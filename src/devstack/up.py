"""`shop up`: runs the whole shop on this machine, with one command, until Ctrl-C.

All its data is in one directory: `VERSION` (of this layout), `lock`, `postgres/` and `logs/`. While it runs,
`running.json` holds the settings of its processes. One PostgreSQL server has a database for each service and
one for the log. Each service has an API process and a worker process. They get the same settings as in
production.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path

import psycopg

from devstack.auth import FIRST_KEY
from devstack.data import check_format, locked, place
from devstack.files import hand_over, locked_out, require_access, write_whole
from devstack.ports import WantedPort, check_ports
from devstack.postgres import CRASH_RECOVERY, LocalPostgres
from devstack.process import FIRST_SIGNAL, LogFile, Process
from devstack.stopping import Stopped, pause_of, stop_signals
from devstack.supervisor import Pause, StartFailed, Supervisor, say
from devstack.up_options import UpOptions
from devstack.up_settings import (
    START_TIMEOUT,
    capturing,
    environment_around,
    other_log,
    overridden,
    process_settings,
)
from shop.platform.processes import files
from shop.platform.processes.files import TooFewFiles
from shop.platform.running import RUNNING

STOP_TIMEOUT = 5.0

METRICS = "metrics"
"""The folder with a file for each process, which has the address of its `/metrics`. Prometheus reads it."""

FOR_PEOPLE = "shop: "
"""The start of lines that go to the terminal, in the output of commands that run before the start."""

_SHOWN = {"localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - no socket binds here
"""The address to print for a host."""


def shop_command(*words: str) -> list[str]:
    """The command of this installation's `shop`, independent of PATH."""
    return [sys.executable, "-m", "shop.cli", *words]


def run(options: UpOptions, command: Callable[..., list[str]] = shop_command) -> int:
    """Run the shop until SIGINT, SIGTERM or SIGHUP. Returns the exit status."""
    data = options.data
    logs: list[LogFile] = []
    try:
        data = place(data)
        with stop_signals() as stop_asked, locked(data) as was_killed, _edits(options) as look:
            pause = pause_of(stop_asked, logs, verbose=options.verbose)
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
    except Stopped:
        say(f"eventshop has stopped; its data stays in {data}")
        return 0
    except (StartFailed, TooFewFiles) as error:
        say(f"eventshop did not start: {error}")
    except psycopg.Error as error:
        say(f"eventshop did not start: PostgreSQL: {' '.join(str(error).split())}")
    except PermissionError as error:
        say(f"eventshop did not start: {locked_out(Path(error.filename or data), data)}")
    except OSError as error:
        say(
            f"eventshop did not start: {error.strerror}: {error.filename or data}; all data is in {data},"
            " and --data or SHOP_DATA_DIR names another directory"
        )
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

    settings = process_settings(options, data, supervisor, postgres)
    capture, connect = capturing(options, data, postgres, settings)
    logs += [connect.log] if connect else []
    if ignored := overridden(settings):
        say(
            f"ignored: {', '.join(ignored)}; `shop up` sets these itself (--kafka and --cdc choose the log)"
        )
    other = other_log(options, data, supervisor, postgres)
    # For `shop events` and similar commands, which run at the same time.
    write_whole(data / RUNNING, json.dumps(settings, indent=2) + "\n")
    # Unbuffered, because the last lines of a killed process are the most useful. The logs are UTF-8 in every
    # locale.
    env = {
        **environment_around(settings, data / "secrets"),
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


def _shown(host: str) -> str:
    return _SHOWN.get(host, f"[{host}]" if ":" in host else host)


def _once(work: Process, pause: Pause, failed: str) -> None:
    """Run a command to its end before the next part starts, and show its lines for people."""
    try:
        work.start()
        status = work.wait(pause)
    finally:
        work.stop(STOP_TIMEOUT / 2)
    if status:
        for line in work.log.tail():
            # Its last words are in the sentence; what went well before does not help.
            if line != work.last_words() and '"level": "info"' not in line:
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
