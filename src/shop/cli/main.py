"""The command line: `shop up` for everything at once, the other commands for one part each."""

import sys

import typer

from shop.cli import api, audit, events, migrate, parked, up, worker
from shop.cli.common import (
    NOT_DONE,
)
from shop.platform.discovery import NotAService
from shop.platform.event_log import NotConfigured

app = typer.Typer(
    help="An event-driven shop: a user service and an order service in step through events.",
    epilog="Exit status: 0 if all is well; 1 if the command did its work and not all is well; 2 if it"
    " could not do it, which one sentence explains. (`up`: 1 if it could not start.)",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for command in (up.up, api.api, worker.worker, migrate.migrate, events.events, audit.audit):
    app.command()(command)
app.add_typer(parked.app, name="parked", no_args_is_help=True)


def _with_kafka_value(words: list[str]) -> list[str]:
    """`--kafka` alone means a broker started here; Typer has no option with an optional value."""
    spelled: list[str] = []
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        spelled.append(word)
        if word == "--kafka" and following.startswith("-"):
            spelled.append("local")
    return spelled


def main() -> None:
    try:
        app(args=_with_kafka_value(sys.argv[1:]))
    except (NotAService, NotConfigured) as error:
        typer.echo(f"shop: {error}", err=True)
        sys.exit(NOT_DONE)
    except KeyboardInterrupt:
        sys.exit(130)
