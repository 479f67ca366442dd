"""`shop audit`: checks the log and the databases."""

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
from shop.cli.filters import Grep, pattern_or_stop
from shop.platform import discovery
from shop.platform.event_log import database_address, open_event_log


def audit(
    service: Annotated[str | None, typer.Argument(help="one service; default: all")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the result as one JSON object")
    ] = False,
    grep: Grep = None,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Check that no event is lost and none was applied twice.

    `--grep` prints only the checks and problems in which the pattern is found. All are made, and the status is
    that of all.

    Exit status: 0 if all checks passed, 1 if a check failed, 2 if something could not be read, so that
    there is no result.
    """
    from eventspine.audit_sections import Audited  # noqa: PLC0415 - only this needs it
    from shop.cli.audit_report import audit_all  # noqa: PLC0415
    from shop.cli.progress_served import progress_served  # noqa: PLC0415

    pattern = pattern_or_stop(grep)
    with beside_running_shop(data):
        settings = settings_or_stop()
        audited = [
            Audited(
                name=each.name,
                source=each.source,
                topic=each.topic,
                events=discovery.contracts(each.name),
                database_url=database_address(settings, each.name),
                consumers=each.consumers(settings),
                projections=each.projections,
                invariants=each.invariants,
            )
            for each in services_named(service)
        ]
        log = open_event_log(settings)

    async def run() -> bool:
        try:
            async with progress_served(settings, "audit", service or "all"):
                return await audit_all(audited, log, pattern, as_json=as_json)
        finally:
            await log.close()

    say_it_once()
    with what_is_away("no verdict"):
        holds = asyncio.run(run())
    raise typer.Exit(0 if holds else 1)
