"""`shop settings`: what this process would run with."""

import json
from typing import Annotated

import typer

from shop.cli.common import settings_or_stop
from shop.platform.settings_list import listed
from shop.platform.terminal import plain


def settings(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    changed: Annotated[bool, typer.Option(help="only those that are not the default")] = False,
) -> None:
    """Show every setting, its value, and where it came from. Secrets are masked."""
    shown = [each for each in listed(settings_or_stop()) if not changed or each.origin != "default"]
    if as_json:
        for each in shown:
            typer.echo(json.dumps(each._asdict()))
        return
    width = max((len(each.name) for each in shown), default=0)
    for each in shown:
        typer.echo(f"{each.name:{width}}  {plain(each.value) or '-'}  ({plain(each.origin)})")
