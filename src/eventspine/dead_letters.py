"""Dead letters: records that can't be applied, set aside so that others can be.

An event that fails repeatedly on its own is parked with its error. Later events of its key are parked behind
it, in the transaction that moves the checkpoint past them. All other keys continue. When the cause is fixed, a
retry applies the parked events of the key in order.

A foreign record is parked too, but blocks nothing behind it. Otherwise any writer to a topic could
block any key.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from pydantic_core import to_json

from eventspine.database import Database, translated
from eventspine.error_text import text_of
from eventspine.errors import NoOutcome, OutcomeUnknown, SpineError, Unavailable
from eventspine.event import NotAnEvent, envelope
from eventspine.handlers import Handlers
from eventspine.log import LogUnavailable, Record
from eventspine.outbox import Transaction, transaction
from eventspine.reactions import Reaction
from eventspine.received import Received
from eventspine.steps import GROUP, Around
from eventspine.upcasting import read_events

PASSING = (Unavailable, OutcomeUnknown, NoOutcome, LogUnavailable, OSError, MemoryError)
"""Errors that no event caused. A later attempt may succeed."""


class TooManyParked(SpineError):
    """So many keys are parked that the cause is probably the service or its settings, not the events."""


class Park(NamedTuple):
    """A record to be parked, and why."""

    record: Record
    position: int | None
    holds_key: bool
    cause: str
    error: str


class Parked(NamedTuple):
    """A parked record, as operators see it."""

    topic: str
    partition: int
    offset: int
    position: int | None
    key: str | None
    holds_key: bool
    cause: str
    error: str
    attempts: int
    parked_at: datetime
    headers: dict[str, str]
    value: bytes | None


# Each batch runs this query, and a key may have any number of parked events. So it does one index look-up in
# `parked_held_keys` for each key (a loose index scan), where DISTINCT would read all rows. The OR is always
# true there. It makes the index `parked_by_key`, which also holds foreign records, look more expensive.
HELD_KEYS = """
WITH RECURSIVE held AS (
    (SELECT topic, key, coalesce(hashtextextended(key, 0), 0) AS hash FROM parked
    WHERE consumer = %(consumer)s AND holds_key AND (holds_key OR position < 0)
    ORDER BY topic, coalesce(hashtextextended(key, 0), 0) LIMIT 1)
    UNION ALL
    SELECT further.* FROM held, LATERAL (
        SELECT topic, key, coalesce(hashtextextended(key, 0), 0) FROM parked
        WHERE consumer = %(consumer)s AND holds_key AND (holds_key OR position < 0)
            AND (topic, coalesce(hashtextextended(key, 0), 0)) > (held.topic, held.hash)
        ORDER BY topic, coalesce(hashtextextended(key, 0), 0) LIMIT 1
    ) AS further
)
"""
"""Begins a query: `held` are the keys that parked events of %(consumer)s block."""

_HELD = f"{HELD_KEYS} SELECT topic, key FROM held"  # noqa: S608 - a constant of ours

_PARK = """
INSERT INTO parked
    (consumer, topic, "partition", "offset", position, key, headers, value, holds_key, cause, error)
SELECT %(consumer)s, topic, "partition", "offset", position, key, headers, decode(value, 'hex'),
    holds_key, cause, error
FROM json_to_recordset(%(parks)s::json) AS p(
    topic text, "partition" integer, "offset" bigint, position bigint, key text, headers jsonb,
    value text, holds_key boolean, cause text, error text)
-- A foreign record that is read again after the log lost its end.
ON CONFLICT (consumer, topic, "partition", "offset", position) DO UPDATE
SET key = excluded.key, headers = excluded.headers, value = excluded.value, error = excluded.error
WHERE excluded.position = 0
"""

_LIST = """
SELECT topic, "partition", "offset", nullif(position, 0), key, holds_key, cause, error, attempts,
    parked_at, headers, value
FROM parked
WHERE consumer = %(consumer)s
    AND (%(topic)s::text IS NULL OR topic = %(topic)s)
    AND (%(key)s::text IS NULL OR key = %(key)s)
    AND (%(cause)s::text IS NULL OR cause = %(cause)s)
ORDER BY topic, "partition", "offset", position
"""

# In the order of the index `parked_by_key`. By position, because offsets may restart in a log that was fed
# again.
_NEXT = """
SELECT topic, "partition", "offset", nullif(position, 0), key, holds_key, cause, error, attempts,
    parked_at, headers, value
FROM parked
WHERE consumer = %(consumer)s AND topic = %(topic)s AND key IS NOT DISTINCT FROM %(key)s::text
    AND coalesce(hashtextextended(key, 0), 0) = coalesce(hashtextextended(%(key)s::text, 0), 0)
    AND (position, "partition", "offset") > (%(position)s, %(partition)s, %(offset)s)
ORDER BY position, "partition", "offset" LIMIT %(chunk)s
"""

# ORDER BY makes the planner use `parked_by_key`, the only index with this order. In a small table it may use
# the primary key, which is as good.
_LEFT = """
SELECT count(*) FROM (
    SELECT FROM parked
    WHERE consumer = %(consumer)s AND topic = %(topic)s AND key IS NOT DISTINCT FROM %(key)s::text
        AND coalesce(hashtextextended(key, 0), 0) = coalesce(hashtextextended(%(key)s::text, 0), 0)
    ORDER BY position, "partition", "offset"
) AS of_key
"""

# A consumer that applies events locks the row of its checkpoint. So while this transaction holds the lock, the
# key does not change.
_STAND_STILL = """
SELECT FROM cursors WHERE consumer = %(consumer)s AND topic = %(topic)s
ORDER BY "partition" FOR UPDATE
"""

_UNPARK = """
DELETE FROM parked WHERE consumer = %(consumer)s AND topic = %(topic)s
    AND "partition" = %(partition)s AND "offset" = %(offset)s AND position = %(position)s
"""

_FAILED_AGAIN = """
UPDATE parked SET attempts = attempts + 1, cause = %(cause)s, error = %(error)s
WHERE consumer = %(consumer)s AND topic = %(topic)s
    AND "partition" = %(partition)s AND "offset" = %(offset)s AND position = %(position)s
"""

# As it was parked, so that its age and its attempts stay.
_PARK_AGAIN = """
INSERT INTO parked
    (consumer, topic, "partition", "offset", position, key, headers, value, holds_key, cause, error,
    attempts, parked_at)
VALUES (%(consumer)s, %(topic)s, %(partition)s, %(offset)s, %(position)s, %(key)s, %(headers)s::jsonb, %(value)s,
    %(holds_key)s, %(cause)s, %(error)s, %(attempts)s, %(parked_at)s)
ON CONFLICT DO NOTHING
"""

_CHUNK = 500  # events that are retried in one transaction
_AT_ONCE = 16 * 1024 * 1024  # bytes that one statement parks; a parameter must be smaller than 1 GB

BEHIND = "behind another"
"""The cause of events that are parked only because an earlier event of their key is parked."""


HeldKey = tuple[str, str | None]
"""A topic and a key, in the form in which they are stored."""


def held_key(record: Record) -> HeldKey:
    return record.topic, _storable(record.key)


async def held_keys(tx: Transaction | Database, consumer: str) -> set[HeldKey]:
    """The keys whose events must be parked behind others."""
    return {(topic, key) for topic, key in await tx.fetch(_HELD, {"consumer": consumer})}


async def park(tx: Transaction, consumer: str, parks: Sequence[Park]) -> None:
    if tx.steps.park is None:
        await _park(tx, consumer, parks)
    else:
        await tx.steps.park(tx, parks, partial(_park, tx, consumer, parks))


async def _park(tx: Transaction, consumer: str, parks: Sequence[Park]) -> None:
    """Park all in one statement, or in several if the values are large."""
    rows: list[bytes] = []
    room = _AT_ONCE
    for each in parks:
        row = _row(each)
        if rows and len(row) > room:
            await _insert(tx, consumer, rows)
            rows, room = [], _AT_ONCE
        rows.append(row)
        room -= len(row)
    if rows:
        await _insert(tx, consumer, rows)


async def _insert(tx: Transaction, consumer: str, rows: Sequence[bytes]) -> None:
    parks = f"[{b','.join(rows).decode()}]"
    await tx.execute(_PARK, {"consumer": consumer, "parks": parks})


def _row(park: Park) -> bytes:
    record, position, holds_key, cause, error = park
    return to_json(
        {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "position": position or 0,
            "key": _storable(record.key),
            "headers": {_storable(name): _storable(text) for name, text in record.headers.items()},
            "value": None if record.value is None else record.value.hex(),
            "holds_key": holds_key,
            "cause": cause,
            "error": _storable(error[:2000]),
        }
    )


def _storable(text: str | None) -> str | None:
    """Replace what PostgreSQL's text can't hold: U+0000 and lone surrogates."""
    if text is None:
        return None
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


async def find(
    database: Database,
    consumer: str,
    *,
    topic: str | None = None,
    key: str | None = None,
    cause: str | None = None,
) -> list[Parked]:
    """The parked records, in the order of the log. None as a filter matches everything."""
    chosen = {"consumer": consumer, "topic": topic, "key": key, "cause": cause}
    return [Parked(*row) for row in await database.fetch(_LIST, chosen)]


class Retried(NamedTuple):
    """The result of a key's retry: how many events were applied, and the error that stopped it, if any."""

    topic: str
    key: str | None
    applied: int
    left: int
    error: str | None


async def retry(
    database: Database,
    handlers: Handlers,
    topic: str,
    key: str | None,
    *,
    accept_gaps: bool = False,
) -> Retried:
    """Apply a key's parked events in their order, until one fails again.

    Each chunk is a transaction of its own, so that consumers of the topic do not wait long. In between,
    the remaining events block the key. With `accept_gaps`, an event is applied although the one before
    it is missing. That is right if the missing event was discarded, because each event carries the
    whole state.
    """
    chosen = {"consumer": handlers.consumer, "topic": topic, "key": key}
    last = {"position": -1, "partition": 0, "offset": 0}
    applied = left = 0
    error = None
    size = handlers.batch if isinstance(handlers, Reaction) else _CHUNK
    while True:
        if isinstance(handlers, Reaction):
            rows = await database.fetch(_NEXT, {**chosen, **last, "chunk": size})
            await _ask(handlers, [Parked(*row) for row in rows])
        async with transaction(database) as tx:
            tx.accepts_gaps = accept_gaps
            await tx.execute(_STAND_STILL, chosen)
            rows = await tx.fetch(_NEXT, {**chosen, **last, "chunk": size})
            chunk = [Parked(*row) for row in rows]
            done, failed, stopped = await _retry(tx, handlers, chunk, database.steps.receive)
            ends = stopped or len(chunk) < size
            if ends:
                [(left,)] = await tx.fetch(_LEFT, chosen)
        applied += done
        error = failed or error
        if ends:
            return Retried(topic, key, applied, left, error)
        last = _place(handlers.consumer, chunk[-1])


async def _retry(
    tx: Transaction, handlers: Handlers, chunk: Sequence[Parked], around: Around | None
) -> tuple[int, str | None, bool]:
    """How many were applied, the last error, and whether that error stops the key."""
    applied = 0
    error = None
    for parked in chunk:
        place = _place(handlers.consumer, parked)
        try:
            async with tx.savepoint():
                apply = partial(_apply, tx, handlers, parked)
                with translated():
                    if around is None:
                        await apply()
                    else:
                        GROUP.set(handlers.consumer)
                        await around([_record(parked)], apply)
                await tx.execute(_UNPARK, place)
        except PASSING:
            raise  # not the event's fault
        except Exception as failure:  # noqa: BLE001 - it is what the caller is told
            cause, text = type(failure).__name__, text_of(failure)
            error = f"{cause}: {text}"
            await tx.execute(
                _FAILED_AGAIN, {**place, "cause": cause, "error": _storable(text[:2000])}
            )
            if parked.holds_key:
                return applied, error, True
        else:
            applied += 1
    return applied, error, False


async def _ask(reaction: Reaction, chunk: Sequence[Parked]) -> None:
    """Ask the provider before the transaction. Events that can't be decoded fail later, in the transaction."""
    received = []
    for parked in chunk:
        with suppress(NotAnEvent):
            received += _received(reaction, parked)
    await reaction.ask(received)


async def _apply(tx: Transaction, handlers: Handlers, parked: Parked) -> None:
    if received := _received(handlers, parked):
        await handlers.apply(tx, received)


def _received(handlers: Handlers, parked: Parked) -> list[Received[Any]]:
    """The event, or nothing if these handlers do not handle it. Raises `NotAnEvent`."""
    record = _record(parked)
    found = envelope(record)
    if not handlers.knows_source(record.topic, found.source):
        raise NotAnEvent(f"its source {found.source} does not publish here")
    event_class = handlers.event_class(record.topic, found.type)
    if event_class is None or record.value is None:
        return []
    [event] = read_events(event_class, [record])
    return [Received(event, found.position, record)]


def _record(parked: Parked) -> Record:
    return Record(
        parked.topic, parked.partition, parked.offset, parked.key, parked.value, parked.headers
    )


async def discard(database: Database, consumer: str, parked: Sequence[Parked]) -> int:
    """Delete these records. Returns how many were still parked. They stay in the log."""
    gone = 0
    async with transaction(database) as tx:
        for topic in sorted({each.topic for each in parked}):
            await tx.execute(_STAND_STILL, {"consumer": consumer, "topic": topic})
        for each in parked:
            gone += (await tx.execute(_UNPARK, _place(consumer, each))).rowcount
    return gone


async def park_again(database: Database, consumer: str, parked: Sequence[Parked]) -> int:
    """Undo a `discard`: park these records as they were. Returns how many were not parked.

    They block their keys again. If a later event of such a key was applied in between, which `accept_gaps` allows,
    a retry gives the handler the older event after the newer.
    """
    again = 0
    async with transaction(database) as tx:
        for topic in sorted({each.topic for each in parked}):
            await tx.execute(_STAND_STILL, {"consumer": consumer, "topic": topic})
        for each in parked:
            row = each._asdict() | _place(consumer, each)
            row["headers"] = to_json(each.headers).decode()
            again += (await tx.execute(_PARK_AGAIN, row)).rowcount
    return again


def _place(consumer: str, parked: Parked) -> dict[str, Any]:
    return {
        "consumer": consumer,
        "topic": parked.topic,
        "partition": parked.partition,
        "offset": parked.offset,
        "position": parked.position or 0,
    }
