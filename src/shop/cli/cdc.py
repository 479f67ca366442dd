"""`shop cdc`: begins and ends change data capture, and shows how it is."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from shop.cli.common import (
    DEFAULT_DATA,
    DataDir,
    beside_running_shop,
    say_it_once,
    services_named,
    settings_or_stop,
    stop,
    what_is_away,
)
from shop.platform.event_log import database_address
from shop.platform.service import Service
from shop.platform.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(
    help="Change data capture: Debezium in Kafka Connect copies the events to Kafka, instead of the workers."
)

ServiceOrAll = Annotated[str | None, typer.Argument(help="one service; default: all")]


@app.command()
def begin(service: ServiceOrAll = None, data: DataDir = DEFAULT_DATA) -> None:
    """Begin, or repair: make the publication and the slot, and wait until all earlier events are in Kafka.

    Run it again after any trouble: a lost slot is made again, and what it missed is sent from the outbox. If no
    worker relays, this command does it. After the first time, set SHOP_RELAY=cdc, restart the workers, and start
    the connectors.
    """
    from shop.cli import capturing  # noqa: PLC0415 - only this needs it

    _each(service, data, capturing.begin, needs_kafka=True)


@app.command()
def end(service: ServiceOrAll = None, data: DataDir = DEFAULT_DATA) -> None:
    """End: save up to where Debezium has sent everything, and drop the slot.

    Then set SHOP_RELAY=polling, and restart the workers. The connector is stopped first; without SHOP_CONNECT_URL, stop
    it yourself.
    """
    from shop.cli import capturing  # noqa: PLC0415 - only this needs it

    _each(service, data, capturing.end)


@app.command()
def status(service: ServiceOrAll = None, data: DataDir = DEFAULT_DATA) -> None:
    """Show slots, tasks, and what is not in Kafka yet. Exit status 1 if something has to be done."""
    from shop.cli import capturing  # noqa: PLC0415 - only this needs it

    _each(service, data, capturing.status)


def _each(
    service: str | None,
    data: "Path",
    deed: Callable[[Service, Settings], Coroutine[None, None, bool]],
    *,
    needs_kafka: bool = False,
) -> None:
    from eventspine.errors import SpineError  # noqa: PLC0415 - only this needs it
    from shop.cli.connect import ConnectAway  # noqa: PLC0415

    with beside_running_shop(data):
        settings = settings_or_stop()
        services = [each for each in services_named(service) if each.topic]
        if needs_kafka and settings.event_log != "kafka":
            stop("not done: change data capture needs Kafka, and SHOP_EVENT_LOG is postgres")
        for each in services:
            database_address(settings, each.name)  # or one sentence says what is not set

    async def run() -> bool:
        return all([await deed(each, settings) for each in services])

    say_it_once()
    # What the relay logs is not for the reader of this command.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with what_is_away("not done"):
        try:
            well = asyncio.run(run())
        except (SpineError, ConnectAway) as error:
            stop(f"not done: {error}")
    raise typer.Exit(0 if well else 1)
