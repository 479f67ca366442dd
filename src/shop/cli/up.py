"""`shop up`: everything at once, on this machine."""

from typing import Annotated

import typer

from shop import services
from shop.cli.common import (
    DEFAULT_DATA,
    DataDir,
    settings_or_stop,
    stop,
)


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
    try:
        from devstack.up import LocalService, UpOptions, run  # noqa: PLC0415 - only this needs a server
    except ModuleNotFoundError as error:
        stop(f"`shop up` runs from the project's own folder: {error.name} is not installed here")

    ports = {"users": users_port, "orders": orders_port}
    local = [LocalService(name, ports[name]) for name in services.NAMES]
    stop_within = settings_or_stop().stop_within()
    raise typer.Exit(run(UpOptions(data, local, stop_within, verbose=verbose, kafka=kafka)))
