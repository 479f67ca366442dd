"""`shop users`: roles, locks and passwords, for an operator."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from eventspine.context import Request
from eventspine.outbox import Transaction
from shop.cli.common import DEFAULT_DATA, DataDir, stop
from shop.cli.identity import in_issuer, part, password_from, refuse

app = typer.Typer(help="Grant a user a role, lock it, reset its password; make the first admin.")

UserId = Annotated[int, typer.Argument(metavar="ID", min=1)]
Role = Annotated[str, typer.Argument(metavar="ROLE", help="support or admin")]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="read the password from the first line of stdin")
]


@app.command("admin")
def accounts_admin(
    email: Annotated[str, typer.Argument(metavar="EMAIL")],
    name: Annotated[str, typer.Option(help="the name, if the user is created")] = "Administrator",
    password_stdin: FromStdin = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Make an admin: a new user, or the one who has this address, who gets the new password."""
    from shop.platform.http.fields import Email, Line  # noqa: PLC0415 - only this needs it

    staff = part("identity.staff")

    def checked(kind: Any, value: str, what: str) -> None:
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            told = error.errors(include_input=False, include_url=False)[0]["msg"]
            stop(f"{what}: {told.removeprefix('Value error, ')}")

    checked(Email, email, "the address")
    checked(Line, name, "the name")
    password = password_from("Password", from_stdin=password_stdin)
    checked(part("identity.password_rules").NewPassword, password, "the password")

    async def hashed() -> str:
        passwords = part("identity.passwords").Passwords()
        try:
            return str(await passwords.hash(password))
        finally:
            await passwords.close()

    password_hash = asyncio.run(hashed())
    user_id = in_issuer(data, lambda tx, _: staff.make_admin(tx, email, name, password_hash))
    typer.echo(f"user {user_id} is an admin")


@app.command("grant")
def accounts_grant(user_id: UserId, role: Role, data: DataDir = DEFAULT_DATA) -> None:
    """Grant a role to a user."""
    staff = part("identity.staff")

    _change(data, user_id, lambda tx: staff.change_roles(tx, user_id, add=[role]))


@app.command("revoke")
def accounts_revoke(user_id: UserId, role: Role, data: DataDir = DEFAULT_DATA) -> None:
    """Take a role from a user."""
    staff = part("identity.staff")

    _change(data, user_id, lambda tx: staff.change_roles(tx, user_id, remove=[role]))


@app.command("lock")
def accounts_lock(user_id: UserId, data: DataDir = DEFAULT_DATA) -> None:
    """Refuse a user's tokens and logins from now on."""
    staff = part("identity.staff")

    _change(data, user_id, lambda tx: staff.set_lock(tx, user_id, locked=True))


@app.command("unlock")
def accounts_unlock(user_id: UserId, data: DataDir = DEFAULT_DATA) -> None:
    """Let a user log in again."""
    staff = part("identity.staff")

    _change(data, user_id, lambda tx: staff.set_lock(tx, user_id, locked=False))


@app.command("reset")
def accounts_reset(user_id: UserId, data: DataDir = DEFAULT_DATA) -> None:
    """Print a token by which the user can set a new password, once, within an hour."""
    credentials = part("identity.credentials")
    schemas = part("identity.schemas")

    made = in_issuer(
        data, lambda tx, _: credentials.make_reset(tx, Request(schemas.MakeReset(user_id)))
    )
    if isinstance(made, schemas.PasswordReset):
        typer.echo(made.reset_token)
    else:
        refuse(f"no user has the id {user_id}")


def _change(data: Path, user_id: int, change: Callable[[Transaction], Any]) -> None:
    refused = part("identity.staff").StaffRefused

    try:
        access = in_issuer(data, lambda tx, _: change(tx))
    except refused as error:
        refuse(str(error))
    else:
        locked = ", locked" if access.locked else ""
        typer.echo(f"user {user_id}: {' '.join(access.roles)}{locked}")
