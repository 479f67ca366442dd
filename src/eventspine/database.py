"""Connections to one PostgreSQL database, and what its errors mean.

SQLAlchemy describes tables and builds queries; psycopg runs them. SQLAlchemy's asyncio layer would cost about
350 µs of CPU more for each transaction, and a whole order costs 70 (`docs/decisions/0002-psycopg-executes.md`).

Connections are in autocommit mode: a statement outside `outbox.transaction` is its own transaction, as reads
need it.

Only an audit may wait for a server without a limit. PostgreSQL ends what takes too long. A frozen server cannot
enforce its own timeouts, so the client closes the connection, a moment after PostgreSQL would have ended
the statement.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from eventspine.errors import Unavailable
from eventspine.interceptors import NO_STEPS, Steps
from eventspine.session import (
    CONNECT_WITHIN,
    SESSION_SETTINGS,
    STATEMENT_WITHIN,
    connection_parameters,
    pinned,
)

if TYPE_CHECKING:
    from sqlalchemy import Executable

Params = Mapping[str, Any]
_Result = TypeVar("_Result")

_WORD_COMES_WITHIN = 0.5
"""Seconds that PostgreSQL's own word, that a limit is over, is given to arrive here."""

_CHECK_WITHIN = 1.0
"""Seconds that an unused connection may take to show that it works."""

_LOOKS_EVERY = 0.1  # seconds: psycopg's own default

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


class Silent(psycopg.OperationalError):
    """The server has said nothing for so long that the connection to it was closed."""


class Connection(AsyncConnection[TupleRow]):
    """Closes itself when its server says nothing for too long: then raises `Silent`."""

    silent_after: float = STATEMENT_WITHIN + _WORD_COMES_WITHIN
    """Seconds of one statement."""
    until: float = inf
    """By `time.monotonic()`: when the work that is done with it now has to be over."""
    fell_silent: bool = False

    async def wait(
        self, gen: PQGen[_Result], interval: float = _LOOKS_EVERY, timeout: float | None = None
    ) -> _Result:
        """Psycopg waits here for whatever it has asked the server."""
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        # Not by cancelling: psycopg would ask the server to cancel as well, and wait for that.
        within = min(self.silent_after, self.until - monotonic())
        try:
            return await super().wait(gen, interval, within)
        except errors._WaitTimeout:  # noqa: SLF001 - what it raises for this argument
            # It may have been this process that was frozen, and the answer be here. (Not if what is
            # asked is still being sent: that can't be resumed, which psycopg says by a TypeError.)
            with suppress(errors._WaitTimeout, TypeError):  # noqa: SLF001
                return await super().wait(gen, interval, interval)
        self.fell_silent = True
        self.pgconn.finish()
        raise Silent("the server says nothing")

    def cut(self) -> None:
        """A caller that waits for an answer learns at once that none will come."""
        with suppress(psycopg.Error, OSError):
            # Not closed, or its number could be another's before the event loop has let go of it.
            with socket.socket(fileno=os.dup(self.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)


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


async def connect(
    url: str, *, statement_within: float = STATEMENT_WITHIN, **settings: str
) -> Connection:
    """A connection outside the pool, for a process that uses LISTEN or holds a lock all its life.

    `settings` are PostgreSQL settings of this session, on top of `SESSION_SETTINGS`.
    `statement_within` is in seconds; infinity for one who takes all the time there is.
    """
    limit = "0" if statement_within == inf else f"{statement_within * 1000:.0f}ms"
    with translated():
        connection = await Connection.connect(url, **connection_parameters(url), autocommit=True)
        await _pin(connection, {"statement_timeout": limit, **settings})
    connection.until = inf
    if statement_within == inf:
        connection.silent_after = inf
    return connection


async def _pin(connection: Connection, settings: Mapping[str, str]) -> None:
    """The session's settings: `SESSION_SETTINGS`, and these over them. Closes it if that fails."""
    connection.until = monotonic() + CONNECT_WITHIN
    try:
        await connection.execute(*pinned({**SESSION_SETTINGS, **settings}), prepare=False)
    except BaseException:
        await connection.close()
        raise


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

    @staticmethod
    async def check_connection(conn: Connection) -> None:
        conn.until = monotonic() + _CHECK_WITHIN
        await conn.execute("")


class Database:
    """A pool of at most `size` connections, opened when first needed.

    A database that is away makes callers wait `timeout` seconds, then `Unavailable`. PostgreSQL ends
    a transaction after `transaction_within` seconds; a read or a transaction is over `within` seconds
    after it asked for a connection, even if PostgreSQL says nothing. `settings` are PostgreSQL
    settings of its sessions, on top of `SESSION_SETTINGS`.
    """

    def __init__(
        self,
        url: str,
        *,
        size: int = 6,
        timeout: float = 2.0,
        transaction_within: float = inf,
        steps: Steps = NO_STEPS,
        **settings: str,
    ) -> None:
        self.url = url
        self.steps = steps
        """Around what its transactions do."""
        # A connection may be waited for twice, where the first one is stale.
        self.within = 2 * timeout + transaction_within + _WORD_COMES_WITHIN
        settings.setdefault("application_name", "eventspine")
        if transaction_within != inf:
            settings["transaction_timeout"] = f"{transaction_within * 1000:.0f}ms"
        self._in_use: set[Connection] = set()
        self._pool = _Pool(
            url,
            connection_class=Connection,
            min_size=1,
            max_size=size,
            timeout=timeout,
            open=False,
            # How long until it is tried again: a restarted PostgreSQL is back within a second.
            reconnect_timeout=0.5,
            reconnect_failed=_try_for_those_who_wait,
            kwargs={**connection_parameters(url), "autocommit": True},
            configure=partial(_pin, settings=settings),
            name="eventspine",
        )

    async def open(self) -> None:
        """Starts connecting; does not wait, and does not mind a database that is away."""
        await self._pool.open(wait=False)

    async def resize(self, size: int) -> None:
        """At most so many connections from now on. Only once it is open."""
        await self._pool.resize(min_size=1, max_size=size)

    async def close(self) -> None:
        """Does not wait: close it after its users."""
        await self._pool.close(timeout=1.0)

    def cut(self) -> None:
        """End all that is under way: each is told that its connection was lost."""
        for connection in self._in_use:
            connection.cut()

    def until(self) -> float:
        """By `time.monotonic()`: when whatever begins now has to be over."""
        return monotonic() + self.within

    @asynccontextmanager
    async def connection(self, until: float = inf) -> AsyncIterator[Connection]:
        """A connection in autocommit mode; what it is asked has to be answered by `until`.

        Raises `Unavailable` when none can be had in time.
        """
        with translated():
            connection = await self._pool.getconn()
        connection.until = until
        self._in_use.add(connection)
        try:
            yield connection
        finally:
            self._in_use.discard(connection)
            # Shielded, or a caller that is cancelled here would leak its connection.
            await asyncio.shield(self._take_back(connection))

    async def _take_back(self, connection: Connection) -> None:
        await self._pool.putconn(connection)
        if connection.fell_silent:
            # So have the others; each would cost another caller the same wait.
            await self._pool.drain()

    async def fetch(self, sql: str | bytes | Query, params: Params | None = None) -> list[TupleRow]:
        """A statement of its own and all its rows. Asked again once if the connection was stale.

        For reads: a statement that writes could be run twice.
        """
        until = self.until()
        try:
            return await self._fetch(sql, params, until)
        except Unavailable as error:
            if isinstance(error.__cause__, (PoolTimeout, Silent, *_WAITED)):
                raise  # that was no stale connection, and has taken its time
            await self.drop_stale()
            return await self._fetch(sql, params, until)

    async def _fetch(
        self, sql: str | bytes | Query, params: Params | None, until: float
    ) -> list[TupleRow]:
        async with self.connection(until) as connection:
            with translated():
                cursor = await execute(connection, sql, params)
                return await cursor.fetchall()

    async def drop_stale(self) -> None:
        """Throw away connections that a restarted server has forgotten."""
        with translated():
            await self._pool.check()


async def _try_for_those_who_wait(pool: AsyncConnectionPool[Any]) -> None:
    """The pool itself would try again only for the next who asks."""
    if pool.get_stats().get("requests_waiting"):
        await pool.check()
