"""The transaction that publishes.

Events are collected while the work is done. The last statement of the transaction writes them to the
outbox. It locks the one row of `outbox_head` and advances it by the number of events. Hence

* positions are 1, 2, 3, … without gaps: a transaction that rolls back returns its positions;
* position order is commit order: no transaction can take the next position before this commit is done.

A sequence guarantees neither. It gives out ids before the commit, so a reader of `id > last` skips an
event that commits late.

The outbox write and the COMMIT are one message, so the lock is never held while this process computes,
sleeps or is stopped. (A pipeline of two messages is not enough: the server executes the first before the
second arrives, and until then none of its timeouts runs.)
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted

import psycopg
from psycopg import AsyncClientCursor, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from pydantic_core import to_json

from eventspine.context import Context
from eventspine.database import Connection, Database, Params, Query, execute, translated
from eventspine.errors import MissingEvents, OutcomeUnknown, Unavailable
from eventspine.event import Event
from eventspine.steps import NO_STEPS, Steps

CHANNEL = "outbox"
"""The NOTIFY channel of commits that published. It is a hint; the relay polls as well."""

_WRITE = "SELECT publish_events(%(count)s, %(events)s)"
"""It calls a function in the database (`migrations.PUBLISH_EVENTS`). This text is sent in one message
with COMMIT, so it can't be a prepared statement. The function's own statements are parsed and planned
before, which saves 0.15 ms of each transaction."""


class Transaction:
    """The transaction that an action or a handler works in. Only `transaction` creates it."""

    __slots__ = ("_connection", "_events", "accepts_gaps", "durable", "steps")

    def __init__(
        self, connection: Connection, *, durable: bool = True, steps: Steps = NO_STEPS
    ) -> None:
        self._connection = connection
        self.steps = steps
        self._events: list[str] = []
        self.durable = durable
        """Whether its commit waits for the disk. A consumer's commit need not wait."""
        self.accepts_gaps = False
        """True if an operator has decided that missing events will not come."""

    def alarm(self, missing: MissingEvents) -> None:
        """Raise `missing`, unless an operator has accepted missing events."""
        if not self.accepts_gaps:
            raise missing

    async def execute(
        self, sql: str | bytes | Query, params: Params | None = None
    ) -> psycopg.AsyncCursor[TupleRow]:
        return await execute(self._connection, sql, params)

    async def fetch(self, sql: str | bytes | Query, params: Params | None = None) -> list[TupleRow]:
        return await (await execute(self._connection, sql, params)).fetchall()

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Work inside can fail alone. Then the events that it published are removed too."""
        published = len(self._events)
        try:
            async with self._connection.transaction():
                yield
        except BaseException:
            del self._events[published:]
            raise

    @property
    def published(self) -> int:
        """How many events the commit will publish."""
        return len(self._events)

    def publish(self, event: Event, context: Context) -> str:
        """Publish the event if, and only if, this transaction commits. The order of calls is kept.

        `context` belongs to the request, or to the event, that caused this event. Returns the event's data, as JSON.
        """
        if self.steps.publish is not None:
            context = self.steps.publish(event, context)
        data = event.as_json()
        self._events.append(
            f'{{"t":"{event.topic}","k":{quoted(event.key)},"y":"{event.type}",'
            f'"s":{event.schema_version},"v":{event.version},"d":{data},'
            f'"h":{_headers(context)}}}'
        )
        return data

    async def _end(self) -> None:
        if self.steps.commit is None:
            await self._commit()
        else:
            await self.steps.commit(self, self._commit)

    async def _commit(self) -> None:
        connection = self._connection
        status = connection.info.transaction_status
        if status == TransactionStatus.UNKNOWN:
            raise Unavailable("the connection was lost before COMMIT")
        if status != TransactionStatus.INTRANS:
            # The server would answer COMMIT with ROLLBACK, without an error.
            raise errors.InFailedSqlTransaction("a statement failed, and the block continued")
        message, params = "COMMIT", {}
        if self._events:
            events = "[" + ",".join(self._events) + "]"
            message, params = f"{_WRITE}; COMMIT", {"count": len(self._events), "events": events}
        elif not self.durable:
            message = "SET LOCAL synchronous_commit = off; COMMIT"
        try:
            # This cursor class puts the parameters into the text, so that it stays one message.
            await AsyncClientCursor(connection).execute(message.encode(), params)
        except (errors.IdleInTransactionSessionTimeout, errors.TransactionTimeout):
            raise  # the server ended it before it began to commit
        except psycopg.Error as error:
            # The error of an ended session may arrive before the connection looks closed to psycopg.
            if connection.closed or error.diag.severity_nonlocalized in {"FATAL", "PANIC"}:
                raise OutcomeUnknown(f"the connection was lost in COMMIT: {error}") from error
            raise


def _headers(context: Context) -> str:
    """An event's headers, as JSON."""
    traceparent, _, caller, key_hash, key, _ = context
    if traceparent is None and key_hash is None and key is None:
        return "null" if caller is None else _headers_of(caller)
    return to_json(context.headers()).decode()


@lru_cache(4096)
def _headers_of(caller: str) -> str:
    """The headers if nothing but the caller is known. A caller sends many requests."""
    return to_json(Context(caller=caller).headers()).decode()


@asynccontextmanager
async def transaction(
    database: Database, *, durable: bool = True, first: str = ""
) -> AsyncIterator[Transaction]:
    """One transaction: it commits when the block ends, and rolls back when the block raises.

    `first` is a statement that is sent in one message with BEGIN. Its result is not read; it is
    usually a lock.

    Raises `Unavailable` if it certainly did not commit and can be tried again, `OutcomeUnknown` if
    the connection was lost during the commit, and psycopg's own error if a statement was wrong.

    With `durable=False`, a commit that publishes nothing does not wait for the disk. A crash of the
    server may then undo the whole transaction, never a part of it. Use it only where the same work
    can be done again from the log.
    """
    until = database.until()
    async with AsyncExitStack() as held:
        connection = await held.enter_async_context(database.connection(until))
        if not await _begun(connection, first):
            # A restarted server has closed our connections. Nothing has been done yet. Return this
            # connection first: if all callers kept theirs, the pool could not open new ones.
            await held.aclose()
            await database.drop_stale()
            connection = await held.enter_async_context(database.connection(until))
            if not await _begun(connection, first):
                raise Unavailable("the database closes connections as soon as they are used")
        tx = Transaction(connection, durable=durable, steps=database.steps)
        with translated():
            try:
                yield tx
                await tx._end()  # noqa: SLF001 - only this function may
            except BaseException:
                await _roll_back(connection)
                raise


async def _begun(connection: Connection, first: str) -> bool:
    with translated():
        try:
            # Without parameters and not prepared, because only then it may be two statements.
            await connection.execute(f"BEGIN; {first}".encode(), prepare=False)
        except BaseException as error:
            lost = isinstance(error, psycopg.OperationalError) and connection.closed
            if lost and not connection.fell_silent:
                return False
            await _roll_back(connection)
            raise
    return True


async def _roll_back(connection: Connection) -> None:
    """Roll back if possible. If the connection is lost, the server rolls back itself."""
    with suppress(psycopg.Error):
        await connection.rollback()
