"""Shared by the commands: options, and errors as one sentence."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import psycopg
import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from eventspine.address import Address
from eventspine.errors import NoOutcome, Unavailable
from eventspine.log import LogUnavailable
from eventspine.server import Unfit
from shop.cli.streams import tell
from shop.platform import discovery, production, roles
from shop.platform.event_log import NotSet, database_address
from shop.platform.logging import configure_logging
from shop.platform.running import use_running_shop
from shop.platform.service import Front, Service
from shop.platform.settings import Settings, read_settings


def _services() -> str:
    try:
        return f"one of: {', '.join(discovery.names())}"
    except discovery.NotAService:  # the command itself reports the error
        return "its name"


Name = Annotated[str, typer.Argument(help=_services())]
DataDir = Annotated[
    Path, typer.Option("--data", envvar="SHOP_DATA_DIR", help="the directory of all data")
]
DEFAULT_DATA = Path(".data")

NOT_DONE = 2
"""The exit status of a command that could not run. Status 1 means that it ran and found a problem."""

UNFORESEEN = 70
"""The exit status after a fault in eventshop itself: EX_SOFTWARE of sysexits.h."""


@contextmanager
def what_is_away(result: str) -> Iterator[None]:
    """If something can't be reached or read, end the command with one sentence."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        missing = error.diag.message_primary
        stop(f"{result}: a database is not migrated ({missing}); run `shop migrate`")
    except (LogUnavailable, NoOutcome, Unavailable, psycopg.Error) as error:
        stop(f"{result}: {one_line(error)}")


def say_it_once() -> None:
    """Do not log failed attempts to connect. The command reports the failure at its end."""
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def part(kind: Literal["api", "worker"], service: str) -> tuple[Service, Settings]:
    chosen = service_named(service)
    settings = settings_or_stop()
    log_as(f"{service} {kind}", settings)
    production.require(settings, kind, [service])
    if settings.env == "production":
        roles_or_stop(service, database_address(settings, service))
    return chosen, settings


def front_part(name: str) -> tuple[Front, Settings]:
    """A front needs the settings of all services: it reads their databases."""
    front = discovery.load_front(name)
    settings = settings_or_stop()
    log_as(f"{name} api", settings)
    production.require(settings, "front", discovery.names())
    return front, settings


def roles_or_stop(name: str, address: Address, *, owner: bool = False) -> None:
    """Ends a command whose role may do too much. One that can't be asked is asked at each connection."""
    try:
        asyncio.run(roles.check(address, owner=owner))
    except Unfit as error:
        stop(f"the database {name}: {error}")
    except Unavailable:
        pass


def log_as(process: str, settings: Settings) -> None:
    try:
        configure_logging(process, level=settings.log_level, directory=settings.log_dir)
    except OSError as error:
        stop(f"SHOP_LOG_DIR: cannot log to {settings.log_dir}: {error.strerror}")


def service_named(name: str) -> Service:
    if name not in discovery.names():
        stop(f"there is no service {name}; there are: {', '.join(discovery.names())}")
    return discovery.load(name)


def services_named(name: str | None) -> list[Service]:
    """The service with this name, or all services."""
    return [service_named(name)] if name else discovery.load_all()


@contextmanager
def beside_running_shop(data: Path) -> Iterator[None]:
    """Use the settings of the shop that `shop up` runs in this folder, if one runs there."""
    runs = use_running_shop(data)
    try:
        yield
    except NotSet as error:
        if runs:
            raise
        raise NotSet(
            f"no shop runs in {data} (`shop up` starts one, --data names its folder), and {error}"
        ) from error


def settings_or_stop() -> Settings:
    try:
        return read_settings(discovery.sections())
    except ValidationError as error:
        wrong = "; ".join(
            f"SHOP_{'__'.join(takewhile(_is_name, map(str, detail['loc']))).upper()}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors(include_url=False)
        )
        stop(f"settings: {wrong}")
    except SettingsError as error:
        stop(f"settings: {error}")


def _is_name(part: str) -> bool:
    """Not an index in a list, or a type that Pydantic tried."""
    return part.isidentifier()


def stop(sentence: str) -> NoReturn:
    tell(f"shop: {sentence}")
    raise typer.Exit(NOT_DONE)
