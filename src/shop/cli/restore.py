"""`shop restore`: a service's database from the event log."""

import asyncio
from datetime import datetime
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
from shop.cli.filters import time_of
from shop.cli.identity import issuer
from shop.platform.event_log import database_address, database_url, open_event_log
from shop.platform.processes import garbage

if TYPE_CHECKING:
    from eventspine.restoring import Restored


def restore(
    service: Name,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|POSITION",
            help="restore the state at this time (2026-11-26T12:00:00Z) or at this position; needs --into",
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="DATABASE",
            help="restore into another, empty database: a name, which is created on the same server, or a URL",
        ),
    ] = None,
    give_up: Annotated[
        bool,
        typer.Option(
            help="restore the rest if some events are lost: neither the log nor the database has them"
        ),
    ] = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Restore a database that is lost, or came back from an old backup, from the event log.

    Stop the service's APIs and workers first. If the database is lost, create it and run `shop migrate`. To an old
    backup it only adds what is missing. It can be killed at any moment, and run again.
    Exit status: 0 if it was restored, 2 if it could not be done; then nothing was changed.
    """
    from eventspine import restoring  # noqa: PLC0415 - only this needs it
    from eventspine.errors import SpineError  # noqa: PLC0415
    from eventspine.recomputing import tables_of  # noqa: PLC0415
    from shop.cli.progress import shown  # noqa: PLC0415
    from shop.cli.progress_served import progress_served  # noqa: PLC0415
    from shop.cli.rebuild_report import source_of  # noqa: PLC0415
    from shop.cli.restore_into import named, prepared  # noqa: PLC0415

    if until is not None and into is None:
        stop("--until restores the past, so it needs another database to put it into: --into NAME")
    moment = None if until is None else _moment(until)
    with beside_running_shop(data):
        chosen = service_named(service)
        settings = settings_or_stop()
        reactions = [
            (each.consumer, topic)
            for each in chosen.consumers(settings)[1:]
            for topic in each.topics
        ]
        log = open_event_log(settings)
        address = database_address(settings, service)
        if into is not None:
            address = prepared(into, database_url(settings, service), chosen)

    async def run() -> "Restored":
        try:
            async with progress_served(settings, "restore", service):
                with shown(service) as progress:
                    return await restoring.restore(
                        address, log, source_of(chosen), tables_of(chosen.projections), progress,
                        reactions=reactions, until=moment, give_up=give_up,
                    )  # fmt: skip
        finally:
            await log.close()

    say_it_once()
    with garbage.settled(), what_is_away("not restored"):
        try:
            restored = asyncio.run(run())
        except SpineError as error:
            stop(f"not restored: {error}")
    for line in _report(restored, reactions, into and named(into)):
        typer.echo(f"shop: {service}: {line}")
    if into is None and service == issuer():
        typer.echo(
            f"shop: {service}: private keys are not in the log, and without one nobody gets a token: run"
            " `shop keys new --if-none`, which makes one if none signs"
        )


def _moment(until: str) -> datetime | int:
    if until.isascii() and until.isdecimal() and int(until) > 0:
        return int(until)
    if not until[:4].isdecimal():
        stop(f"--until {until} is neither a position nor a time like 2026-11-26T12:00:00Z")
    return time_of(until, "--until")


def _report(restored: "Restored", reactions: list[tuple[str, str]], into: str | None) -> list[str]:
    rows = ", ".join(f"{name} {count}" for name, count in restored.rows.items())
    lines = [
        f"{restored.events} events read and restored in {restored.seconds:.2f} s; rows now: {rows}"
    ]
    if restored.horizon is not None:
        until = ", ".join(f"{topic} {upto}" for topic, upto in sorted(restored.horizon.items()))
        lines.append(
            f"this is the past, up to the positions {until}; people who were erased since are erased here"
            f" too. Look at {into}, and start no service on it. {_drop(into)}"
        )
        return lines
    lines.append(f"the next event gets position {restored.head + 1}")
    lines += [
        f"positions {first} to {last} are lost: they were given out, and are nowhere"
        for first, last in restored.missing
    ]
    if restored.undecodable:
        lines.append(
            f"{restored.undecodable} event(s) can't be decoded, and were parked: `shop parked list`"
        )
    lines += [
        f"reaction {consumer} goes on at the end of topic {topic}: what it had not asked before is not asked;"
        " compare with the provider's own records"
        for consumer, topic in reactions
    ]
    if restored.answers:
        lines.append(
            f"{restored.answers} stored answer(s) with personal data were deleted: a repeat of such a request is"
            " executed again"
        )
    lines.append(
        "not in the log, and so not restored: idempotency keys (a repeat of an old request is executed again),"
        " and what was committed in the last moments and had not reached the log"
        + "".join(f"; table {name}" for name in restored.not_in_log)
    )
    if into is not None:
        lines.append(_drop(into))
    else:
        lines.append("check it with `shop audit`, then start the service")
    return lines


def _drop(into: str | None) -> str:
    quoted = '"' + str(into).replace('"', '""') + '"'
    return f"It stays until you drop it, as its owner and from another database: `DROP DATABASE {quoted}`"
