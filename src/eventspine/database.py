"""Connections to one PostgreSQL database, and what its errors mean.

SQLAlchemy describes tables and builds queries; psycopg runs them. Running through SQLAlchemy's
asyncio layer costs about 350 µs of CPU a transaction more, on a path where a whole order costs 70
(`docs/decisions/0002-psycopg-executes.md`).

Connections are in autocommit mode: a statement outside `outbox.transaction` is its own
transaction, which is what reads want.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from eventspine.errors import Unavailable

if TYPE_CHECKING:
    from sqlalchemy import Executable

Connection = AsyncConnection[TupleRow]
Params = Mapping[str, Any]

# A process may freeze (SIGSTOP, a paused VM) while it holds a row others need: most of all the
# outbox head. PostgreSQL ends such a session after the first limit; whoever waits for it must wait
# longer than that, so that one frozen process costs the others a pause and not a refusal.
SESSION_SETTINGS = {
    "idle_in_transaction_session_timeout": "2s",
    "lock_timeout": "5s",
    "statement_timeout": "15s",
    "TimeZone": "UTC",
    # A dead peer is noticed in 10 s instead of hours.
    "tcp_user_timeout": "10s",
}

_TRY_AGAIN = (
    psycopg.OperationalError,  # connection lost, out of disk, shutting down, deadlock, lock timeout
    errors.ReadOnlySqlTransaction,  # connected to a standby during a failover
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
    PoolTimeout,
)

_WAITED = (errors.QueryCanceled, errors.LockNotAvailable, errors.TransactionTimeout)

# Operational to psycopg, but the same statement will never succeed: a row too long for an index.
_NEVER = (
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
    errors.TooManyColumns,
    errors.TooManyArguments,
)


class Query(NamedTuple):
    """A SQLAlchemy statement compiled once, with the constants it was built with."""

    sql: bytes
    constants: dict[str, Any]


def query(statement: "Executable") -> Query:
    """Compile for psycopg. `bindparam`s without a value are given when it is executed."""
    # Here, since a worker has no such statements, and SQLAlchemy would be half of its start.
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg  # noqa: PLC0415

    compiled = statement.compile(dialect=PGDialect_psycopg())  # type: ignore[attr-defined, no-untyped-call]
    return Query(str(compiled).encode(), dict(compiled.params))


async def execute(
    connection: Connection, sql: str | bytes | Query, params: Params | None = None
) -> psycopg.AsyncCursor[TupleRow]:
    """One statement, prepared by psycopg when it has been seen a few times."""
    if isinstance(sql, Query):
        return await connection.execute(sql.sql, {**sql.constants, **(params or {})})
    return await connection.execute(sql if isinstance(sql, bytes) else sql.encode(), params)


@contextmanager
def translated() -> Iterator[None]:
    """Psycopg's passing troubles as `Unavailable`; anything else is the statement's own fault."""
    try:
        yield
    except _NEVER:
        raise
    except _TRY_AGAIN as error:
        raise Unavailable(f"{type(error).__name__}: {error}".strip()) from error


async def connect(url: str, **settings: str) -> Connection:
    """A connection outside the pool, for those who LISTEN or hold a lock for as long as they live.

    `settings` are PostgreSQL settings of this session, on top of `SESSION_SETTINGS`.
    """
    with translated():
        return await AsyncConnection.connect(
            url, autocommit=True, connect_timeout=5, options=_options(settings)
        )


class _Pool(AsyncConnectionPool[Connection]):
    """Knows why it can't connect; psycopg's own tells only its logger."""

    refusal: Exception | None = None
    """What the last try to connect failed of, if it did."""

    async def _connect(self, timeout: float | None = None) -> Connection:
        try:
            connection = await super()._connect(timeout)
        except Exception as error:
            self.refusal = error
            raise
        self.refusal = None
        return connection

    async def getconn(self, timeout: float | None = None) -> Connection:
        try:
            return await super().getconn(timeout)
        except PoolTimeout as error:
            if self.refusal is None:
                raise
            raise PoolTimeout(f"{error}: {self.refusal}") from self.refusal


class Database:
    """A pool of at most `size` connections, opened when first needed.

    A database that is away makes callers wait `patience` seconds, then `Unavailable`. `settings`
    are PostgreSQL settings of its sessions, on top of `SESSION_SETTINGS`.
    """

    def __init__(self, url: str, *, size: int = 6, patience: float = 2.0, **settings: str) -> None:
        self.url = url
        self._pool = _Pool(
            url,
            min_size=1,
            max_size=size,
            timeout=patience,
            open=False,
            # How long until it is tried again: a restarted PostgreSQL is back within a second.
            reconnect_timeout=0.5,
            reconnect_failed=_try_for_those_who_wait,
            kwargs={"autocommit": True, "connect_timeout": 5, "options": _options(settings)},
            name="eventspine",
        )

    async def open(self) -> None:
        """Starts connecting; does not wait, and does not mind a database that is away."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Waits for no one: close it after those who use it."""
        await self._pool.close(timeout=1.0)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit mode. Raises `Unavailable` when none can be had in time."""
        with translated():
            connection = await self._pool.getconn()
        try:
            yield connection
        finally:
            # Shielded, or a caller that is cancelled here would leak its connection.
            await asyncio.shield(self._pool.putconn(connection))

    async def fetch(self, sql: str | bytes | Query, params: Params | None = None) -> list[TupleRow]:
        """A statement of its own and all its rows. Asked again once if the connection was stale.

        For reads: a statement that writes could be run twice.
        """
        try:
            return await self._fetch(sql, params)
        except Unavailable as error:
            if isinstance(error.__cause__, (PoolTimeout, *_WAITED)):
                raise  # that was no stale connection, and has taken its time
            await self.drop_stale()
            return await self._fetch(sql, params)

    async def _fetch(self, sql: str | bytes | Query, params: Params | None) -> list[TupleRow]:
        async with self.connection() as connection:
            with translated():
                cursor = await execute(connection, sql, params)
                return await cursor.fetchall()

    async def drop_stale(self) -> None:
        """Throw away connections that a restarted server has forgotten."""
        with translated():
            await self._pool.check()


async def _try_for_those_who_wait(pool: AsyncConnectionPool[Connection]) -> None:
    """The pool itself would try again only for the next who asks."""
    if pool.get_stats().get("requests_waiting"):
        await pool.check()


def _options(settings: Mapping[str, str]) -> str:
    merged = {**SESSION_SETTINGS, **settings}
    return " ".join(f"-c {name}={value}" for name, value in merged.items())
