"""`shop audit`: the verdict."""

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
    what_is_away,
)
from shop.platform.event_log import database_url, open_event_log


def audit(
    service: Annotated[str | None, typer.Argument(help="one service; all, if left out")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the verdict as one JSON object")] = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Prove that nothing is lost and nothing was applied twice.

    Exit status: 0 if all of it holds, 1 if something does not, 2 if something could not be read and
    there is no verdict.
    """
    from eventspine.audit import Audited  # noqa: PLC0415 - only this needs it
    from shop.cli.audit_report import audit_all  # noqa: PLC0415

    with beside_running_shop(data):
        settings = settings_or_stop()
        audited = [
            Audited(
                name=each.name,
                source=each.source,
                topic=each.topic,
                database_url=database_url(settings, each.name),
                handlers=each.handlers,
                projections=each.projections,
                invariants=each.invariants,
            )
            for each in services_named(service)
        ]
        log = open_event_log(settings)

    async def run() -> bool:
        try:
            return await audit_all(audited, log, as_json=as_json)
        finally:
            await log.close()

    say_it_once()
    with what_is_away("no verdict"):
        holds = asyncio.run(run())
    raise typer.Exit(0 if holds else 1)
