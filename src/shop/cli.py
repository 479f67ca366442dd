"""The command line: `shop up` for everything at once, the other commands for one part each."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import psycopg
import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from eventspine.errors import Unavailable
from eventspine.log import LogUnavailable, TopicMismatch
from shop import services
from shop.kit.event_log import NotConfigured, database_url, log_url, open_event_log
from shop.kit.logging import configure_logging
from shop.kit.service import Service
from shop.kit.settings import Settings

if TYPE_CHECKING:
    from shop.kit.parked import Parking

app = typer.Typer(
    help="An event-driven shop: a user service and an order service in step through events.",
    epilog="Exit status: 0 if all is well; 1 if the command did its work and not all is well; 2 if it"
    " could not do it, which one sentence explains. (`up`: 1 if it could not start.)",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Name = Annotated[str, typer.Argument(help=f"one of: {', '.join(services.NAMES)}")]
DataDir = Annotated[
    Path, typer.Option("--data", envvar="SHOP_DATA_DIR", help="where everything is kept")
]
DEFAULT_DATA = Path(".data")

_NOT_DONE = 2
"""The exit status of what could not be done at all; 1 says that it was, and that not all is well."""


@app.command()
def up(
    data: DataDir = DEFAULT_DATA,
    users_port: Annotated[int, typer.Option(envvar="SHOP_USERS_PORT", min=1, max=65535)] = 8001,
    orders_port: Annotated[int, typer.Option(envvar="SHOP_ORDERS_PORT", min=1, max=65535)] = 8002,
    kafka: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:PORT]",
            help="run on Kafka: on a broker started here (needs Java 17 and Maven), "
            "or on the one at HOST:PORT",
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option(help="show every process's log here")] = False,
) -> None:
    """Start the whole shop on this machine, and keep it running until Ctrl-C."""
    from shop.kit.local.up import LocalService, UpOptions, run  # noqa: PLC0415 - only this needs a server

    ports = {"users": users_port, "orders": orders_port}
    local = [LocalService(name, ports[name]) for name in services.NAMES]
    stop_within = _settings().stop_within()
    raise typer.Exit(run(UpOptions(data, local, stop_within, verbose=verbose, kafka=kafka)))


@app.command()
def api(service: Name) -> None:
    """Answer HTTP for one service."""
    from shop.kit.api_process import PortTaken, run_api  # noqa: PLC0415 - only this needs uvicorn

    chosen, settings = _part("api", service)
    try:
        run_api(chosen, settings)
    except PortTaken as error:
        _stop(f"{error}; choose another with SHOP_{service.upper()}__PORT")


@app.command()
def worker(service: Name) -> None:
    """Move one service's events: its outbox into the log, others' events out of it."""
    from shop.kit.worker_process import run_worker  # noqa: PLC0415 - only this needs the consumer

    chosen, settings = _part("worker", service)
    run_worker(chosen, settings)


@app.command()
def migrate(
    service: Annotated[str | None, typer.Argument(help="one service; all, if left out")] = None,
) -> None:
    """Bring the databases' schema forward, the log's too, and create the topics."""
    from eventspine.log_tables import metadata as log_metadata  # noqa: PLC0415
    from shop.kit.migrations import NotMigrated  # noqa: PLC0415 - only this needs Alembic
    from shop.kit.migrations import migrate as bring_forward  # noqa: PLC0415

    settings = _settings()
    _log_as("migrate", settings)
    chosen = [_service(service)] if service else [services.load(name) for name in services.NAMES]
    schemas = [
        (each.name, database_url(settings, each.name), each.tables(), each.migrations)
        for each in chosen
    ]
    if settings.event_log == "postgres":
        versions = Path(str(files("eventspine.migrations"))) / "log"
        schemas.append(("log", log_url(settings), log_metadata, versions))
    try:
        for name, url, tables, migrations in schemas:
            try:
                bring_forward(url, tables, migrations)
            except NotMigrated as error:
                _stop(f"cannot migrate the database {name}: {_one_line(error)}")
        asyncio.run(_create_topics(settings, [each.topic for each in chosen]))
    except (TopicMismatch, LogUnavailable) as error:
        _stop(str(error))
    except Unavailable as error:
        _stop(f"cannot reach a database: {_one_line(error)}")


async def _create_topics(settings: Settings, topics: list[str]) -> None:
    log = open_event_log(settings)
    partitions = settings.kafka_partitions if settings.event_log == "kafka" else None
    try:
        for topic in topics:
            await log.create_topic(topic, partitions)
    finally:
        await log.close()


@app.command()
def events(
    topic: Annotated[
        list[str] | None, typer.Option(help="only this topic; may be repeated")
    ] = None,
    start: Annotated[
        int | None, typer.Option("--from", min=0, help="from this offset; else the last ten")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    follow: Annotated[bool, typer.Option(help="go on as events come")] = True,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Follow the log in the terminal."""
    from shop.kit.follow import follow_log, use_running_shop  # noqa: PLC0415

    use_running_shop(data)
    settings = _settings()
    _say_it_once()
    topics = topic or [services.load(name).topic for name in services.NAMES]
    log = open_event_log(settings)
    try:
        with _what_is_away("cannot read the log"):
            asyncio.run(follow_log(log, topics, start=start, as_json=as_json, follow=follow))
    except BrokenPipeError:  # `shop events | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command()
def audit(
    service: Annotated[str | None, typer.Argument(help="one service; all, if left out")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the verdict as one JSON object")] = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Prove that nothing is lost and nothing was applied twice.

    Exit status: 0 if all of it holds, 1 if something does not, 2 if something could not be read and
    there is no verdict.
    """
    from eventspine.audit import Audited  # noqa: PLC0415 - only this needs it
    from shop.kit.audit_report import audit_all  # noqa: PLC0415
    from shop.kit.follow import use_running_shop  # noqa: PLC0415

    use_running_shop(data)
    settings = _settings()
    chosen = [_service(service)] if service else [services.load(name) for name in services.NAMES]
    audited = [
        Audited(
            name=each.name,
            source=each.source,
            topic=each.topic,
            database_url=database_url(settings, each.name),
            handlers=each.handlers,
            folds=each.folds,
        )
        for each in chosen
    ]

    async def run() -> bool:
        log = open_event_log(settings)
        try:
            return await audit_all(audited, log, as_json=as_json)
        finally:
            await log.close()

    _say_it_once()
    with _what_is_away("no verdict"):
        holds = asyncio.run(run())
    raise typer.Exit(0 if holds else 1)


parked = typer.Typer(help="Events that could not be applied: see them, retry them, forget them.")
app.add_typer(parked, name="parked", no_args_is_help=True)

ByKey = Annotated[str | None, typer.Option("--key", help="only this key's")]
ByCause = Annotated[str | None, typer.Option("--cause", help="only those of this cause")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")]


@parked.command("list")
def parked_list(
    service: Name, key: ByKey = None, cause: ByCause = None, data: DataDir = DEFAULT_DATA
) -> None:
    """What is parked, a line each, oldest first."""
    _on_parked(service, data, lambda parking: parking.show_list(key, cause))


@parked.command("show")
def parked_show(
    service: Name, key: Annotated[str, typer.Argument()], data: DataDir = DEFAULT_DATA
) -> None:
    """A key's parked events, whole."""
    _on_parked(service, data, lambda parking: parking.show_key(key))


@parked.command("retry")
def parked_retry(
    service: Name,
    key: ByKey = None,
    cause: ByCause = None,
    accept_gaps: Annotated[
        bool, typer.Option(help="apply an event though its predecessor was discarded")
    ] = False,
    dry_run: DryRun = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Apply parked events, each key's in their order.

    Exit status: 0 if all were applied, 1 if some are left, 2 if the database could not be used.
    """
    _on_parked(
        service,
        data,
        lambda parking: parking.retry(key, cause, accept_gaps=accept_gaps, dry_run=dry_run),
    )


@parked.command("discard")
def parked_discard(
    service: Name,
    key: ByKey = None,
    cause: ByCause = None,
    dry_run: DryRun = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Forget parked events for good; they stay in the log."""
    if key is None and cause is None:
        _stop("say what to discard, with --key or --cause")
    _on_parked(service, data, lambda parking: parking.discard(key, cause, dry_run=dry_run))


def _on_parked(
    service: str, data: Path, do: Callable[["Parking"], Coroutine[None, None, bool]]
) -> None:
    from shop.kit.follow import use_running_shop  # noqa: PLC0415
    from shop.kit.parked import Parking  # noqa: PLC0415 - only these commands need it

    use_running_shop(data)
    chosen = _service(service)
    parking = Parking(database_url(_settings(), service), chosen.handlers)
    _say_it_once()
    with _what_is_away("cannot use the database"):
        done = asyncio.run(parking.opened(do))
    raise typer.Exit(0 if done else 1)


@contextmanager
def _what_is_away(result: str) -> Iterator[None]:
    """Whatever can't be reached or read ends the command, with one sentence."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        missing = error.diag.message_primary
        _stop(f"{result}: a database is not migrated ({missing}); run `shop migrate`")
    except (LogUnavailable, Unavailable, psycopg.Error) as error:
        _stop(f"{result}: {_one_line(error)}")


def _say_it_once() -> None:
    """What could not be reached is said in the end, and not each time it was tried."""
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _part(kind: str, service: str) -> tuple[Service, Settings]:
    chosen = _service(service)
    settings = _settings()
    _log_as(f"{service} {kind}", settings)
    return chosen, settings


def _log_as(process: str, settings: Settings) -> None:
    try:
        configure_logging(process, level=settings.log_level, directory=settings.log_dir)
    except OSError as error:
        _stop(f"SHOP_LOG_DIR: cannot log to {settings.log_dir}: {error.strerror}")


def _service(name: str) -> Service:
    if name not in services.NAMES:
        _stop(f"there is no service {name}; there are: {', '.join(services.NAMES)}")
    return services.load(name)


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"SHOP_{'__'.join(str(part) for part in detail['loc']).upper()}: {detail['msg']}"
            for detail in error.errors(include_url=False)
        )
        _stop(f"settings: {wrong}")
    except SettingsError as error:
        _stop(f"settings: {error}")


def _stop(sentence: str) -> NoReturn:
    typer.echo(f"shop: {sentence}", err=True)
    raise typer.Exit(_NOT_DONE)


def _with_kafka_value(words: list[str]) -> list[str]:
    """`--kafka` alone means a broker started here; Typer has no option with an optional value."""
    spelled: list[str] = []
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        spelled.append(word)
        if word == "--kafka" and following.startswith("-"):
            spelled.append("local")
    return spelled


def main() -> None:
    try:
        app(args=_with_kafka_value(sys.argv[1:]))
    except NotConfigured as error:
        typer.echo(f"shop: {error}", err=True)
        sys.exit(_NOT_DONE)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
