"""`shop events`: shows the log in the terminal."""

import asyncio
from typing import Annotated

import typer

from shop.cli.common import (
    DEFAULT_DATA,
    DataDir,
    beside_running_shop,
    say_it_once,
    settings_or_stop,
    what_is_away,
)
from shop.platform import discovery
from shop.platform.event_log import open_event_log


def events(
    topic: Annotated[
        list[str] | None, typer.Option(help="only this topic; may be repeated")
    ] = None,
    start: Annotated[
        int | None, typer.Option("--from", min=0, help="from this offset; default: the last ten")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
    follow: Annotated[bool, typer.Option(help="wait for new events")] = True,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Show the events of the log as they arrive."""
    from shop.cli.log_printer import follow_log  # noqa: PLC0415

    with beside_running_shop(data):
        log = open_event_log(settings_or_stop())
        topics = topic or [each.topic for each in discovery.load_all() if each.topic]
    say_it_once()
    with what_is_away("cannot read the log"):
        asyncio.run(follow_log(log, topics, start=start, as_json=as_json, follow=follow))
