"""`shop log`: moves from one log to another."""

import asyncio
from typing import Annotated

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
from shop.platform.event_log import database_address, open_event_log
from shop.platform.settings import Settings

app = typer.Typer(help="Move from one event log to another.")

ServiceOrAll = Annotated[str | None, typer.Argument(help="one service; default: all")]


@app.command()
def copy(
    of: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="LOG",
            help="postgres or kafka, as the settings name it; or postgresql://…; or a broker's HOST:PORT",
        ),
    ],
    service: ServiceOrAll = None,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Copy the events of another log into the log that the settings name, and compare both.

    Stop the workers first. The copy can be stopped; the next run continues it.
    Exit status 1 if some positions are in neither log.
    """
    from shop.cli.log_moving import copy_all  # noqa: PLC0415 - only this needs it

    with beside_running_shop(data):
        settings = settings_or_stop()
        services = [each for each in services_named(service) if each.topic]
        others = _settings_of(of, settings)
        urls = {each.name: database_address(settings, each.name) for each in services}
        other, log = open_event_log(others), open_event_log(settings)

    async def run() -> bool:
        try:
            return await copy_all(services, urls, other, log)
        finally:
            await other.close()
            await log.close()

    say_it_once()
    with what_is_away("not copied"):
        whole = asyncio.run(run())
    raise typer.Exit(0 if whole else 1)


@app.command()
def accept(
    service: ServiceOrAll = None,
    give_up: Annotated[
        bool,
        typer.Option(help="continue even if some events are in neither the log nor the outbox"),
    ] = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Continue with the log that the settings name, and list the events that it lacks.

    Use it for a log that was filled by other means, or that can't be completed. Stop the workers first.
    Exit status 1, without any change, if events are missing and `--give-up` is not set.
    """
    from shop.cli.log_moving import accept_all  # noqa: PLC0415 - only this needs it

    with beside_running_shop(data):
        settings = settings_or_stop()
        services = [each for each in services_named(service) if each.topic]
        urls = {each.name: database_address(settings, each.name) for each in services}
        log = open_event_log(settings)

    async def run() -> bool:
        try:
            return await accept_all(services, urls, log, give_up=give_up)
        finally:
            await log.close()

    say_it_once()
    with what_is_away("not accepted"):
        accepted = asyncio.run(run())
    raise typer.Exit(0 if accepted else 1)


def _settings_of(log: str, settings: Settings) -> Settings:
    """The settings with another log: one that the settings name by its kind, or the given address."""
    if log in {"postgres", "kafka"}:
        return settings.model_copy(update={"event_log": log})
    if log.startswith(("postgresql://", "postgres://")):
        return settings.model_copy(update={"event_log": "postgres", "event_log_url": log})
    if ":" not in log:
        stop(
            f"--from {log} is not a log; use postgres, kafka, postgresql://…, or a broker's HOST:PORT"
        )
    kafka = {**settings.kafka, "bootstrap_servers": log}
    return settings.model_copy(update={"event_log": "kafka", "kafka": kafka})
