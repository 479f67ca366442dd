"""`shop roles`: the databases' roles, as SQL, or made at once."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from eventspine.database import connect, translated
from shop.cli.common import one_line, say_it_once, stop, what_is_away
from shop.platform import discovery, secret_files
from shop.platform import roles as platform
from shop.platform.event_log import with_password
from shop.platform.secret_files import passwords as lines

ADMIN = "SHOP_ADMIN_URL"


def roles(
    database: Annotated[str, typer.Argument(help="a service, or log")],
    passwords: Annotated[
        Path | None,
        typer.Option(
            "--passwords",
            help="a folder with a file for each role, ROLE_password; of several lines the last counts",
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option(help=f"do it, in the server that {ADMIN} names, and print nothing")
    ] = False,
) -> None:
    """Print the SQL that makes a database and its roles; run it again to change their passwords.

    Passwords are only in it as SCRAM verifiers. `shop migrate` then gives the roles their rights.
    """
    if database not in {*discovery.names(), "log"}:
        stop(
            f"there is no database {database}; there are: {', '.join([*discovery.names(), 'log'])}"
        )
    verifiers = _verifiers(database, passwords) if passwords else {}
    if apply:
        say_it_once()
        with what_is_away("no roles were made"):
            asyncio.run(_apply(database, verifiers))
        return
    for statement in platform.creation(database, verifiers):
        typer.echo(f"{statement};")
    typer.echo(f"SELECT '{platform.database_creation(database)}'")
    typer.echo(f"WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{database}')\\gexec")
    for statement in platform.database_rights(database):
        typer.echo(f"{statement};")


def _verifiers(database: str, folder: Path) -> Mapping[str, str]:
    """Of those roles whose file is there."""
    found = {}
    for role in platform.named(database):
        path = folder / f"{role}_password"
        try:
            text = secret_files.content(path)
            found[role] = platform.scram(lines(text)[-1])
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            stop(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}")
        except ValueError as error:
            stop(f"{path}: {one_line(error)}")
    if not found:
        stop(
            f"there is no password in {folder}: a role's is in ROLE_password, like {database}_api_password"
        )
    return found


async def _apply(database: str, verifiers: Mapping[str, str]) -> None:
    connection = await connect(_administrator())
    try:
        with translated():
            for statement in platform.creation(database, verifiers):
                await connection.execute(statement.encode())
            there = await connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", [database]
            )
            if not await there.fetchall():
                await connection.execute(platform.database_creation(database).encode())
            for statement in platform.database_rights(database):
                await connection.execute(statement.encode())
    finally:
        await connection.close()


def _administrator() -> str:
    found = secret_files.files(os.environ, "SHOP_ADMIN_")
    try:
        url, password = (
            secret_files.content(found[name]) if name in found else os.environ.get(name, "")
            for name in (ADMIN, "SHOP_ADMIN_PASSWORD")
        )
    except OSError as error:
        stop(f"cannot read {error.filename}: {error.strerror}")
    if not url:
        stop(
            f"{ADMIN} is not set: postgresql://administrator@host/postgres, and SHOP_ADMIN_PASSWORD_FILE"
        )
    return with_password(url, lines(password)[0])
