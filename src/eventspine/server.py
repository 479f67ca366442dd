"""What a PostgreSQL database must be like for the pipeline to work correctly, and the check of it.

A session sets everything itself that its results depend on (`database.connect`). This module checks the rest:
what was fixed when the server or the database was created, the rights, and proxies in between. `shop migrate` checks
before it changes anything. The table of requirements is in `docs/operations.md`.
"""

from contextlib import AsyncExitStack

from psycopg import errors
from psycopg.conninfo import make_conninfo

from eventspine.database import Connection, connect, translated
from eventspine.errors import SpineError, Unavailable

OLDEST = 17
"""PostgreSQL's major version: `transaction_timeout`, MERGE with RETURNING, `pg_c_utf8`."""

_ANSWERS_WITHIN = 5.0  # seconds; a pooler may let a question wait for minutes

_ROUNDS = 3

_POOLER = (
    "a pooler stands before it that {}: the shop sets, locks and listens for as long as a session lasts, so"
    " it needs session mode, or PostgreSQL itself (each of its processes has a small pool of its own)"
)

# No word in it is text from the database: in one without an encoding that would be bytes.
_FACTS = """
SELECT pg_is_in_recovery() AS standby,
    current_schema() IS NULL AS nowhere,
    NOT coalesce(has_schema_privilege(current_schema(), 'CREATE'), true) AS may_not_create,
    NOT has_database_privilege(current_database(), 'TEMPORARY') AS no_temporary_tables,
    current_setting('fsync') = 'off' AS fsync,
    current_setting('zero_damaged_pages') = 'on' AS zero_damaged_pages
"""

_WRONG = {
    "standby": "it is a standby, which takes no changes: name the primary",
    "nowhere": "it has no schema public, where the tables are kept: CREATE SCHEMA public",
    "may_not_create": "permission denied for schema public: its role has to be the owner of the database,"
    " or may at least create tables there",
    "no_temporary_tables": "its role may not make temporary tables, which `shop audit` needs: GRANT"
    " TEMPORARY ON DATABASE",
}

_LOSES_DATA = {
    "fsync": "fsync is off",
    "zero_damaged_pages": "zero_damaged_pages is on",
}


class Unfit(SpineError):
    """The database is not what it has to be; the message says what, and what to do."""


async def check(url: str, *, may_lose_data: bool = False) -> None:
    """Raises `Unfit`, and `Unavailable` if it can't be told. Changes nothing.

    With `may_lose_data` a server will do that may lose, in a crash, what it has confirmed.
    """
    async with AsyncExitStack() as held:
        one = await _connected(held, url)
        _check_version(one)
        _check_encoding(one)
        try:
            with translated():
                await _check_sessions(one, await _connected(held, url))
        except Unavailable as error:
            # PostgreSQL takes every word that is said here: it is not PostgreSQL that speaks.
            if isinstance(error.__cause__, errors.ProtocolViolation):
                raise Unfit(_POOLER.format(f"says: {error.__cause__}")) from error
            raise
        await _check_facts(one, may_lose_data=may_lose_data)


async def _connected(held: AsyncExitStack, url: str) -> Connection:
    try:
        connection = await connect(url)
    except Unavailable as error:
        try:
            # It may be a standby, which the rest of the code would not accept: then that is what to say.
            connection = await connect(make_conninfo(url, target_session_attrs="any"))
        except Unavailable:
            # What the server says, without the name of its class: it goes to a person.
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
            f"its encoding is {encoding}, which can't hold every name: it has to be UTF8 (CREATE DATABASE"
            " … TEMPLATE template0 ENCODING 'UTF8')"
        )


async def _check_sessions(one: Connection, other: Connection) -> None:
    """Two connections are two sessions, and each is the same one from transaction to transaction.

    A pooler in transaction mode gives a session to any client that begins a transaction, most often the one
    that was used last; one that takes turns shows itself in the second round.
    """
    first = await _session(one)
    others = set()
    for _ in range(_ROUNDS):
        await other.execute("BEGIN")
        others.add(await _session(other))
        # Before anything else is asked: if there is but one session, the other holds it.
        apart = first not in others and await _session(one) == first
        await other.execute("COMMIT")
        if not apart or len(others) > 1 or {await _session(one), await _session(one)} != {first}:
            raise Unfit(
                _POOLER.format("gives a session to another between transactions (transaction mode)")
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
            f"{' and '.join(loses)}, so a crash may take what was confirmed: reset that; or, if nobody will"
            " miss the data, set SHOP_ACCEPT_DATA_LOSS=true"
        )
