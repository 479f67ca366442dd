"""Connections to one PostgreSQL database, and the meaning of its errors.

SQLAlchemy describes tables and builds queries; psycopg runs them. SQLAlchemy's asyncio layer would cost about
350 µs of CPU more for each transaction, and a whole order costs 70 (`docs/decisions/0002-psycopg-executes.md`).

Connections are in autocommit mode: a statement outside `outbox.transaction` is its own transaction. Reads
need no more.

Only an audit may wait for a server without a limit. PostgreSQL cancels statements that take too long. A frozen
server cannot enforce its own timeouts, so the client closes the connection, shortly after PostgreSQL would have
cancelled the statement.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.abc import PQGen
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from eventspine.address import Address, urls
from eventspine.errors import Unavailable
from eventspine.session import (
    CONNECT_WITHIN,
    SESSION_SETTINGS,
    STATEMENT_WITHIN,
    connection_parameters,
    pinned,
)
from eventspine.steps import NO_STEPS, Steps

if TYPE_CHECKING:
    from sqlalchemy import Executable

Params = Mapping[str, Any]
_Result = TypeVar("_Result")

_WORD_COMES_WITHIN = 0.5
"""Seconds that the client waits for PostgreSQL's own timeout error to arrive."""

_CHECK_WITHIN = 1.0
"""Seconds within which an idle connection must show that it works."""

_LOOKS_EVERY = 0.1  # seconds; the default of psycopg

_TRY_AGAIN = (
    psycopg.OperationalError,  # connection lost, out of disk, shutting down, deadlock, lock timeout
    errors.ReadOnlySqlTransaction,  # connected to a standby during a failover
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
    PoolTimeout,
)

_WAITED = (errors.QueryCanceled, errors.LockNotAvailable, errors.TransactionTimeout)

# psycopg calls these operational errors, but the same statement never succeeds. For example, a row is too
# long for an index.
_NEVER = (
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
    errors.TooManyColumns,
    errors.TooManyArguments,
)


class Silent(psycopg.OperationalError):
    """The server was silent for too long, so the connection was closed."""


class Connection(AsyncConnection[TupleRow]):
    """A connection that closes itself and raises `Silent` if its server is silent for too long."""

    silent_after: float = STATEMENT_WITHIN + _WORD_COMES_WITHIN
    """The longest silence during one statement, in seconds."""
    until: float = inf
    """The deadline of the present work on this connection, by `time.monotonic()`."""
    fell_silent: bool = False

    @classmethod
    async def to(cls, address: Address, **parameters: Any) -> Self:
        """A connection with the first URL whose password is accepted. Raises as `connect` does."""
        *others, last = urls(address)
        for url in others:
            try:
                return await cls.connect(url, **{**connection_parameters(url), **parameters})
            except psycopg.OperationalError as error:
                # Whatever else it failed of, the next would fail of too.
                if error.pgconn is None or not error.pgconn.used_password:
                    raise
        return await cls.connect(last, **{**connection_parameters(last), **parameters})

    async def wait(
        self, gen: PQGen[_Result], interval: float = _LOOKS_EVERY, timeout: float | None = None
    ) -> _Result:
        """Wait for the server. psycopg calls this for everything that it sends."""
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        # A task cancellation would make psycopg send a cancel request to the server, and wait for it.
        within = min(self.silent_after, self.until - monotonic())
        try:
            return await super().wait(gen, interval, within)
        except errors._WaitTimeout:  # noqa: SLF001 - what it raises for this argument
            # Perhaps this process was frozen, and the answer has already arrived. (If the request is still
            # being sent, the wait can't be resumed, and psycopg raises a TypeError.)
            with suppress(errors._WaitTimeout, TypeError):  # noqa: SLF001
                return await super().wait(gen, interval, interval)
        self.fell_silent = True
        self.pgconn.finish()
        raise Silent("the server does not answer")

    def cut(self) -> None:
        """Shut the connection down. A caller that waits for an answer gets an error at once."""
        with suppress(psycopg.Error, OSError):
            # Do not close the socket: its file descriptor could be reused while the event loop still
            # watches it.
            with socket.socket(fileno=os.dup(self.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)


class Query(NamedTuple):
    """A SQLAlchemy statement compiled once, with the constants it was built with."""

    sql: bytes
    constants: dict[str, Any]


def query(statement: "Executable") -> Query:
    """Compile for psycopg. `bindparam`s without a value are given when it is executed."""
    # Imported here, because a worker has no such statements, and the import would double its start time.
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg  # noqa: PLC0415

    compiled = statement.compile(dialect=PGDialect_psycopg())  # type: ignore[attr-defined, no-untyped-call]
    return Query(str(compiled).encode(), dict(compiled.params))


async def execute(
    connection: Connection, sql: str | bytes | Query, params: Params | None = None
) -> psycopg.AsyncCursor[TupleRow]:
    """Execute one statement. psycopg prepares it after a few executions."""
    if isinstance(sql, Query):
        return await connection.execute(sql.sql, {**sql.constants, **(params or {})})
    return await connection.execute(sql if isinstance(sql, bytes) else sql.encode(), params)


async def read_whole(connection: Connection, sql: bytes, values: Sequence[bytes]) -> PGresult:
    """The result of one statement, read whole by a thread.

    For results of megabytes. The event loop would be woken for every 8 KB of them, and would wait for the GIL
    each time. The thread needs the GIL only at the end.
    """
    async with connection.lock:
        asked = asyncio.ensure_future(asyncio.to_thread(connection.pgconn.exec_params, sql, values))
        within = min(connection.silent_after, connection.until - monotonic())
        try:
            # The second wait is for an answer that has arrived while this process was frozen.
            for seconds in (within, _LOOKS_EVERY):
                if not asked.done():
                    await asyncio.wait([asked], timeout=None if seconds == inf else seconds)
            connection.fell_silent = not asked.done()
        finally:
            if not asked.done():
                connection.cut()
            while (
                not asked.done()
            ):  # even if cancelled again, because the thread uses the connection
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([asked])
        result = asked.result()
    if connection.fell_silent:
        raise Silent("the server does not answer")
    if result.status != ExecStatus.TUPLES_OK:
        if connection.pgconn.status == ConnStatus.BAD:
            raise psycopg.OperationalError(result.get_error_message())
        raise errors.error_from_result(result)
    return result


@contextmanager
def translated() -> Iterator[None]:
    """Translate psycopg's temporary errors into `Unavailable`. Other errors come from the statement itself."""
    try:
        yield
    except _NEVER:
        raise
    except _TRY_AGAIN as error:
        raise Unavailable(f"{type(error).__name__}: {error}".strip()) from error


async def connect(
    address: Address, *, statement_within: float = STATEMENT_WITHIN, **settings: str
) -> Connection:
    """A connection outside the pool, for a process that uses LISTEN or holds a lock for its whole life.

    `settings` are PostgreSQL settings of this session, in addition to `SESSION_SETTINGS`.
    `statement_within` is the time limit of a statement in seconds, or infinity.
    """
    limit = "0" if statement_within == inf else f"{statement_within * 1000:.0f}ms"
    with translated():
        connection = await Connection.to(address, autocommit=True)
        await _pin(connection, {"statement_timeout": limit, **settings})
    connection.until = inf
    if statement_within == inf:
        connection.silent_after = inf
    return connection


async def _configure(
    connection: Connection,
    settings: Mapping[str, str],
    fit: Callable[[Connection], Awaitable[None]] | None,
) -> None:
    await _pin(connection, settings)
    if fit is not None:
        try:
            await fit(connection)
        except BaseException:
            await connection.close()
            raise


async def _pin(connection: Connection, settings: Mapping[str, str]) -> None:
    """Set `SESSION_SETTINGS`, and then these settings. Closes the connection if that fails."""
    connection.until = monotonic() + CONNECT_WITHIN
    try:
        await connection.execute(*pinned({**SESSION_SETTINGS, **settings}), prepare=False)
    except BaseException:
        await connection.close()
        raise


class _Pooled(Connection):
    """Its pool knows only this way to connect, with the address among the parameters."""

    @classmethod
    async def connect(cls, conninfo: str = "", **parameters: Any) -> Self:
        address = parameters.pop("address", None)
        if address is None:
            return await super().connect(conninfo, **parameters)
        return await cls.to(address, **parameters)


class _Pool(AsyncConnectionPool[Connection]):
    """A pool that stores why it can't connect. psycopg's own pool only logs the reason."""

    refusal: Exception | None = None
    """The error of the last attempt to connect, if it failed."""

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

    If the database is unavailable, a caller waits `timeout` seconds and then gets `Unavailable`. PostgreSQL
    ends a transaction after `transaction_within` seconds. A read or a transaction ends at most `within`
    seconds after it asked for a connection, even if PostgreSQL is silent. `settings` are PostgreSQL
    settings of its sessions, in addition to `SESSION_SETTINGS`. `fit` checks each new connection, and raises
    if it must not be used.
    """

    def __init__(
        self,
        address: Address,
        *,
        size: int = 6,
        timeout: float = 2.0,
        transaction_within: float = inf,
        steps: Steps = NO_STEPS,
        fit: Callable[[Connection], Awaitable[None]] | None = None,
        **settings: str,
    ) -> None:
        self.address = address
        self.steps = steps
        """The interceptors around the steps of its transactions."""
        # A caller may wait twice for a connection, if the first one is stale.
        self.within = 2 * timeout + transaction_within + _WORD_COMES_WITHIN
        settings.setdefault("application_name", "eventspine")
        if transaction_within != inf:
            settings["transaction_timeout"] = f"{transaction_within * 1000:.0f}ms"
        self.repeated_keys = 0
        """Requests that were answered with a stored answer (`idempotency`)."""
        self._in_use: set[Connection] = set()
        self._pool = _Pool(
            connection_class=_Pooled,
            min_size=1,
            max_size=size,
            timeout=timeout,
            open=False,
            # The pause before the next attempt to connect. A restarted PostgreSQL is back within a second.
            reconnect_timeout=0.5,
            reconnect_failed=_try_for_those_who_wait,
            kwargs={"address": address, "autocommit": True},
            configure=partial(_configure, settings=settings, fit=fit),
            name="eventspine",
        )

    async def open(self) -> None:
        """Start to connect. Does not wait, and does not fail if the database is unavailable."""
        await self._pool.open(wait=False)

    async def resize(self, size: int) -> None:
        """Change the maximum number of connections. Call it only after `open`."""
        await self._pool.resize(min_size=1, max_size=size)

    async def close(self) -> None:
        """Close the pool without waiting. Close its users first."""
        await self._pool.close(timeout=1.0)

    def cut(self) -> None:
        """Cut all connections in use. Each caller gets the error that its connection was lost."""
        for connection in self._in_use:
            connection.cut()

    @property
    def refusal(self) -> Exception | None:
        """Why the last attempt to connect failed, if it did."""
        return self._pool.refusal

    def pool_stats(self) -> Mapping[str, int]:
        """The counts of psycopg's pool. What never happened is missing."""
        return self._pool.get_stats()

    def until(self) -> float:
        """The deadline, by `time.monotonic()`, of work that starts now."""
        return monotonic() + self.within

    @asynccontextmanager
    async def connection(self, until: float = inf) -> AsyncIterator[Connection]:
        """A connection in autocommit mode. Its statements must end by `until`.

        Raises `Unavailable` if no connection is free in time.
        """
        with translated():
            connection = await self._pool.getconn()
        connection.until = until
        self._in_use.add(connection)
        try:
            yield connection
        finally:
            self._in_use.discard(connection)
            # Shielded; otherwise a caller that is cancelled here would leak its connection.
            await asyncio.shield(self._take_back(connection))

    async def _take_back(self, connection: Connection) -> None:
        await self._pool.putconn(connection)
        if connection.fell_silent:
            # The other connections are probably dead too. Each would cost another caller the same wait.
            await self._pool.drain()

    async def fetch(self, sql: str | bytes | Query, params: Params | None = None) -> list[TupleRow]:
        """Execute one statement and return all its rows. Repeats it once if the connection was stale.

        Use it only for reads, because a statement that writes could be executed twice.
        """
        until = self.until()
        try:
            return await self._fetch(sql, params, until)
        except Unavailable as error:
            if isinstance(error.__cause__, (PoolTimeout, Silent, *_WAITED)):
                raise  # a stale connection fails at once, so this is another error
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
        """Discard connections that a restarted server has closed."""
        with translated():
            await self._pool.check()


async def _try_for_those_who_wait(pool: AsyncConnectionPool[Any]) -> None:
    """Connect again for callers that already wait. The pool itself would do so only for the next caller."""
    if pool.get_stats().get("requests_waiting"):
        await pool.check()
