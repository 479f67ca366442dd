"""Dead letters: records that can't be applied, set aside so that others can be.

An event that fails repeatedly on its own is parked with its error. Later events of its key are parked behind
it, in the transaction that moves the checkpoint past them. All other keys continue. When the cause is fixed, a
retry applies the parked events of the key in order.

A foreign record is parked too, but blocks nothing behind it. Otherwise anybody who can write to a topic could
block any key.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from pydantic_core import to_json

from eventspine.database import Database, translated
from eventspine.errors import NoOutcome, OutcomeUnknown, SpineError, Unavailable
from eventspine.event import NotAnEvent, decode, envelope
from eventspine.handlers import Handlers
from eventspine.log import LogUnavailable, Record
from eventspine.outbox import Transaction, transaction
from eventspine.reactions import Reaction
from eventspine.reading import Received

PASSING = (Unavailable, OutcomeUnknown, NoOutcome, LogUnavailable, OSError, MemoryError)
"""Trouble that is not an event's own: the same may succeed later."""


class TooManyParked(SpineError):
    """So many keys are parked that the fault is ours, and not some event's."""


class Park(NamedTuple):
    """A record to be parked, and why."""

    record: Record
    position: int | None
    holds_key: bool
    cause: str
    error: str


class Parked(NamedTuple):
    """A parked record, as people see it."""

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


# Every batch asks, and behind a key may be any number of events. So this goes from key to key in
# `parked_held_keys`, with a look-up for each (a loose index scan), where DISTINCT would read all. The OR
# is true of every row there, and makes `parked_by_key`, which has foreign records too, the dearer one.
_HELD = """
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
SELECT topic, key FROM held
"""

_PARK = """
INSERT INTO parked
    (consumer, topic, "partition", "offset", position, key, headers, value, holds_key, cause, error)
SELECT %(consumer)s, topic, "partition", "offset", position, key, headers, decode(value, 'hex'),
    holds_key, cause, error
FROM json_to_recordset(%(parks)s::json) AS p(
    topic text, "partition" integer, "offset" bigint, position bigint, key text, headers jsonb,
    value text, holds_key boolean, cause text, error text)
-- A foreign record, read again after the log had lost its end.
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

# By `parked_by_key`, in its order. By position: in a log that was fed again offsets may begin anew.
_NEXT = """
SELECT topic, "partition", "offset", nullif(position, 0), key, holds_key, cause, error, attempts,
    parked_at, headers, value
FROM parked
WHERE consumer = %(consumer)s AND topic = %(topic)s AND key IS NOT DISTINCT FROM %(key)s::text
    AND coalesce(hashtextextended(key, 0), 0) = coalesce(hashtextextended(%(key)s::text, 0), 0)
    AND (position, "partition", "offset") > (%(position)s, %(partition)s, %(offset)s)
ORDER BY position, "partition", "offset" LIMIT %(chunk)s
"""

# The order is for the planner: only `parked_by_key` has it. Of a small table the primary key is as good.
_LEFT = """
SELECT count(*) FROM (
    SELECT FROM parked
    WHERE consumer = %(consumer)s AND topic = %(topic)s AND key IS NOT DISTINCT FROM %(key)s::text
        AND coalesce(hashtextextended(key, 0), 0) = coalesce(hashtextextended(%(key)s::text, 0), 0)
    ORDER BY position, "partition", "offset"
) AS of_key
"""

# A consumer that applies events holds the row of its checkpoint: with the row locked, the key stands still.
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

_CHUNK = 500  # events that are retried in one transaction
_AT_ONCE = 16 * 1024 * 1024  # bytes that are parked by one statement; no parameter may hold 1 GB

BEHIND = "behind another"
"""The cause of what is parked only because an earlier event of its key is."""


HeldKey = tuple[str, str | None]
"""A topic and a key, as they are stored."""


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
    """All in one statement, or, since values may be of any size, in a few."""
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
    """PostgreSQL's text holds every character but U+0000, and no half of a pair."""
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
    """What is parked, in the order of the log. None matches everything."""
    chosen = {"consumer": consumer, "topic": topic, "key": key, "cause": cause}
    return [Parked(*row) for row in await database.fetch(_LIST, chosen)]


class Retried(NamedTuple):
    """How a key's retry ended: how many were applied, and what stopped it, if anything did."""

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

    A chunk is a transaction, so that consumers of the topic are not kept waiting; what is left
    holds the key in between. With `accept_gaps` an event is applied though its predecessor never
    came: right when that one was discarded, since each event carries the whole state.
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
            done, failed, stopped = await _retry(tx, handlers, chunk)
            ends = stopped or len(chunk) < size
            if ends:
                [(left,)] = await tx.fetch(_LEFT, chosen)
        applied += done
        error = failed or error
        if ends:
            return Retried(topic, key, applied, left, error)
        last = _place(handlers.consumer, chunk[-1])


async def _retry(
    tx: Transaction, handlers: Handlers, chunk: Sequence[Parked]
) -> tuple[int, str | None, bool]:
    """How many were applied, the last error, and whether it is one that stops the key."""
    applied = 0
    error = None
    for parked in chunk:
        place = _place(handlers.consumer, parked)
        try:
            async with tx.savepoint():
                with translated():
                    await _apply(tx, handlers, parked)
                await tx.execute(_UNPARK, place)
        except PASSING:
            raise  # not the event's fault
        except Exception as failure:  # noqa: BLE001 - it is what the caller is told
            cause, text = type(failure).__name__, str(failure)
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
    """Before the transaction. What can't be read fails there."""
    received = []
    for parked in chunk:
        with suppress(NotAnEvent):
            received += _received(reaction, parked)
    await reaction.ask(received)


async def _apply(tx: Transaction, handlers: Handlers, parked: Parked) -> None:
    if received := _received(handlers, parked):
        await handlers.apply(tx, received)


def _received(handlers: Handlers, parked: Parked) -> list[Received[Any]]:
    """The event, if these handlers have a use for it. Raises `NotAnEvent`."""
    record = Record(
        parked.topic, parked.partition, parked.offset, parked.key, parked.value, parked.headers
    )
    found = envelope(record)
    if not handlers.knows_source(record.topic, found.source):
        raise NotAnEvent(f"its source {found.source} does not publish here")
    event_class = handlers.event_class(record.topic, found.type)
    if event_class is None or record.value is None:
        return []
    [event] = decode(event_class, [record.value])
    return [Received(event, found.position, record)]


async def discard(database: Database, consumer: str, parked: Sequence[Parked]) -> int:
    """Forget these for good; how many there still were. They stay in the log."""
    gone = 0
    async with transaction(database) as tx:
        for topic in sorted({each.topic for each in parked}):
            await tx.execute(_STAND_STILL, {"consumer": consumer, "topic": topic})
        for each in parked:
            gone += (await tx.execute(_UNPARK, _place(consumer, each))).rowcount
    return gone


def _place(consumer: str, parked: Parked) -> dict[str, Any]:
    return {
        "consumer": consumer,
        "topic": parked.topic,
        "partition": parked.partition,
        "offset": parked.offset,
        "position": parked.position or 0,
    }
