"""What a PostgreSQL database has to be, so that the spine is right on it, and whether it is.

Most of what a session's answers depend on, the session sets for itself (`database.connect`). This is
the rest: what was decided when the server or the database was made, and what stands between.
`shop migrate` asks before it changes anything; the table is in `docs/operations.md`.
"""

import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from psycopg import errors
from psycopg.conninfo import make_conninfo

from eventspine.database import Connection, connect, translated
from eventspine.errors import SpineError, Unavailable

OLDEST = 17
"""PostgreSQL's major version: `transaction_timeout`, MERGE with RETURNING, `pg_c_utf8`."""

_ANSWERS_WITHIN = 5.0  # seconds; a pooler may let a question wait for minutes

_ROUNDS = 3

_POOLER = (
    "a pooler stands before it that {}: the shop holds locks and listens for as long as a session lasts,"
    " so it has to reach PostgreSQL itself (each of its processes has a small pool of its own)"
)

_DROPS = "does not pass on what a session asks for as it starts"

# No word in it is text from the database: in one without an encoding that would be bytes.
_FACTS = """
SELECT pg_is_in_recovery() AS standby,
    current_setting('transaction_read_only') = 'on' AS read_only,
    current_setting('default_transaction_isolation') <> 'read committed' AS isolated,
    current_schema() IS NULL AS nowhere,
    NOT coalesce(has_schema_privilege(current_schema(), 'CREATE'), true) AS may_not_create,
    NOT has_database_privilege(current_database(), 'TEMPORARY') AS no_temporary_tables,
    current_setting('fsync') = 'off' AS fsync,
    current_setting('full_page_writes') = 'off' AS full_page_writes,
    current_setting('synchronous_commit') = 'off' AS synchronous_commit,
    current_setting('zero_damaged_pages') = 'on' AS zero_damaged_pages
"""

_WRONG = {
    "standby": "it is a standby, which takes no changes: name the primary",
    "read_only": "its sessions are read-only (default_transaction_read_only): turn that off, for the"
    " database and for the role",
    "isolated": "default_transaction_isolation is not read committed: a transaction would not see what"
    " was committed while it waited for a lock; reset it, for the database and for the role",
    "nowhere": "search_path names no schema that is there, so there is no place for the tables",
    "may_not_create": "permission denied for schema {schema}: its role has to be the owner of the"
    " database, or may at least create tables there",
    "no_temporary_tables": "its role may not make temporary tables, which `shop audit` needs: GRANT"
    " TEMPORARY ON DATABASE",
}

_LOSES_DATA = {
    "fsync": "fsync is off",
    "full_page_writes": "full_page_writes is off",
    "synchronous_commit": "synchronous_commit is off",
    "zero_damaged_pages": "zero_damaged_pages is on",
}


class Unfit(SpineError):
    """The database is not what it has to be; the message says what, and what to do."""


async def check(url: str, *, may_lose_data: bool = False) -> None:
    """Raises `Unfit`, and `Unavailable` if it can't be told. Changes nothing.

    With `may_lose_data` a server will do that may lose, in a crash, what it has confirmed.
    """
    async with AsyncExitStack() as held:
        asked = secrets.token_hex(8)
        one = await _connected(held, url, asked)
        _check_version(one)
        _check_encoding(one)
        with _spoken_by_a_pooler():
            await _check_sessions(one, await _connected(held, url, asked))
        if (await _row(one, "SELECT current_setting('eventspine.asked', true) = %s", asked))[
            0
        ] is not True:
            raise Unfit(_POOLER.format(_DROPS))
        await _check_facts(one, may_lose_data=may_lose_data)


async def _connected(held: AsyncExitStack, url: str, asked: str) -> Connection:
    settings: dict[str, Any] = {"eventspine.asked": asked}
    with _spoken_by_a_pooler():
        try:
            connection = await connect(url, **settings)
        except Unavailable:
            # It may be one that only reads, which nobody else would accept: then that is what to say.
            connection = await connect(make_conninfo(url, target_session_attrs="any"), **settings)
    connection.silent_after = _ANSWERS_WITHIN
    held.push_async_callback(connection.close)
    return connection


@contextmanager
def _spoken_by_a_pooler() -> Iterator[None]:
    """PgBouncer's own refusals. PostgreSQL takes every word that is said here."""
    try:
        with translated():
            yield
    except Unavailable as error:
        if isinstance(error.__cause__, errors.ProtocolViolation):
            raise Unfit(_POOLER.format(f"says: {error.__cause__}")) from error
        if "unsupported startup parameter" in str(error):
            raise Unfit(_POOLER.format(_DROPS)) from error
        # What it says, without the name of its class: it goes to a person.
        raise Unavailable(str(error.__cause__ or error)) from error


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

    A pooler in transaction mode gives a session to whoever begins a transaction, most often the one
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
    return int((await _row(connection, "SELECT pg_backend_pid()"))[0])


async def _check_facts(connection: Connection, *, may_lose_data: bool) -> None:
    cursor = await connection.execute(_FACTS, prepare=False)
    names = [column.name for column in cursor.description or ()]
    facts = dict(zip(names, (await cursor.fetchall())[0], strict=True))
    for name, sentence in _WRONG.items():
        if facts[name]:
            (schema,) = await _row(connection, "SELECT coalesce(current_schema(), '')")
            raise Unfit(sentence.format(schema=schema))
    loses = [sentence for name, sentence in _LOSES_DATA.items() if facts[name]]
    if loses and not may_lose_data:
        raise Unfit(
            f"{' and '.join(loses)}, so a crash may take what was confirmed: reset that; or, if nobody will"
            " miss the data, set SHOP_ACCEPT_DATA_LOSS=true"
        )


async def _row(connection: Connection, sql: str, *params: Any) -> tuple[Any, ...]:
    cursor = await connection.execute(sql.encode(), params or None, prepare=False)
    row = await cursor.fetchone()
    assert row is not None
    return row
