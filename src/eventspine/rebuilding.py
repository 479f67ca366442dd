"""Makes a service's tables anew from the event log, while the service goes on.

    copy      its events go into a temporary table, up to where the service has applied them
    build     the rows are computed, beside the tables in use, and then their indexes
    follow    what has been applied since is applied to them too, until little is left
    compare   both are compared, in one snapshot
    swap      consumers wait, the last events are applied, and the tables change places

Only the swap keeps anybody waiting. It takes its locks at once or not at all, and then tries again. Until
it commits nothing of the service has changed, so a rebuild can be killed at any moment. It publishes nothing, and
calls no handler.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg

from eventspine import shadow_tables
from eventspine.address import Address
from eventspine.database import Connection, execute
from eventspine.errors import SpineError
from eventspine.log import EventLog
from eventspine.recomputing import Column, Recomputed, bring_forward, check, columns_of, fill
from eventspine.shadow_tables import live, shadow
from eventspine.staging import Progress, Source, Staging, session

_ONE_AT_A_TIME = "SELECT pg_try_advisory_lock(7410)"
_WAIT_FOR_OTHER = 10.0
"""Seconds: so long PostgreSQL may take to notice that a rebuild was killed."""

_FEW = 500  # events that are left to the swap
_FOLLOW_AT_MOST = 20  # rounds before the swap is tried all the same

LOCK_WITHIN = "50ms"
"""That the swap waits for each table. Later transactions wait behind it."""
_TRIES = 200
_PAUSE = 0.2  # seconds between them, so that those who waited have had their turn

# Consumers wait at these rows, and nobody else.
_HOLD_CONSUMERS = """
SELECT FROM cursors WHERE consumer = %(consumer)s ORDER BY topic, "partition" FOR UPDATE
"""

_HOLD_WRITERS = "SELECT FROM outbox_head FOR UPDATE"

_DIFFERENCES = """
CREATE TEMPORARY TABLE rebuild_differences (
    name text NOT NULL, key text NOT NULL, expected jsonb, found jsonb
)
"""


class Busy(SpineError):
    """The tables are in use all the time, or another rebuild runs."""


class Difference(NamedTuple):
    """A row that is not what the log says. `expected` or `found` is None where there is none."""

    table: str
    key: str
    expected: dict[str, Any] | None
    found: dict[str, Any] | None


class Compared(NamedTuple):
    """A table before the swap: rows and checksums, new and old."""

    table: str
    rows: int
    checksum: str
    rows_before: int
    checksum_before: str
    different: int


@dataclass
class Rebuilt:
    """What a rebuild found and did."""

    compared: list[Compared] = field(default_factory=list)
    events: int = 0
    seconds: float = 0.0
    swapped: bool = False
    held: float = 0.0
    """Seconds for which the swap kept readers and writers waiting."""
    consumers_held: float = 0.0
    """Seconds for which the service's consumers waited."""

    @property
    def differ(self) -> bool:
        return any(each.different for each in self.compared)


class Rebuild:
    """One run. `tables` are some of the service's, or all."""

    def __init__(
        self,
        url: Address,
        log: EventLog,
        of: Source,
        tables: Sequence[Recomputed],
        progress: Progress,
    ) -> None:
        self._url = url
        self._log = log
        self._of = of
        self._tables = tables
        self._progress = progress
        self._names = [table.name for table in tables]
        self._columns: dict[str, Sequence[Column]] = {}
        self.result = Rebuilt()
        self.tries = 0
        """How often the swap was tried."""

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        """Copies, builds and follows. Inside, `compare` and then `swap` may be called.

        Raises `Busy`, `NotNow`, `NotComputable`, `CannotReplace`, and what reading raises.
        """
        began = time.monotonic()
        topics = {topic for table in self._tables for topic in table.topics}
        async with session(self._url, "eventspine rebuild") as connection:
            self._connection = connection
            await _alone(connection)
            for table in self._tables:
                await check(connection, table)
            await shadow_tables.drop_all(connection)
            try:
                self._staging = Staging(connection, self._log, self._of, topics)
                await self._staging.create()
                await self._staging.take(self._progress)
                await shadow_tables.create(connection, self._names)
                for n, table in enumerate(self._tables):
                    self._progress(f"building {table.name}", n, len(self._tables))
                    old = live(table.name)
                    self._columns[table.name] = await columns_of(connection, shadow(table.name))
                    await fill(connection, table, into=shadow(table.name), old=old, horizon=None)
                    await shadow_tables.index(connection, table.name)
                self._progress("building", len(self._tables), len(self._tables))
                await self._follow()
                yield
            finally:
                self.result.events = self._staging.taken
                self.result.seconds = time.monotonic() - began
                if not self.result.swapped and not connection.closed:
                    await shadow_tables.drop_all(connection)

    async def _follow(self) -> None:
        for _ in range(_FOLLOW_AT_MOST):
            async with self._snapshot():
                if sum((await self._bring_forward()).values()) < _FEW:
                    return

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[None]:
        """The checkpoints, and all that was applied up to them."""
        await execute(self._connection, "BEGIN ISOLATION LEVEL REPEATABLE READ")
        try:
            yield
            await execute(self._connection, "COMMIT")
        except BaseException:
            await _roll_back(self._connection)
            raise

    async def _bring_forward(self, *, own_only: bool = False) -> dict[str, int]:
        taken = await self._staging.take(_silent, own_only=own_only)
        if taken:
            for table in self._tables:
                await bring_forward(
                    self._connection, table, taken, self._columns[table.name],
                    into=shadow(table.name), old=live(table.name), turn=self._staging.turn,
                )  # fmt: skip
        return taken

    async def compare(self) -> list[Compared]:
        """Every table with the one in use, in one snapshot. `differences` gives each row that differs."""
        await execute(self._connection, _DIFFERENCES)
        async with self._snapshot():
            await self._bring_forward()
            for n, table in enumerate(self._tables):
                self._progress(f"comparing {table.name}", n, len(self._tables))
                self.result.compared.append(await _compare(self._connection, table))
        self._progress("comparing", len(self._tables), len(self._tables))
        return self.result.compared

    async def differences(self) -> AsyncIterator[Difference]:
        """All of them, by table and key."""
        async with self._connection.transaction():
            async with self._connection.cursor(name="differences") as cursor:
                await cursor.execute(
                    "SELECT name, key, expected, found FROM rebuild_differences ORDER BY name, key"
                )
                async for row in cursor:
                    yield Difference(*row)

    async def swap(self) -> None:
        """Raises `Busy` if the tables could not be locked, and has changed nothing then."""
        for _ in range(_TRIES):
            self.tries += 1
            state = self._staging.state()
            try:
                await self._swap()
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                self._staging.reset(state)
                await self._follow()
                await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            else:
                self.result.swapped = True
                return
        raise Busy(
            f"the tables {', '.join(self._names)} were in use at each of {_TRIES} tries: look for long"
            " transactions and for a VACUUM (pg_stat_activity), and run it again"
        )

    async def _swap(self) -> None:
        connection = self._connection
        # One that freezes here is ended by the server, and the tables stay as they were.
        await execute(connection, "SET idle_in_transaction_session_timeout = '2s'")
        await execute(connection, "BEGIN")
        try:
            began = time.monotonic()
            await execute(connection, "SET LOCAL lock_timeout = '2s'")
            await execute(connection, _HOLD_CONSUMERS, {"consumer": self._of.name})
            await execute(connection, "SET LOCAL idle_in_transaction_session_timeout = '30s'")
            await self._bring_forward()
            await self._mark_changed()
            statements = await shadow_tables.replacing(connection, self._names)
            await execute(connection, f"SET LOCAL lock_timeout = '{LOCK_WITHIN}'")
            await execute(connection, "SET LOCAL idle_in_transaction_session_timeout = '2s'")
            await shadow_tables.require_free(connection, self._names)
            locking = time.monotonic()
            await shadow_tables.lock(connection, self._names)
            # After the tables: whoever holds it has all its other locks.
            await execute(connection, _HOLD_WRITERS)
            await self._bring_forward(own_only=True)
            await shadow_tables.replace(connection, statements)
            await execute(connection, "COMMIT")
            self.result.held = time.monotonic() - locking
            self.result.consumers_held = time.monotonic() - began
        except BaseException:
            await _roll_back(connection)
            raise
        finally:
            if not connection.closed:
                await execute(connection, "SET idle_in_transaction_session_timeout = 0")

    async def _mark_changed(self) -> None:
        """Triggers see each row that changes now, and not when it was built: it shows only from now on."""
        for table in self._tables:
            if await shadow_tables.has_triggers(self._connection, table.name):
                first = table.compared[-1]
                key = ", ".join(f"t.{name}" for name in table.key)
                await execute(
                    self._connection,
                    f"UPDATE {shadow(table.name)} AS t SET {first} = t.{first} FROM rebuild_differences d"  # noqa: S608 - names from the code
                    f" WHERE d.name = %(name)s AND d.key = concat_ws(', ', {key})",
                    {"name": table.name},
                )


async def _compare(connection: Connection, table: Recomputed) -> Compared:
    sums = [await _sum(connection, table, of) for of in (shadow(table.name), live(table.name))]
    (rows, checksum), (rows_before, before) = sums
    different = 0
    if sums[0] != sums[1]:
        e, f = (", ".join(f"{side}.{name}" for name in table.compared) for side in "ef")
        key = ", ".join(f"coalesce(e.{name}, f.{name})" for name in table.key)
        same = " AND ".join(f"f.{name} = e.{name}" for name in table.key)
        columns = ", ".join(table.compared)
        found = await execute(
            connection,
            f"""
            INSERT INTO rebuild_differences
            SELECT %(name)s, concat_ws(', ', {key}), to_jsonb(e), to_jsonb(f)
            FROM (SELECT {columns} FROM {shadow(table.name)}) AS e
            {"RIGHT" if table.may_lack_rows else "FULL"} JOIN (SELECT {columns} FROM {live(table.name)}) AS f ON {same}
            WHERE ({e}) IS DISTINCT FROM ({f})
            """,  # noqa: S608 - names from the code
            {"name": table.name},
        )
        different = found.rowcount
    return Compared(table.name, rows, checksum, rows_before, before, different)


async def _sum(connection: Connection, table: Recomputed, of: str) -> tuple[int, str]:
    """Rows, and a checksum that does not depend on their order."""
    columns = ", ".join(table.compared)
    cursor = await execute(
        connection,
        f"SELECT count(*), coalesce(sum(hashtextextended(ROW({columns})::text, 0)::numeric), 0)"  # noqa: S608 - as above
        f" FROM {of}",
    )
    [(rows, total)] = await cursor.fetchall()
    return rows, f"{int(total) % 2**64:016x}"


async def _alone(connection: Connection) -> None:
    deadline = time.monotonic() + _WAIT_FOR_OTHER
    while True:
        [(mine,)] = await (await execute(connection, _ONE_AT_A_TIME)).fetchall()
        if mine:
            return
        if time.monotonic() > deadline:
            raise Busy("another rebuild of this service runs; wait until it has ended")
        await asyncio.sleep(0.2)


async def _roll_back(connection: Connection) -> None:
    if not connection.closed:
        await connection.rollback()


def _silent(_what: str, _done: int, _total: int) -> None: ...
