"""Restores a service's database from the event log: an empty one, or one from an old backup.

All of it is one transaction, so a restore can be killed at any moment: the database is then as it was. Nobody
sees a state in between, and so no person who was erased either.

Into an empty database it writes the latest version of everything. To an old backup it adds what is missing: the
rows whose versions are later. Then it sets what the pipeline remembers: the last position given out and relayed,
the checkpoints, and the counters of ids.
"""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Any

import psycopg

from eventspine import shadow_tables
from eventspine.address import Address
from eventspine.database import Connection, connect, execute, translated
from eventspine.dead_letters import Park, park
from eventspine.errors import SpineError
from eventspine.log import EventLog
from eventspine.outbox import Transaction
from eventspine.recomputing import Horizon, Recomputed, bring_forward, check, columns_of, fill
from eventspine.relay import LEAD
from eventspine.shadow_tables import live, shadow
from eventspine.staged_table import TIME
from eventspine.staging import Progress, Source, session
from eventspine.whole_log import Topic, WholeLog

_OTHERS = """
SELECT DISTINCT coalesce(nullif(application_name, ''), 'a session without a name') FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""

_HEAD = "SELECT position FROM outbox_head FOR UPDATE"

_PARKED = "SELECT topic, position FROM parked WHERE consumer = %(consumer)s AND position > 0"

# A database that went on after its backup has given the same positions to other events.
_DIVERGED = f"""
SELECT min(o.position), count(*) FROM outbox o
JOIN staged_events s ON s.topic = o.topic AND s.position = o.position
WHERE (s.key, s.type, {TIME}) IS DISTINCT FROM (o.key, o.type, o.time)
"""  # noqa: S608 - nobody's input

_SPINE = """
UPDATE outbox_head SET position = greatest(position, %(top)s);
DELETE FROM outbox WHERE position <= %(top)s;
INSERT INTO relay (source, position, epoch, log) VALUES (%(source)s, %(top)s, 0, %(log)s)
ON CONFLICT (source) DO UPDATE SET log = excluded.log,
    position = CASE WHEN relay.log = excluded.log THEN greatest(relay.position, excluded.position)
        ELSE excluded.position END;
DELETE FROM earlier_relay WHERE source = %(source)s AND log = %(log)s
"""

_SET_ASIDE = """
WITH aside AS (
    DELETE FROM cursors WHERE consumer = %(consumer)s AND topic = %(topic)s AND log NOT IN ('', %(log)s)
    RETURNING *
)
INSERT INTO earlier_cursors
    (consumer, topic, log, partition, next_offset, last_position, partitions, rule)
SELECT consumer, topic, log, partition, next_offset, last_position, partitions, rule FROM aside
ON CONFLICT (consumer, topic, log, partition) DO NOTHING
"""

_CHECKPOINT = """
INSERT INTO cursors (consumer, topic, partition, next_offset, last_position, log, partitions, rule)
VALUES (%(consumer)s, %(topic)s, %(partition)s, %(offset)s, %(position)s, %(log)s, %(partitions)s, %(rule)s)
ON CONFLICT (consumer, topic, partition) DO UPDATE SET next_offset = excluded.next_offset,
    last_position = excluded.last_position, log = excluded.log, partitions = excluded.partitions,
    rule = excluded.rule
"""

_COUNTERS = """
SELECT attname, pg_get_serial_sequence('public.' || quote_ident(%(name)s), attname)
FROM pg_attribute
WHERE attrelid = ('public.' || quote_ident(%(name)s))::regclass AND attidentity <> '' AND NOT attisdropped
"""

# An answer may hold the data of somebody who was erased after the backup.
_FORGET_ANSWERS = "DELETE FROM idempotency_keys WHERE about IS NOT NULL"

_TABLES = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1
"""

PIPELINE = frozenset(
    {
        "outbox",
        "outbox_head",
        "outbox_marks",
        "relay",
        "earlier_relay",
        "cursors",
        "earlier_cursors",
    }
    | {"parked", "running_time", "idempotency_keys", "alembic_version", "spine_version"}
)


_NOT_EMPTY = "the past can be restored into an empty database only, and this one has rows: name another with --into"


class CannotRestore(SpineError):
    """Nothing was changed; the sentence says why, and what to do."""


@dataclass
class Restored:
    """What came of it."""

    was_empty: bool
    events: int = 0
    seconds: float = 0.0
    rows: dict[str, int] = field(default_factory=dict)
    head: int = 0
    """The last position given out: the next event gets the next."""
    undecodable: int = 0
    answers: int = 0
    """Stored answers that were deleted, since they hold personal data."""
    not_in_log: list[str] = field(default_factory=list)
    """Tables that no event says anything of."""
    missing: list[tuple[int, int]] = field(default_factory=list)
    """Positions that neither the log nor the database has."""
    horizon: Mapping[str, int] | None = None


async def restore(
    url: Address,
    log: EventLog,
    of: Source,
    tables: Sequence[Recomputed],
    progress: Progress,
    *,
    reactions: Sequence[tuple[str, str]] = (),
    until: datetime | int | None = None,
    give_up: bool = False,
) -> Restored:
    """`reactions` are their names and topics: they go on at the end of the log. `until` restores the past.

    With `give_up` positions that are missing everywhere are accepted. Raises `CannotRestore`, and what reading
    the log raises.
    """
    began = time.monotonic()
    async with _transaction(url) as connection:
        head = await _alone(connection, of)
        for table in tables:
            await check(connection, table)
        is_empty = not head and not await _any_row(connection, tables)
        if until is not None and not is_empty:
            raise CannotRestore(_NOT_EMPTY)
        result = Restored(is_empty)
        parked = await _all(connection, _PARKED, {"consumer": of.name})
        whole = WholeLog(connection, log, of)
        await whole.take(progress, [(topic, position) for topic, position in parked])
        result.events = whole.read
        await _refuse_if_diverged(connection, of)
        own = whole.topics.get(of.topic)
        top = own.highest if own else 0
        result.missing = await whole.missing(head)
        if result.missing and not give_up:
            raise CannotRestore(_missing_sentence(of, result.missing))
        horizon = await _horizon(whole, of, until)
        write = _write_anew if is_empty else _add
        await write(connection, tables, horizon, progress)
        for table in tables:
            count = f"SELECT count(*) FROM {live(table.name)}"  # noqa: S608 - a name from the code
            [(result.rows[table.name],)] = await _all(connection, count, {})
        progress("writing", len(tables), len(tables))
        if horizon is not None:
            top = horizon.positions.get(of.topic, 0)
            result.horizon = horizon.positions
        await _count_on(connection, tables)
        if own is not None:
            await _set_spine(connection, of, own, top)
        if horizon is None:
            result.undecodable = await _set_checkpoints(connection, of, whole, reactions)
        result.answers = (await execute(connection, _FORGET_ANSWERS)).rowcount
        [(result.head,)] = await _all(connection, "SELECT position FROM outbox_head", {})
        names = {name for (name,) in await _all(connection, _TABLES, {})}
        result.not_in_log = sorted(names - PIPELINE - {table.name for table in tables})
    if not is_empty:  # new tables have their statistics
        for table in tables:
            await _analyze(url, table.name)
    result.seconds = time.monotonic() - began
    return result


async def _write_anew(
    connection: Connection,
    tables: Sequence[Recomputed],
    horizon: Horizon | None,
    progress: Progress,
) -> None:
    """Beside the empty tables: an index that is built when the rows are there takes a part of the time."""
    names = [table.name for table in tables]
    await shadow_tables.drop_all(connection)
    await shadow_tables.lock(connection, names)
    await shadow_tables.create(connection, names)
    for n, table in enumerate(tables):
        progress(f"writing {table.name}", n, len(tables))
        await fill(connection, table, into=shadow(table.name), old=None, horizon=horizon)
        await shadow_tables.index(connection, table.name)
    await shadow_tables.replace(connection, await shadow_tables.replacing(connection, names))


async def _add(
    connection: Connection, tables: Sequence[Recomputed], _: Horizon | None, progress: Progress
) -> None:
    for n, table in enumerate(tables):
        progress(f"writing {table.name}", n, len(tables))
        place = live(table.name)
        columns = await columns_of(connection, place)
        await bring_forward(
            connection, table, table.topics, columns, into=place, old=place, turn=None
        )


@asynccontextmanager
async def _transaction(url: Address) -> AsyncIterator[Connection]:
    async with session(url, "eventspine restore", lock_timeout="2s") as connection:
        async with connection.transaction():
            yield connection


async def _analyze(url: Address, table: str) -> None:
    connection = await connect(url, statement_within=inf)
    try:
        with translated():
            await execute(connection, f"ANALYZE public.{table}")
    finally:
        await connection.close()


async def _alone(connection: Connection, of: Source) -> int:
    """The last position given out. From here on nobody else can write."""
    busy = (
        f"{of.name} is in use ({{}}): stop its APIs and workers, and whoever else writes to its database; start"
        " them again when this is done"
    )
    if others := await _all(connection, _OTHERS, {}):
        raise CannotRestore(busy.format(", ".join(sorted(name for (name,) in others))))
    [(leads,)] = await _all(connection, LEAD, {})
    try:
        await execute(connection, "LOCK TABLE cursors, parked, outbox IN EXCLUSIVE MODE")
        found = await _all(connection, _HEAD, {})
    except psycopg.errors.LockNotAvailable:
        leads = False
    if not leads:
        raise CannotRestore(busy.format("its tables are locked"))
    if not found:
        raise CannotRestore("its table outbox_head is empty; run `shop migrate`")
    return int(found[0][0])


async def _any_row(connection: Connection, tables: Sequence[Recomputed]) -> bool:
    names = ["cursors", *(table.name for table in tables)]
    some = " OR ".join(f"EXISTS (SELECT FROM public.{name})" for name in names)
    return bool((await _all(connection, f"SELECT {some}", {}))[0][0])


async def _refuse_if_diverged(connection: Connection, of: Source) -> None:
    [(first, count)] = await _all(connection, _DIVERGED, {})
    if count:
        raise CannotRestore(
            f"this database has gone on by itself: it has given position {first}, and {count - 1} more, to"
            f" other events than topic {of.topic} holds there. What it did since is in no log and would be lost."
            " Restore the backup again, or make an empty database, and let nothing write to it before"
            f" `shop restore {of.name}`"
        )


def _missing_sentence(of: Source, missing: Sequence[tuple[int, int]]) -> str:
    spans = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in missing[:5])
    more = f" and {len(missing) - 5} more range(s)" if len(missing) > 5 else ""  # noqa: PLR2004
    return (
        f"topic {of.topic} lacks the positions {spans}{more}, and the database does not have them either: what"
        " they said is lost, unless a replica or backup of the log, or a newer one of the database, has it;"
        " --give-up restores the rest"
    )


async def _horizon(whole: WholeLog, of: Source, until: datetime | int | None) -> Horizon | None:
    if until is None:
        return None
    if isinstance(until, datetime):
        return await whole.before(until)
    time = await whole.time_of(until)
    if time is None:
        raise CannotRestore(f"topic {of.topic} holds no position {until}")
    found = await whole.before(time)
    return Horizon({**found.positions, of.topic: until})


async def _count_on(connection: Connection, tables: Sequence[Recomputed]) -> None:
    """New rows get ids above all that are there."""
    for table in tables:
        for column, sequence in await _all(connection, _COUNTERS, {"name": table.name}):
            await execute(
                connection,
                f"SELECT setval('{sequence}', greatest(last_value, highest), is_called OR highest > 0)"  # noqa: S608 - names from the database
                f" FROM {sequence}, (SELECT coalesce(max({column}), 0) FROM public.{table.name}) AS t(highest)",
            )


async def _set_spine(connection: Connection, of: Source, own: Topic, top: int) -> None:
    place = {"top": top, "source": of.source, "log": own.identity.id}
    for statement in _SPINE.split(";"):
        await execute(connection, statement, place)


async def _set_checkpoints(
    connection: Connection,
    of: Source,
    whole: WholeLog,
    reactions: Sequence[tuple[str, str]],
) -> int:
    """How many events were parked, since they can't be decoded."""
    parks = []
    for name in of.consumer.topics:
        topic = whole.topics[name]
        await _set_checkpoint(connection, of.name, name, topic)
        parks += [
            Park(record, position, True, "not an event", reason)
            for record, position, reason in topic.undecodable
        ]
    if parks:
        await park(Transaction(connection), of.name, parks)
    for consumer, name in reactions:
        if name not in whole.topics:
            raise CannotRestore(
                f"the reaction {consumer} reads topic {name}, which {of.name} does not"
            )
        await _set_checkpoint(connection, consumer, name, whole.topics[name])
    return len(parks)


async def _set_checkpoint(connection: Connection, consumer: str, name: str, topic: Topic) -> None:
    identity = topic.identity
    place: dict[str, Any] = {"consumer": consumer, "topic": name, "log": identity.id}
    place |= {"partitions": identity.partitions, "rule": identity.rule}
    await execute(connection, _SET_ASIDE, place)
    for partition, at in topic.places.items():
        row = {**place, "partition": partition, "offset": at.offset, "position": at.highest}
        await execute(connection, _CHECKPOINT, row)


async def _all(connection: Connection, sql: str, params: Mapping[str, Any]) -> Sequence[Any]:
    return await (await execute(connection, sql, params)).fetchall()
