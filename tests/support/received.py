"""Events as a handler is given them."""

from typing import TypeVar

from eventspine.event import Event, message
from eventspine.log import Record
from eventspine.received import Received

Kind = TypeVar("Kind", bound=Event)


def heard(*events: Kind, first: int = 1) -> list[Received[Kind]]:
    """At positions from `first` on, as if each topic had one partition."""
    return [
        Received(event, position, _record(event, position))
        for position, event in enumerate(events, first)
    ]


def _record(event: Event, position: int) -> Record:
    on_the_wire = message(
        event.source, str(position), event.key, event.type, str(event.schema_version),
        "2026-01-01T00:00:00.000000Z", event.as_json().encode(), None,
    )  # fmt: skip
    return Record(event.topic, 0, position - 1, *on_the_wire)
