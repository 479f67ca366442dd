"""The ledger: a row for every event applied, written in the transaction that applies it.

It is the handler that is not idempotent: an event applied twice stands there twice, and one that was
stepped over does not. There is no constraint that would hide it.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import NamedTuple

from pydantic_core import to_json

from eventspine import consumer, parking
from eventspine.event import Event
from eventspine.handlers import Handlers
from eventspine.log import Record
from eventspine.outbox import Transaction
from eventspine.parking import Parked
from eventspine.reading import AppliedBefore, Cursor, Partition, Reading

LEDGER_SQL = """
CREATE TABLE storm_ledger (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    position bigint NOT NULL,
    key text NOT NULL,
    version bigint NOT NULL,
    retried boolean NOT NULL,
    pid integer NOT NULL DEFAULT pg_backend_pid(),
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT ALL ON storm_ledger TO PUBLIC;
-- For `mutations/head_lock`.
CREATE SEQUENCE storm_positions;
GRANT ALL ON storm_positions TO PUBLIC;
"""
"""To be run once in each service's database. `seq` is the order in which events were applied, within
a partition; `retried` says that `shop parked retry` did it, and not a consumer."""

_ENTER = """
INSERT INTO storm_ledger (topic, partition, "offset", position, key, version, retried)
SELECT topic, partition, "offset", position, key, version, retried
FROM jsonb_to_recordset(%(entries)s::jsonb) AS e(
    topic text, partition integer, "offset" bigint, position bigint, key text, version bigint,
    retried boolean)
"""


class _Place(NamedTuple):
    topic: str
    partition: int
    offset: int
    position: int
    retried: bool


_places: ContextVar[dict[int, _Place]] = ContextVar("places")
"""Where the events come from that are being applied, by their identity. The reading that holds them
lives as long as this does, so no other event has the same."""


def install() -> None:
    """Have every event that a handler is given entered."""
    read, apply_parked, handle = consumer.read, parking._apply, Handlers.apply

    def read_and_note(
        records: Sequence[Record],
        cursors: Mapping[Partition, Cursor],
        handlers: Handlers,
        earlier: Mapping[str, AppliedBefore],
    ) -> Reading:
        reading = read(records, cursors, handlers, earlier)
        _places.set(
            {
                id(item.event): _Place(
                    item.record.topic, item.record.partition, item.record.offset,
                    item.position or 0, retried=False,
                )
                for item in reading.items
                if item.event is not None
            }
        )  # fmt: skip
        return reading

    async def apply_parked_and_note(tx: Transaction, handlers: Handlers, parked: Parked) -> None:
        _retried.set(
            _Place(parked.topic, parked.partition, parked.offset, parked.position or 0, True)
        )
        await apply_parked(tx, handlers, parked)

    async def apply(self: Handlers, tx: Transaction, events: Sequence[Event]) -> None:
        await handle(self, tx, events)
        if events:
            await tx.execute(_ENTER, {"entries": to_json(list(map(_entry, events))).decode()})

    consumer.read = read_and_note
    parking._apply = apply_parked_and_note
    Handlers.apply = apply  # type: ignore[method-assign]


_retried: ContextVar[_Place] = ContextVar("retried")


def _entry(event: Event) -> dict[str, object]:
    place = _places.get({}).get(id(event)) or _retried.get()
    return {**place._asdict(), "key": event.key, "version": event.version}
