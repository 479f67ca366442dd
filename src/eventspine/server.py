"""Checks that a PostgreSQL database meets the requirements of the pipeline.

Each session sets the settings that its results depend on (`database.connect`). This module checks the rest:
properties that were fixed when the server or the database was created, permissions, and proxies in between.
`shop migrate` runs the check before it changes anything. The table of requirements is in `docs/operations.md`.
"""

from contextlib import AsyncExitStack

from psycopg import errors
from psycopg.conninfo import make_conninfo

from eventspine.database import Connection, connect, translated
from eventspine.errors import SpineError, Unavailable

OLDEST = 17
"""PostgreSQL's major version: `transaction_timeout`, MERGE with RETURNING, `pg_c_utf8`."""

_ANSWERS_WITHIN = 5.0  # seconds; a pooler may delay a query for minutes

_ROUNDS = 3

_POOLER = (
    "there is a pooler in front of it that {}: the shop needs settings, locks and LISTEN that last as long as"
    " a session, so use session mode, or connect to PostgreSQL itself (each process has its own small pool)"
)

# It returns no text from the database. In a database without an encoding, psycopg would return bytes.
_FACTS = """
SELECT pg_is_in_recovery() AS standby,
    current_schema() IS NULL AS nowhere,
    NOT coalesce(has_schema_privilege(current_schema(), 'CREATE'), true) AS may_not_create,
    NOT has_database_privilege(current_database(), 'TEMPORARY') AS no_temporary_tables,
    current_setting('fsync') = 'off' AS fsync,
    current_setting('zero_damaged_pages') = 'on' AS zero_damaged_pages
"""

_WRONG = {
    "standby": "it is a standby, which accepts no changes: use the address of the primary",
    "nowhere": "it has no schema public for the tables: CREATE SCHEMA public",
    "may_not_create": "permission denied for schema public: its role must be the owner of the database,"
    " or must at least be allowed to create tables there",
    "no_temporary_tables": "its role may not create temporary tables, which `shop audit` needs: GRANT"
    " TEMPORARY ON DATABASE",
}

_LOSES_DATA = {
    "fsync": "fsync is off",
    "zero_damaged_pages": "zero_damaged_pages is on",
}


class Unfit(SpineError):
    """The database does not meet a requirement. The message says which one, and what to do."""


async def check(url: str, *, may_lose_data: bool = False) -> None:
    """Raises `Unfit`, or `Unavailable` if the check was not possible. Changes nothing.

    With `may_lose_data`, the server may have settings under which a crash can lose confirmed commits.
    """
    async with AsyncExitStack() as held:
        one = await _connected(held, url)
        _check_version(one)
        _check_encoding(one)
        try:
            with translated():
                await _check_sessions(one, await _connected(held, url))
        except Unavailable as error:
            # PostgreSQL accepts every message sent here, so the server is not PostgreSQL.
            if isinstance(error.__cause__, errors.ProtocolViolation):
                raise Unfit(_POOLER.format(f"says: {error.__cause__}")) from error
            raise
        await _check_facts(one, may_lose_data=may_lose_data)


async def _connected(held: AsyncExitStack, url: str) -> Connection:
    try:
        connection = await connect(url)
    except Unavailable as error:
        try:
            # Accept a standby here, so that the error can say that it is one.
            connection = await connect(make_conninfo(url, target_session_attrs="any"))
        except Unavailable:
            # Only the server's message, without the name of the error's class, because a person reads it.
            raise Unavailable(str(error.__cause__ or error)) from error
    connection.silent_after = _ANSWERS_WITHIN
    held.push_async_callback(connection.close)
    return connection


def _check_version(connection: Connection) -> None:
    if connection.info.server_version < OLDEST * 10_000:
        version = connection.info.parameter_status("server_version")
        raise Unfit(f"PostgreSQL {OLDEST} or newer is needed, and this is {version}")


def _check_encoding(connection: Connection) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise Unfit(
            f"its encoding is {encoding}, which can't store every name: it must be UTF8 (CREATE DATABASE"
            " … TEMPLATE template0 ENCODING 'UTF8')"
        )


async def _check_sessions(one: Connection, other: Connection) -> None:
    """Check that two connections are two sessions, and that each keeps its session between transactions.

    A pooler in transaction mode gives any free session to a client that begins a transaction, mostly the
    one that was used last. If the pooler rotates its sessions, the second round detects it.
    """
    first = await _session(one)
    others = set()
    for _ in range(_ROUNDS):
        await other.execute("BEGIN")
        others.add(await _session(other))
        # Check this first: if the pooler has only one session, the other connection holds it.
        apart = first not in others and await _session(one) == first
        await other.execute("COMMIT")
        if not apart or len(others) > 1 or {await _session(one), await _session(one)} != {first}:
            raise Unfit(
                _POOLER.format(
                    "gives sessions to other clients between transactions (transaction mode)"
                )
            )


async def _session(connection: Connection) -> int:
    cursor = await connection.execute("SELECT pg_backend_pid()", prepare=False)
    return int((await cursor.fetchall())[0][0])


async def _check_facts(connection: Connection, *, may_lose_data: bool) -> None:
    cursor = await connection.execute(_FACTS, prepare=False)
    names = [column.name for column in cursor.description or ()]
    facts = dict(zip(names, (await cursor.fetchall())[0], strict=True))
    for name, sentence in _WRONG.items():
        if facts[name]:
            raise Unfit(sentence)
    loses = [sentence for name, sentence in _LOSES_DATA.items() if facts[name]]
    if loses and not may_lose_data:
        raise Unfit(
            f"{' and '.join(loses)}, so a crash may lose confirmed data: reset that; or, if a loss of the"
            " data is acceptable, set SHOP_ACCEPT_DATA_LOSS=true"
        )
