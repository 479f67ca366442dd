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

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psycopg
from psycopg import AsyncClientCursor, errors
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from eventspine.context import Context
from eventspine.database import Connection, Database, Params, Query, execute, translated
from eventspine.errors import MissingEvents, OutcomeUnknown, Unavailable
from eventspine.event import Event
from eventspine.interceptors import NO_STEPS, Steps

CHANNEL = "outbox"
"""Where a commit that published says so. A hint for the relay, which polls as well."""

_WRITE = "SELECT publish_events(%(count)s, %(events)s)"
"""A function in the database (`migrations.PUBLISH_EVENTS`), because this text can't be prepared: it
leaves in one message with COMMIT. What the function does has been parsed and planned before, which
saves 0.15 ms of a transaction."""


class Transaction:
    """What an action or a handler works in. Made by `transaction`, never by hand."""

    __slots__ = ("_connection", "_events", "accepts_gaps", "durable", "steps")

    def __init__(
        self, connection: Connection, *, durable: bool = True, steps: Steps = NO_STEPS
    ) -> None:
        self._connection = connection
        self.steps = steps
        self._events: list[str] = []
        self.durable = durable
        """Whether its commit waits for the disk. A consumer's need not."""
        self.accepts_gaps = False
        """Set when an operator has decided that the missing events will not come."""

    def alarm(self, missing: MissingEvents) -> None:
        """An event's predecessor never came. Raises it, unless that has been accepted."""
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
        """Work inside it can fail alone, and what it published is taken back with it."""
        published = len(self._events)
        try:
            async with self._connection.transaction():
                yield
        except BaseException:
            del self._events[published:]
            raise

    @property
    def published(self) -> int:
        """How many events go out when it commits."""
        return len(self._events)

    def publish(self, event: Event, context: Context) -> None:
        """Goes out if, and only if, this transaction commits; in the order of these calls.

        `context` is that of the request, or of the event, that caused it.
        """
        if self.steps.publish is not None:
            context = self.steps.publish(event, context)
        caused = context.headers()
        headers = json.dumps(caused) if caused else "null"
        self._events.append(
            f'{{"t":"{event.topic}","k":{json.dumps(event.key)},"y":"{event.type}",'
            f'"s":{event.schema_version},"v":{event.version},"d":{event.as_json()},'
            f'"h":{headers}}}'
        )

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
            # The server would answer COMMIT with ROLLBACK, and call that a success.
            raise errors.InFailedSqlTransaction("a statement failed, and its block went on")
        message, params = "COMMIT", {}
        if self._events:
            events = "[" + ",".join(self._events) + "]"
            message, params = f"{_WRITE}; COMMIT", {"count": len(self._events), "events": events}
        elif not self.durable:
            message = "SET LOCAL synchronous_commit = off; COMMIT"
        try:
            # This kind of cursor puts the parameters into the text, so that it stays one message.
            await AsyncClientCursor(connection).execute(message.encode(), params)
        except (errors.IdleInTransactionSessionTimeout, errors.TransactionTimeout):
            raise  # the server ended it before it began to commit
        except psycopg.Error as error:
            # A session that was ended may say so before the connection looks closed from here.
            if connection.closed or error.diag.severity_nonlocalized in {"FATAL", "PANIC"}:
                raise OutcomeUnknown(f"the connection was lost in COMMIT: {error}") from error
            raise


@asynccontextmanager
async def transaction(
    database: Database, *, durable: bool = True, first: str = ""
) -> AsyncIterator[Transaction]:
    """One transaction: it commits when the block ends, and rolls back when the block raises.

    `first` is a statement that leaves in one message with BEGIN, and whose result is not needed: a
    lock, mostly.

    Raises `Unavailable` if it certainly did not commit and may be tried again, `OutcomeUnknown`
    if the connection went while it committed, and psycopg's own error if a statement was wrong.

    With `durable=False` a commit that publishes nothing does not wait for the disk: right for
    callers that can do the same work again from the log, and only for them. A crash of the server may
    then undo it (never a part of it).
    """
    until = database.until()
    async with AsyncExitStack() as held:
        connection = await held.enter_async_context(database.connection(until))
        if not await _begun(connection, first):
            # A restarted server has forgotten our connections. Nothing has been done yet. This one
            # goes back first: were all of the pool in such hands, there would be no other.
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
            # Without parameters, and never prepared, so that it may be two statements.
            await connection.execute(f"BEGIN; {first}".encode(), prepare=False)
        except BaseException as error:
            lost = isinstance(error, psycopg.OperationalError) and connection.closed
            if lost and not connection.fell_silent:
                return False
            await _roll_back(connection)
            raise
    return True


async def _roll_back(connection: Connection) -> None:
    """As far as it can be: what a lost connection had done, the server rolls back itself."""
    with suppress(psycopg.Error):
        await connection.rollback()
