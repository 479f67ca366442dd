"""`shop migrate`: schemas and topics."""

import asyncio
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from eventspine.errors import Unavailable
from eventspine.log import LogUnavailable, TopicMismatch
from shop.cli.common import (
    log_as,
    one_line,
    services_named,
    settings_or_stop,
    stop,
)
from shop.platform.event_log import database_url, log_url, open_event_log
from shop.platform.settings import Settings


def migrate(
    service: Annotated[str | None, typer.Argument(help="one service; all, if left out")] = None,
) -> None:
    """Bring the databases' schema forward, the log's too, and create the topics."""
    from eventspine.log_tables import metadata as log_metadata  # noqa: PLC0415
    from shop.platform.migrations import NotMigrated  # noqa: PLC0415 - only this needs Alembic
    from shop.platform.migrations import migrate as bring_forward  # noqa: PLC0415

    settings = settings_or_stop()
    log_as("migrate", settings)
    chosen = services_named(service)
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
                stop(f"cannot migrate the database {name}: {one_line(error)}")
        asyncio.run(_create_topics(settings, [each.topic for each in chosen]))
    except (TopicMismatch, LogUnavailable) as error:
        stop(str(error))
    except Unavailable as error:
        stop(f"cannot reach a database: {one_line(error)}")


async def _create_topics(settings: Settings, topics: list[str]) -> None:
    log = open_event_log(settings)
    partitions = settings.kafka_partitions if settings.event_log == "kafka" else None
    try:
        for topic in topics:
            await log.create_topic(topic, partitions)
    finally:
        await log.close()
