"""`shop clients`: other services, which get tokens with a secret of their own."""

import re
from typing import Annotated

import typer

from shop.cli.common import DEFAULT_DATA, DataDir, stop
from shop.cli.identity import in_issuer, part, refuse

app = typer.Typer(help="Services that get tokens by the grant client_credentials.")

_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_SCOPE = r"[a-z][a-z0-9_]*:(read|write)"

Id = Annotated[str, typer.Argument(metavar="ID", help="letters, digits, and . _ -")]


@app.command("new")
def clients_new(
    id: Id,  # noqa: A002 - so it is called in the help
    scope: Annotated[
        list[str] | None,
        typer.Option(help="what it may do, like SERVICE:read; may be repeated"),
    ] = None,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Make a client, or another secret for one. Prints the secret, which is stored nowhere."""
    clients = part("identity.clients")

    if not re.fullmatch(_ID, id):
        stop(f"{id!r} is no client id: letters, digits, and . _ - (100 at most)")
    for each in scope or ():
        if not re.fullmatch(_SCOPE, each):
            stop(f"{each!r} is no scope: a service's name and :read or :write, like SERVICE:read")
    try:
        secret = in_issuer(data, lambda tx, _: clients.new(tx, id, scope or ()))
    except clients.ClientRefused as error:
        refuse(str(error))
    else:
        typer.echo(secret)


@app.command("list")
def clients_list(data: DataDir = DEFAULT_DATA) -> None:
    """List clients, one per line: id, scopes, number of secrets."""
    clients = part("identity.clients")

    for client in in_issuer(data, lambda tx, _: clients.clients(tx)):
        typer.echo(f"{client.id} [{' '.join(client.scope)}] secrets: {client.secrets}")


@app.command("retire")
def clients_retire(
    id: Id,  # noqa: A002
    oldest_secret: Annotated[
        bool, typer.Option("--oldest-secret", help="retire only the older of its two secrets")
    ] = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Refuse a client and all its tokens from now on."""
    clients = part("identity.clients")

    try:
        in_issuer(data, lambda tx, _: clients.retire(tx, id, oldest_secret=oldest_secret))
    except clients.ClientRefused as error:
        refuse(str(error))
