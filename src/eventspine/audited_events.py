"""A temporary table with all events in their current form. The audit compares the tables with it."""

from collections.abc import Mapping

from pydantic_core import to_json

from eventspine.database import Connection, execute
from eventspine.event import Envelope, Event, NotAnEvent
from eventspine.log import Record
from eventspine.upcasting import IS_OLD, lifted, read_events

Published = Mapping[str, type[Event]]
"""The classes of a topic's events, by their types."""

Row = tuple[str, int, str, str | None, str]
"""For `COPY_EVENTS`."""

# A temporary table that is filled from the log. It disappears with the transaction.
CREATE_EVENTS = """
CREATE TEMPORARY TABLE audited_events (
    topic text NOT NULL, position bigint NOT NULL, type text NOT NULL, key text, data text NOT NULL
) ON COMMIT DROP
"""

COPY_EVENTS = "COPY audited_events (topic, position, type, key, data) FROM STDIN"

_ADD_UNRELAYED = f"""
INSERT INTO audited_events
SELECT topic, position, type, key, data::text FROM outbox
WHERE position > %(relayed)s AND NOT {IS_OLD}
"""  # noqa: S608 - nobody's input

_OLD_UNRELAYED = f"""
SELECT topic, position, type, key, schema_version, data::text FROM outbox
WHERE position > %(relayed)s AND {IS_OLD}
"""  # noqa: S608 - nobody's input


def event_row(record: Record, found: Envelope, event_class: type[Event] | None) -> Row:
    """`event_class` is the class of its type; None if there is none."""
    key = None if record.key is None else _storable(record.key)
    data = _current(event_class, record.headers, record.value or b"")
    text = _storable(data.decode(errors="replace"))
    return record.topic, found.position, _storable(found.type), key, text


def applied_row(record: Record, found: Envelope, event_class: type[Event] | None) -> Row | None:
    """None if the event can't be decoded. Then it was parked, and may have been discarded."""
    if event_class is not None:
        try:
            read_events(event_class, [record])
        except NotAnEvent:
            return None
    return event_row(record, found, event_class)


async def add_unrelayed(connection: Connection, relayed: int, published: Published) -> None:
    """Add the events of the outbox that are not in the log yet."""
    current = {type_: event_class.schema_version for type_, event_class in published.items()}
    wanted = {"relayed": relayed, "current": to_json(current).decode()}
    await execute(connection, _ADD_UNRELAYED, wanted)
    old = await (await execute(connection, _OLD_UNRELAYED, wanted)).fetchall()
    async with connection.cursor() as cursor, cursor.copy(COPY_EVENTS) as copy:
        for topic, position, type_, key, version, data in old:
            headers = {"ce_dataversion": str(version)}
            current_data = _current(published[type_], headers, data.encode())
            await copy.write_row((topic, position, type_, key, current_data.decode()))


def _current(event_class: type[Event] | None, headers: Mapping[str, str], data: bytes) -> bytes:
    """The data in its current form. If it can't be lifted, it stays as it is."""
    if event_class is None:
        return data
    try:
        return lifted(event_class, headers, data)
    except NotAnEvent:
        return data


def _storable(text: str) -> str:
    return text.replace("\x00", "")
