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
    stop,
    what_is_away,
)
from shop.cli.filters import Grep, Since, pattern_or_stop, since_or_stop
from shop.platform import discovery
from shop.platform.event_log import open_event_log


def events(
    topic: Annotated[
        list[str] | None, typer.Option(help="only this topic; may be repeated")
    ] = None,
    start: Annotated[
        int | None, typer.Option("--from", min=0, help="from this offset; default: the last ten")
    ] = None,
    since: Since = None,
    grep: Grep = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
    follow: Annotated[bool, typer.Option(help="wait for new events")] = True,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Show the events of the log as they arrive.

    With `--grep` it begins at the first event, unless `--from` or `--since` says where.
    """
    from shop.cli.log_printer import Shown, follow_log  # noqa: PLC0415

    if start is not None and since is not None:
        stop("--from and --since each say where to begin: give one of them")
    shown = Shown(since_or_stop(since), pattern_or_stop(grep))
    if grep is not None and since is None:
        start = start or 0

    with beside_running_shop(data):
        log = open_event_log(settings_or_stop())
        topics = topic or [each.topic for each in discovery.load_all() if each.topic]
    say_it_once()
    with what_is_away("cannot read the log"):
        asyncio.run(
            follow_log(log, topics, start=start, shown=shown, as_json=as_json, follow=follow)
        )
