"""`shop parked`: lists, retries and discards events that could not be applied."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from shop.cli.filters import Grep, Since, pattern_or_stop, since_or_stop
from shop.platform.event_log import database_address
from shop.platform.interceptors import steps
from shop.platform.telemetry.process import tracing_of

if TYPE_CHECKING:
    from shop.cli.parked_printer import Chosen, Parking

app = typer.Typer(help="List, retry or discard events that could not be applied (dead letters).")

ByKey = Annotated[str | None, typer.Option("--key", help="only records of this key")]
ByCause = Annotated[str | None, typer.Option("--cause", help="only records with this cause")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="print what would be done, and change nothing")
]


@app.command("list")
def parked_list(
    service: Name,
    key: ByKey = None,
    cause: ByCause = None,
    since: Since = None,
    grep: Grep = None,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """List parked records, one per line, the oldest first. `--since` goes by when it was parked."""
    chosen = _chosen(key, cause, since, grep)
    _on_parked(service, data, lambda parking: parking.show_list(chosen))


@app.command("show")
def parked_show(
    service: Name, key: Annotated[str, typer.Argument()], data: DataDir = DEFAULT_DATA
) -> None:
    """Show all parked records of a key, with their content."""
    _on_parked(service, data, lambda parking: parking.show_key(key))


@app.command("retry")
def parked_retry(
    service: Name,
    key: ByKey = None,
    cause: ByCause = None,
    since: Since = None,
    grep: Grep = None,
    accept_gaps: Annotated[
        bool, typer.Option(help="apply an event even if an earlier one of its key was discarded")
    ] = False,
    dry_run: DryRun = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Apply parked events, those of each key in order. A key is selected if one of its records is.

    Exit status: 0 if all were applied, 1 if some are still parked, 2 if the database could not be used.
    """
    chosen = _chosen(key, cause, since, grep)
    _on_parked(
        service,
        data,
        lambda parking: parking.retry(chosen, accept_gaps=accept_gaps, dry_run=dry_run),
    )


@app.command("discard")
def parked_discard(
    service: Name,
    key: ByKey = None,
    cause: ByCause = None,
    since: Since = None,
    grep: Grep = None,
    dry_run: DryRun = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Delete parked records for good. They stay in the log."""
    if key is None and cause is None and since is None and grep is None:
        stop("select what to discard, with --key, --cause, --since or --grep")
    chosen = _chosen(key, cause, since, grep)
    _on_parked(service, data, lambda parking: parking.discard(chosen, dry_run=dry_run))


def _chosen(key: str | None, cause: str | None, since: str | None, grep: str | None) -> "Chosen":
    from shop.cli.parked_printer import Chosen  # noqa: PLC0415 - only these commands need it

    return Chosen(key, cause, since_or_stop(since), pattern_or_stop(grep))


def _on_parked(
    service: str, data: Path, do: Callable[["Parking"], Coroutine[None, None, bool]]
) -> None:
    from shop.cli.parked_printer import Parking  # noqa: PLC0415 - only these commands need it

    with beside_running_shop(data):
        chosen = service_named(service)
        settings = settings_or_stop()
        tracing = tracing_of(settings, "parked", service)
        chain = steps(settings.interceptors, "parked", service, tracing)
        parking = Parking(database_address(settings, service), chosen.consumers(settings), chain)

    async def traced() -> bool:
        async with nullcontext() if tracing is None else tracing.sending():
            return await parking.opened(do)

    say_it_once()
    with what_is_away("cannot use the database"):
        done = asyncio.run(traced())
    raise typer.Exit(0 if done else 1)
