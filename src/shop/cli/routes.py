"""`shop routes`: which route is for whom."""

import json
from typing import Annotated

import typer

from shop.cli.common import services_named, settings_or_stop


def routes(
    service: Annotated[str | None, typer.Argument(help="one service; default: all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
) -> None:
    """Show each route, the scope and the roles that it needs, and whose rows it gives."""
    from eventspine.database import Database  # noqa: PLC0415 - only this and an API need it
    from shop.platform.auth.rules import Row  # noqa: PLC0415
    from shop.platform.processes.api import check_rules  # noqa: PLC0415

    settings = settings_or_stop()
    lines = [
        row
        for each in services_named(service)
        for row in check_rules(each, each.endpoints(settings, Database("")).router)
    ]
    if as_json:
        for row in lines:
            typer.echo(json.dumps(row._asdict()))
        return
    table = [Row(*Row._fields), *lines]
    widths = [max(len(row[n]) for row in table) for n in range(5)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
