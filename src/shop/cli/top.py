"""`shop top`: the flow of events in the terminal, live."""

import asyncio
import sys
from typing import Annotated

import typer

from shop.cli.common import (
    DEFAULT_DATA,
    DataDir,
    beside_running_shop,
    say_it_once,
    settings_or_stop,
    stop,
)
from shop.platform import discovery
from shop.platform.apis import local_apis
from shop.platform.settings import Settings


def top(
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            help="print the flow once, and end; the default if the output is not a terminal",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the flow once, as one JSON object, and end")
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.2, max=3600, help="seconds between two readings")
    ] = 1.0,
    api: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVICE=URL",
            help="where a service's API is, to ask whether it is ready; may be repeated. Default: on this machine;"
            " in production: none is asked",
        ),
    ] = None,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Show the flow of events, live: API → outbox → log → consumers, with rates, lags, and what is stuck.

    It reads positions and checkpoints, and changes nothing. End it with q or Ctrl-C.
    Exit status of `--once` and `--json`: 0 if events flow, 1 if something is stuck or away, 2 if it could not look.
    """
    from shop.cli.top_screen import shown_once, watch  # noqa: PLC0415 - only this needs it
    from shop.platform.flow import FlowReader  # noqa: PLC0415

    with beside_running_shop(data):
        settings = settings_or_stop()
        services = discovery.load_all()
        apis = _apis(settings, api or [])

        def reader() -> FlowReader:
            return FlowReader(services, settings, apis)

        say_it_once()
        if once or as_json or not sys.stdout.isatty():
            flows = asyncio.run(shown_once(reader, every, as_json=as_json))
            raise typer.Exit(0 if flows else 1)
        asyncio.run(watch(reader, every))


def _apis(settings: Settings, given: list[str]) -> dict[str, str]:
    """The base URL of each API that is to be asked."""
    names = discovery.names()
    found = local_apis(settings) if settings.env == "development" else {}
    for each in given:
        name, _, url = each.partition("=")
        if name not in names:
            stop(f"--api {each}: there is no service {name}; there are: {', '.join(names)}")
        if not url.startswith(("http://", "https://")):
            stop(f"--api {each} is not SERVICE=URL with a URL that begins with http:// or https://")
        found[name] = url.rstrip("/")
    return found
