"""The transaction that publishes.

Events are collected while the work is done and written to the outbox by the transaction's very
last statement, which takes the row lock of `outbox_head` and advances it by their number. Hence

* positions are 1, 2, 3, … without a hole: a transaction that rolls back gives its numbers back;
* position order is commit order: nobody can take the next number before this commit is done.

A sequence gives neither: ids are handed out before the commit, so a reader of `id > last` steps
over an event that commits late.

The outbox write and the COMMIT travel together in one pipeline, so the lock is never held while
this process is thinking, sleeping, or stopped.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

import psycopg
from psycopg.rows import TupleRow

from eventspine.database import Connection, Database, Params, Query, execute, translated
from eventspine.errors import OutcomeUnknown, Unavailable
from eventspine.event import Event

CHANNEL = "outbox"
"""Where a commit that published says so. A hint for the relay, which polls as well."""

_WRITE = """
WITH head AS (
    UPDATE outbox_head SET position = position + %(count)s RETURNING position - %(count)s AS base
), written AS (
    INSERT INTO outbox (position, topic, key, type, schema_version, version, time, data, headers)
    SELECT head.base + e.n, e.t, e.k, e.y, e.s, e.v, clock_timestamp(), e.d, e.h
    FROM head, ROWS FROM (
        jsonb_to_recordset(%(events)s::jsonb) AS
            (t text, k text, y text, s integer, v bigint, d jsonb, h jsonb)
    ) WITH ORDINALITY AS e(t, k, y, s, v, d, h, n)
)
SELECT pg_notify('outbox', '') FROM head
"""


class Transaction:
    """What an action or a handler works in. Made by `transaction`, never by hand."""

    __slots__ = ("_connection", "_durable", "_events")

    def __init__(self, connection: Connection, *, durable: bool = True) -> None:
        self._connection = connection
        self._durable = durable
        self._events: list[str] = []

    async def execute(
        self, sql: str | bytes | Query, params: Params | None = None
    ) -> psycopg.AsyncCursor[TupleRow]:
        return await execute(self._connection, sql, params)

    async def fetch(self, sql: str | bytes | Query, params: Params | None = None) -> list[TupleRow]:
        return await (await execute(self._connection, sql, params)).fetchall()

    def savepoint(self) -> AbstractAsyncContextManager[object]:
        """Work inside it can fail alone. Events published inside it are *not* taken back."""
        return self._connection.transaction()

    def publish(self, event: Event, *, traceparent: str | None = None) -> None:
        """Goes out if, and only if, this transaction commits; in the order of these calls."""
        headers = json.dumps({"traceparent": traceparent}) if traceparent else "null"
        self._events.append(
            f'{{"t":"{event.topic}","k":{json.dumps(event.key)},"y":"{event.type}",'
            f'"s":{event.schema_version},"v":{event.version},"d":{event.model_dump_json()},'
            f'"h":{headers}}}'
        )

    async def _commit(self) -> None:
        connection = self._connection
        try:
            async with connection.pipeline():
                if self._events:
                    await connection.execute(
                        _WRITE,
                        {
                            "count": len(self._events),
                            "events": "[" + ",".join(self._events) + "]",
                        },
                    )
                elif not self._durable:
                    await connection.execute("SET LOCAL synchronous_commit = off")
                await connection.execute("COMMIT")
        except psycopg.Error as error:
            if connection.closed:
                raise OutcomeUnknown(f"the connection was lost in COMMIT: {error}") from error
            raise


@asynccontextmanager
async def transaction(database: Database, *, durable: bool = True) -> AsyncIterator[Transaction]:
    """One transaction: it commits when the block ends, and rolls back when the block raises.

    Raises `Unavailable` if it certainly did not commit and may be tried again, `OutcomeUnknown`
    if the connection went while it committed, and psycopg's own error if a statement was wrong.

    With `durable=False` a commit that publishes nothing does not wait for the disk: right for
    whoever can do the same work again from the log, and only for them. A crash of the server may
    then undo it (never a part of it).
    """
    async with AsyncExitStack() as held:
        connection = await held.enter_async_context(database.connection())
        if not await _begun(connection):
            # A restarted server has forgotten our connections. Nothing has been done yet.
            await database.drop_stale()
            connection = await held.enter_async_context(database.connection())
            if not await _begun(connection):
                raise Unavailable("the database closes connections as soon as they are used")
        tx = Transaction(connection, durable=durable)
        with translated():
            try:
                yield tx
                await tx._commit()  # noqa: SLF001 - only this function may
            except BaseException:
                await _roll_back(connection)
                raise


async def _begun(connection: Connection) -> bool:
    with translated():
        try:
            await connection.execute("BEGIN")
        except psycopg.OperationalError:
            if connection.closed:
                return False
            raise
    return True


async def _roll_back(connection: Connection) -> None:
    """As far as it can be: what a lost connection had done, the server rolls back itself."""
    with suppress(psycopg.Error):
        await connection.rollback()
