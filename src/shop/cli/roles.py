"""`shop roles`: the databases' roles, as SQL, or made at once."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventspine.address import Address
from eventspine.database import connect, translated
from eventspine.slots import CONNECT_GROUP, CONNECT_TOPICS, HEARTBEATS, slot_of
from shop.cli.common import one_line, say_it_once, settings_or_stop, stop, what_is_away
from shop.platform import discovery, secret_files
from shop.platform import roles as platform
from shop.platform.event_log import with_password
from shop.platform.secret_files import passwords as lines
from shop.platform.settings import Settings

if TYPE_CHECKING:
    from eventspine.kafka_log.rights import Rights

ADMIN = "SHOP_ADMIN_URL"
KAFKA = "kafka"


def roles(
    database: Annotated[str, typer.Argument(help="a service, log, or kafka")],
    passwords: Annotated[
        Path | None,
        typer.Option(
            "--passwords",
            help="a folder with a file for each role, named ROLE_password; its last line is the password",
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option(help=f"do it, in the server that {ADMIN} names, and print nothing")
    ] = False,
    cdc: Annotated[
        bool,
        typer.Option(
            help="also a role with REPLICATION for change data capture, NAME_cdc; or SHOP_RELAY=cdc"
        ),
    ] = False,
) -> None:
    """Print the SQL that makes a database and its roles; run it again to change their passwords.

    Passwords are only in it as SCRAM verifiers. `shop migrate` then gives the roles their rights.
    `shop roles kafka` prints the commands for Kafka's users; with --apply it makes users and rights on the
    cluster of `SHOP_KAFKA__…`.
    """
    if database == KAFKA:
        _kafka(passwords, apply=apply)
        return
    known = [*discovery.names(), "log", KAFKA]
    if database not in known:
        stop(f"there is no database {database}; there are: {', '.join(known)}")
    cdc = cdc or os.environ.get("SHOP_RELAY") == "cdc"
    verifiers = _verifiers(database, passwords, cdc=cdc) if passwords else {}
    if apply:
        say_it_once()
        with what_is_away("no roles were made"):
            asyncio.run(_apply(database, verifiers, cdc=cdc))
        return
    for statement in platform.creation(database, verifiers, cdc=cdc):
        typer.echo(f"{statement};")
    typer.echo(f"SELECT '{platform.database_creation(database)}'")
    typer.echo(f"WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{database}')\\gexec")
    for statement in platform.database_rights(database, cdc=cdc):
        typer.echo(f"{statement};")


def _kafka(folder: Path | None, *, apply: bool) -> None:
    settings = settings_or_stop()
    wanted = kafka_rights(settings)
    if not apply:
        for each in wanted:
            typer.echo("\n".join(each.commands()))
        return
    from eventspine.kafka_log.rights import grant  # noqa: PLC0415 - only this needs librdkafka

    found = {}
    for each in wanted if folder else []:
        path = (folder or Path()) / f"kafka_{each.user}_password"
        try:
            found[each.user] = lines(secret_files.content(path))[-1]
        except (OSError, UnicodeDecodeError) as error:
            stop(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}")
    config = {name.replace("_", "."): value for name, value in settings.kafka.items()}
    with what_is_away("no rights were given"):
        grant(config, wanted, found)


def kafka_rights(settings: Settings) -> "list[Rights]":
    """Of each service and front, and of `migrate`. Under change data capture also of `connect`, and what `shop cdc` needs."""
    from eventspine.kafka_log.rights import Rights  # noqa: PLC0415 - only this needs librdkafka

    services = discovery.load_all()
    topics = [each.topic for each in services if each.topic]
    if settings.relay == "cdc":
        beats = [HEARTBEATS + slot_of(each.name) for each in services if each.topic]
        # `shop cdc begin` sends from the outbox what no slot has any more.
        found = [
            Rights("migrate", creates=[*topics, *beats], writes=topics, reads=topics),
            # The group and its topics are for several processes of Connect; one alone does not use them.
            Rights(
                "connect",
                writes=[*topics, *beats, *CONNECT_TOPICS],
                reads=CONNECT_TOPICS,
                creates=CONNECT_TOPICS,
                groups=[CONNECT_GROUP],
            ),
        ]
    else:
        found = [Rights("migrate", creates=topics)]
    for each in services:
        consumers = [one for one in each.consumers(settings) if one.topics]
        own = [each.topic] if each.topic else []
        found.append(
            Rights(
                each.name,
                writes=own,
                # Its own, too: a relay looks for the end of what it has written.
                reads=sorted({*own, *(topic for one in consumers for topic in one.topics)}),
                groups=[
                    *(one.consumer for one in consumers),
                    *([f"{each.name}.relay"] if own and settings.relay == "cdc" else []),
                ],
            )
        )
    # A front reads, and joins no group.
    found += [Rights(name, reads=sorted(topics)) for name in discovery.fronts()]
    return found


def _verifiers(database: str, folder: Path, *, cdc: bool) -> Mapping[str, str]:
    """Of those roles whose file is there."""
    found = {}
    for role in platform.named(database, cdc=cdc):
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


async def _apply(database: str, verifiers: Mapping[str, str], *, cdc: bool) -> None:
    connection = await connect(_administrator())
    try:
        with translated():
            for statement in platform.creation(database, verifiers, cdc=cdc):
                await connection.execute(statement.encode())
            there = await connection.execute(
                "SELECT FROM pg_database WHERE datname = %s", [database]
            )
            if not await there.fetchall():
                await connection.execute(platform.database_creation(database).encode())
            for statement in platform.database_rights(database, cdc=cdc):
                await connection.execute(statement.encode())
    finally:
        await connection.close()


def _administrator() -> Address:
    """Every password of the file is tried, so that it can be replaced at any time."""
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
    return lambda: [with_password(url, each) for each in lines(password)]
