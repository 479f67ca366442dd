"""`shop rebuild`: tables made anew from the event log, under a service that goes on."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from shop.cli.common import (
    DEFAULT_DATA,
    DataDir,
    Name,
    beside_running_shop,
    say_it_once,
    service_named,
    settings_or_stop,
    stop,
    what_is_away,
)
from shop.platform.event_log import database_address, open_event_log
from shop.platform.processes import garbage


def rebuild(
    service: Name,
    table: Annotated[str | None, typer.Argument(help="one of its tables; default: all")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="compare, and change nothing; status 1 if they differ")
    ] = False,
    differences: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="write every difference to this file, as one JSON object per line"
        ),
    ] = None,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Compute tables again from the event log, while the service runs, and replace those in use.

    Run it after a bug in a handler was fixed, or for a new column. It publishes nothing. It can be stopped or
    killed at any moment, and run again.
    Exit status: 0 if the tables are now what the log says, 1 if they differ (`--dry-run`), 2 if it could not be done.
    """
    from eventspine.errors import SpineError  # noqa: PLC0415 - only this needs it
    from eventspine.recomputing import tables_of  # noqa: PLC0415
    from shop.cli.progress_served import progress_served  # noqa: PLC0415
    from shop.cli.rebuild_report import rebuild_tables  # noqa: PLC0415

    with beside_running_shop(data):
        chosen = service_named(service)
        settings = settings_or_stop()
        url = database_address(settings, service)
        log = open_event_log(settings)
    tables = tables_of(chosen.projections)
    if table is not None:
        names = [each.name for each in tables]
        if table not in names:
            stop(
                f"{service} declares no table {table} that could be recomputed; it declares:"
                f" {', '.join(names) or 'none'}"
            )
        tables = [each for each in tables if each.name == table]

    async def run() -> bool:
        try:
            async with progress_served(settings, "rebuild", service):
                return await rebuild_tables(
                    chosen, url, log, tables, dry_run=dry_run, differences=differences
                )
        finally:
            await log.close()

    if differences is not None:
        _emptied(differences)
    say_it_once()
    with garbage.settled(), what_is_away("not rebuilt"):
        try:
            well = asyncio.run(run())
        except SpineError as error:
            stop(f"not rebuilt: {error}")
    raise typer.Exit(0 if well else 1)


def _emptied(file: Path) -> None:
    """Before the long work: so an error is seen at once, and no differences of an earlier run stay in it."""
    try:
        file.write_bytes(b"")
    except OSError as error:
        stop(f"--differences {file}: cannot write it: {error.strerror}; name another file")
