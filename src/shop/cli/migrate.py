"""`shop migrate`: migrates the schemas and creates the topics."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from eventspine.address import Address, urls
from eventspine.audited_log import feeding
from eventspine.database import connect
from eventspine.errors import Unavailable
from eventspine.log import EventLog, LogUnavailable, TopicMismatch
from eventspine.migrations import LOG
from eventspine.server import Unfit, check
from shop.cli.common import (
    log_as,
    one_line,
    roles_or_stop,
    services_named,
    settings_or_stop,
    stop,
)
from shop.platform import production
from shop.platform.event_log import database_address, log_address, open_event_log
from shop.platform.service import Service
from shop.platform.settings import Settings


def migrate(
    service: Annotated[str | None, typer.Argument(help="one service; default: all")] = None,
) -> None:
    """Migrate the databases of all services and of the log, and create the topics."""
    from eventspine.log_tables import metadata as log_metadata  # noqa: PLC0415
    from shop.platform.migrations import NotMigrated  # noqa: PLC0415 - only this needs Alembic
    from shop.platform.migrations import migrate as bring_forward  # noqa: PLC0415

    settings = settings_or_stop()
    log_as("migrate", settings)
    chosen = services_named(service)
    production.require(settings, "migrate", [each.name for each in chosen])
    schemas = [
        (each.name, database_address(settings, each.name), each.tables(), each.migrations)
        for each in chosen
    ]
    if settings.event_log == "postgres":
        schemas.append(("log", log_address(settings), log_metadata, LOG))
    at = ""
    try:
        # Check all databases before one is changed.
        accepted = {}
        for at, address, _, _ in schemas:
            accepted[at] = _checked(address, settings)
            if settings.env == "production":
                roles_or_stop(at, address, owner=True)
        for at, _, tables, migrations in schemas:
            bring_forward(accepted[at], tables, migrations)
        asyncio.run(_create_topics(settings, chosen))
    except (NotMigrated, Unfit) as error:
        stop(f"cannot migrate the database {at}: {one_line(error)}")
    except (TopicMismatch, LogUnavailable) as error:
        stop(str(error))
    except Unavailable as error:
        stop(f"cannot reach a database: {one_line(error)}")


def _checked(address: Address, settings: Settings) -> str:
    """The URL whose password is accepted: of two, while it is being replaced."""
    *others, last = urls(address)
    for url in others:
        with suppress(Unavailable):
            asyncio.run(check(url, may_lose_data=settings.accept_data_loss))
            return url
    asyncio.run(check(last, may_lose_data=settings.accept_data_loss))
    return last


async def _create_topics(settings: Settings, services: Sequence[Service]) -> None:
    log = open_event_log(settings)
    partitions = settings.kafka_partitions if settings.event_log == "kafka" else None
    try:
        for each in services:
            if each.topic:
                await log.create_topic(each.topic, partitions)
        await _say_if_another(settings, services, log)
    finally:
        await log.close()


async def _say_if_another(settings: Settings, services: Sequence[Service], log: EventLog) -> None:
    """Print a line if the settings name another log than the one to which events were relayed before."""
    others = []
    for each in services:
        if not each.topic:
            continue
        connection = await connect(database_address(settings, each.name))
        try:
            fed = await feeding(connection, each.source, (await log.identity(each.topic)).id)
        finally:
            await connection.close()
        if fed.lacks:
            typer.echo(f"shop: {each.name}: {fed.problem}")
        elif fed.problem:
            others.append(each.name)
    if others:
        typer.echo(
            f"shop: the log has changed for {' and '.join(others)}: the new log is fed from the outbox,"
            " and events that were applied from the earlier log are not applied again"
        )
