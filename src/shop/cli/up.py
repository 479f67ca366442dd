"""`shop up`: runs everything on this machine."""

from typing import Annotated

import typer

from shop.cli.common import (
    DEFAULT_DATA,
    DataDir,
    settings_or_stop,
    stop,
)
from shop.platform import discovery
from shop.platform.settings import Settings


def up(
    data: DataDir = DEFAULT_DATA,
    port: Annotated[
        list[str] | None,
        typer.Option(metavar="SERVICE=PORT", help="the port of a service's API; may be repeated"),
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(
            metavar="local|HOST:PORT",
            help="use Kafka: start a broker (`local`; needs Java 17 and Maven), "
            "or use the one at HOST:PORT",
        ),
    ] = None,
    copy_log_from: Annotated[
        str | None,
        typer.Option(
            metavar="LOG",
            help="postgres, kafka or a broker's HOST:PORT: first copy the events of that log into the new"
            " one",
        ),
    ] = None,
    cdc: Annotated[
        bool,
        typer.Option(
            help="let Debezium in Kafka Connect copy the events to Kafka, instead of the workers (SHOP_RELAY=cdc); needs"
            " --kafka, and a JDK 17"
        ),
    ] = False,
    auth: Annotated[
        bool,
        typer.Option(
            help="require access tokens; makes the first signing key (SHOP_AUTH__REQUIRED)"
        ),
    ] = False,
    gateway: Annotated[
        bool, typer.Option(help="put nginx in front of the services, on https://localhost:8443")
    ] = False,
    gateway_port: Annotated[
        int, typer.Option(min=1, max=65535, help="another port for the gateway")
    ] = 8443,
    reload: Annotated[
        bool, typer.Option(help="restart processes when their code is saved")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="do not start these pages (console); may be repeated"),
    ] = None,
    verbose: Annotated[bool, typer.Option(help="show the logs of all processes")] = False,
) -> None:
    """Start the whole shop on this machine, and keep it running until Ctrl-C."""
    try:
        from devstack.up import run  # noqa: PLC0415 - only this needs a server
        from devstack.up_options import LOCAL, LocalService, UpOptions  # noqa: PLC0415
    except ModuleNotFoundError as error:
        stop(f"`shop up` runs from the project's own folder: {error.name} is not installed here")

    if kafka not in {None, LOCAL} and ":" not in str(kafka):
        stop(f"--kafka {kafka} is neither `{LOCAL}` nor a broker's HOST:PORT")
    if cdc and kafka is None:
        stop("--cdc needs Kafka: add --kafka local, or --kafka HOST:PORT")
    settings = settings_or_stop()
    if settings.env == "production":
        stop(
            "`shop up` is for development, and SHOP_ENV is production: run `shop api` and `shop worker`"
        )
    ports = _ports(settings, port or [])
    if unknown := set(without or ()) - set(discovery.fronts()):
        stop(
            f"--without {min(unknown)}: there are no such pages; there are: {', '.join(discovery.fronts())}"
        )
    local = [LocalService(name, ports[name]) for name in discovery.names()]
    fronts = [
        LocalService(name, ports[name])
        for name in discovery.fronts()
        if name not in (without or ())
    ]
    options = UpOptions(
        data,
        local,
        fronts=fronts,
        host=settings.host,
        max_connections=settings.max_connections,
        stop_within=settings.stop_within(),
        verbose=verbose,
        kafka=kafka,
        cdc=cdc,
        auth=auth or settings.auth.required,
        gateway=gateway_port if gateway else None,
        reload=reload,
        copy_log_from=copy_log_from,
    )
    raise typer.Exit(run(options))


_LAST_PORT = 65535


def _ports(settings: Settings, given: list[str]) -> dict[str, int]:
    names = (*discovery.names(), *discovery.fronts())
    ports = {name: settings.api(name).port for name in names}
    for each in given:
        name, _, number = each.partition("=")
        if not (number.isdecimal() and 0 < int(number) <= _LAST_PORT):
            stop(f"--port {each} is not SERVICE=PORT with a port from 1 to {_LAST_PORT}")
        if name not in ports:
            stop(f"--port {each}: there is no service {name}; there are: {', '.join(ports)}")
        ports[name] = int(number)
    return ports
