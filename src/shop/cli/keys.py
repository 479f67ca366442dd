"""`shop keys`: the keys that sign access tokens."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventspine.outbox import Transaction
from shop.cli.common import DEFAULT_DATA, DataDir
from shop.cli.identity import in_issuer, issuer, part, refuse

if TYPE_CHECKING:
    from shop.platform.settings import Settings

app = typer.Typer(help="Make, rotate, list and retire the keys that sign access tokens.")

Algorithm = Annotated[str, typer.Option(help="RS256, ES256 or EdDSA")]
Now = Annotated[
    bool,
    typer.Option(
        "--now", help="do not wait; for a key that was stolen. Some tokens may be refused"
    ),
]


@app.command("new")
def keys_new(
    algorithm: Algorithm = "RS256",
    if_none: Annotated[
        bool, typer.Option("--if-none", help="do nothing if a key signs already; for a new shop")
    ] = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Publish a new key. The first one signs at once; others sign after `shop keys rotate`."""
    keys = part("identity.keys")

    async def make(tx: Transaction, settings: "Settings") -> Any:
        encryption = _encryption(settings)
        if if_none:
            return await keys.first_key(tx, encryption)
        return await keys.new_key(tx, encryption, algorithm)

    try:
        made = in_issuer(data, make)
    except keys.KeyRefused as error:
        refuse(str(error))
    else:
        typer.echo("a key signs already" if made is None else f"{made.kid} {made.state}")


@app.command("rotate")
def keys_rotate(
    algorithm: Algorithm = "RS256", now: Now = False, data: DataDir = DEFAULT_DATA
) -> None:
    """Let the next key sign, publish the one after it, and retire old ones. Run it every few weeks.

    The first time there is no next key yet, so it is only published. Exit status 1: it has not been published for
    long enough (`SHOP_USERS__KEY_LEAD_S`), so nothing was activated.
    """
    keys = part("identity.keys")

    def rotate(tx: Transaction, settings: "Settings") -> Any:
        return keys.rotate(
            tx,
            _encryption(settings),
            lead_s=settings.service(issuer()).key_lead_s,  # type: ignore[attr-defined]
            token_s=settings.auth.access_token_s,
            now=now,
            algorithm=algorithm,
        )

    try:
        rotated = in_issuer(data, rotate)
    except keys.KeyRefused as error:
        refuse(str(error))
        return
    for kid in rotated.retired:
        typer.echo(f"{kid} gone")
    if rotated.activated:
        typer.echo(f"{rotated.activated} active")
    if rotated.prepared and rotated.prepared != rotated.activated:
        typer.echo(f"{rotated.prepared} initial")
    if rotated.activated:
        return
    when = f"the next key may sign in {rotated.waits_s:.0f} s, when every service knows it"
    if rotated.prepared:
        typer.echo(f"{when}; the next `shop keys rotate` after that lets it sign")
    else:
        refuse(f"{when}; run this again then")


@app.command("list")
def keys_list(data: DataDir = DEFAULT_DATA) -> None:
    """List all keys, one per line: id, state, seconds in this state while a worker ran, algorithm."""
    keys = part("identity.keys")

    for key in in_issuer(data, lambda tx, _: keys.keys(tx)):
        under = f"encrypted under {key.encrypted_under}" if key.encrypted_under else ""
        typer.echo(f"{key.kid} {key.state} {key.age_s:.0f} s {key.algorithm} {under}".rstrip())


@app.command("retire")
def keys_retire(
    kid: Annotated[str, typer.Argument()], now: Now = False, data: DataDir = DEFAULT_DATA
) -> None:
    """Refuse a key's tokens from now on. Exit status 1, if some of them may still be valid."""
    keys = part("identity.keys")

    try:
        in_issuer(
            data,
            lambda tx, settings: keys.retire(
                tx, kid, token_s=settings.auth.access_token_s, now=now
            ),
        )
    except keys.KeyRefused as error:
        refuse(str(error))
    else:
        typer.echo(f"{kid} gone")


@app.command("rewrap")
def keys_rewrap(data: DataDir = DEFAULT_DATA) -> None:
    """Encrypt all private keys under the first key of the key-encryption file."""
    keys = part("identity.keys")

    moved = in_issuer(data, lambda tx, settings: keys.rewrap(tx, _encryption(settings)))
    typer.echo(f"keys encrypted anew: {moved}")


def _encryption(settings: "Settings") -> Any:
    read = part("identity.key_encryption").read_key_encryption
    return read(settings.auth.key_encryption_key_file)
