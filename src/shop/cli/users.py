"""`shop users`: roles, locks and passwords, for an operator."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from eventspine.context import Request
from eventspine.outbox import Transaction
from shop.cli.common import DEFAULT_DATA, DataDir, stop
from shop.cli.identity import in_users, password_from, refuse

if TYPE_CHECKING:
    from shop.services.users.identity.access import Access

app = typer.Typer(
    help="Grant roles to users, lock them, reset their passwords; make the first admin."
)

UserId = Annotated[int, typer.Argument(metavar="ID", min=1)]
Role = Annotated[str, typer.Argument(metavar="ROLE", help="support or admin")]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="read the password from the first line of stdin")
]


@app.command("admin")
def users_admin(
    email: Annotated[str, typer.Argument(metavar="EMAIL")],
    name: Annotated[str, typer.Option(help="of a user that is made")] = "Administrator",
    password_stdin: FromStdin = False,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Make an admin: a new user, or the one who has this address, who gets the new password."""
    from shop.platform.http.fields import Email, Line  # noqa: PLC0415 - only this needs it
    from shop.services.users.identity import staff  # noqa: PLC0415
    from shop.services.users.identity.password_rules import NewPassword  # noqa: PLC0415
    from shop.services.users.identity.passwords import Passwords  # noqa: PLC0415

    def checked(kind: Any, value: str, what: str) -> None:
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            told = error.errors(include_input=False, include_url=False)[0]["msg"]
            stop(f"{what}: {told.removeprefix('Value error, ')}")

    checked(Email, email, "the address")
    checked(Line, name, "the name")
    password = password_from("Password", from_stdin=password_stdin)
    checked(NewPassword, password, "the password")

    async def hashed() -> str:
        passwords = Passwords()
        try:
            return await passwords.hash(password)
        finally:
            await passwords.close()

    password_hash = asyncio.run(hashed())
    user_id = in_users(data, lambda tx, _: staff.make_admin(tx, email, name, password_hash))
    typer.echo(f"user {user_id} is an admin")


@app.command("grant")
def users_grant(user_id: UserId, role: Role, data: DataDir = DEFAULT_DATA) -> None:
    """Grant a role to a user."""
    from shop.services.users.identity import staff  # noqa: PLC0415

    _change(data, user_id, lambda tx: staff.change_roles(tx, user_id, add=[role]))


@app.command("revoke")
def users_revoke(user_id: UserId, role: Role, data: DataDir = DEFAULT_DATA) -> None:
    """Take a role from a user."""
    from shop.services.users.identity import staff  # noqa: PLC0415

    _change(data, user_id, lambda tx: staff.change_roles(tx, user_id, remove=[role]))


@app.command("lock")
def users_lock(user_id: UserId, data: DataDir = DEFAULT_DATA) -> None:
    """Refuse a user's tokens and logins from now on."""
    from shop.services.users.identity import staff  # noqa: PLC0415

    _change(data, user_id, lambda tx: staff.set_lock(tx, user_id, locked=True))


@app.command("unlock")
def users_unlock(user_id: UserId, data: DataDir = DEFAULT_DATA) -> None:
    """Let a user log in again."""
    from shop.services.users.identity import staff  # noqa: PLC0415

    _change(data, user_id, lambda tx: staff.set_lock(tx, user_id, locked=False))


@app.command("reset")
def users_reset(user_id: UserId, data: DataDir = DEFAULT_DATA) -> None:
    """Print a token by which the user can set a new password, once, within an hour."""
    from shop.services.users.identity import credentials  # noqa: PLC0415
    from shop.services.users.identity.schemas import MakeReset, PasswordReset  # noqa: PLC0415

    made = in_users(data, lambda tx, _: credentials.make_reset(tx, Request(MakeReset(user_id))))
    if isinstance(made, PasswordReset):
        typer.echo(made.reset_token)
    else:
        refuse(f"no user has the id {user_id}")


def _change(data: Path, user_id: int, change: Callable[[Transaction], Awaitable["Access"]]) -> None:
    from shop.services.users.identity.staff import StaffRefused  # noqa: PLC0415

    try:
        access = in_users(data, lambda tx, _: change(tx))
    except StaffRefused as error:
        refuse(str(error))
    else:
        locked = ", locked" if access.locked else ""
        typer.echo(f"user {user_id}: {' '.join(access.roles)}{locked}")
