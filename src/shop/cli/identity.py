"""What the commands about keys, accounts and clients share: the service that issues tokens, and one transaction in
its database.

The service is the one whose settings say `issues_tokens`. Its modules below `identity` do the work.
"""

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from eventspine.address import Address
from eventspine.database import Database
from eventspine.outbox import Transaction, transaction
from shop.cli.common import (
    beside_running_shop,
    say_it_once,
    service_named,
    settings_or_stop,
    stop,
    what_is_away,
)
from shop.platform import discovery
from shop.platform.event_log import database_address

if TYPE_CHECKING:
    from shop.platform.settings import Settings

Result = TypeVar("Result")

_SETS = "issues_tokens"

NOT_YET = 1
"""The exit status of what ran, and may not be done now."""


def in_issuer(data: Path, work: Callable[[Transaction, "Settings"], Awaitable[Result]]) -> Result:
    """Do it in one transaction, which publishes. Ends the command if the database can't be used."""
    name = issuer() or stop("there is no service that issues tokens")
    with beside_running_shop(data):
        service_named(name)
        settings = settings_or_stop()
        address = database_address(settings, name)
    say_it_once()
    with what_is_away(f"cannot use the database {name}"):
        return asyncio.run(_in_transaction(address, lambda tx: work(tx, settings)))
    raise AssertionError


def issuer() -> str:
    """The service that issues tokens; empty if there is none."""
    try:
        sections = discovery.sections()
    except discovery.NotAService:  # the command says it
        return ""
    return next((name for name, section in sections.items() if getattr(section, _SETS)), "")


def part(module: str) -> Any:
    """A module of that service: imported only by the commands that need it."""
    name = issuer() or stop("there is no service that issues tokens")
    return import_module(f"{discovery.find(name).package}.{module}")


async def _in_transaction(
    address: Address, work: Callable[[Transaction], Awaitable[Result]]
) -> Result:
    database = Database(address, size=1)
    await database.open()
    try:
        async with transaction(database) as tx:
            return await work(tx)
    finally:
        await database.close()


def refuse(sentence: str) -> None:
    """Nothing was changed, and the sentence says why."""
    typer.echo(f"shop: {sentence}", err=True)
    raise typer.Exit(NOT_YET)


def password_from(prompt: str, *, from_stdin: bool) -> str:
    """Asked for at the terminal, twice; or the first line of stdin. Never an argument, which others can see."""
    if from_stdin:
        given = typer.get_text_stream("stdin").readline().rstrip("\n")
        return given or stop("stdin has no password on its first line")
    given = typer.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True)
    return str(given)
