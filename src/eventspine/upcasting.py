"""Lifts old events to their current form. Every reader of the log reads events through this module.

An event in the log never changes. When the form of its data changes, its class gets a higher `schema_version`
and, in `upcasts`, a function that computes the new form from the old one. A reader applies these functions, one
version at a time. So handlers, projections, and the queries of the audit know only the current form.
"""

import re
from collections.abc import Mapping, Sequence

from pydantic_core import from_json, to_json

from eventspine.event import Event, NotAnEvent, decode
from eventspine.log import Record

IS_OLD = "schema_version < coalesce((%(current)s::jsonb->>type)::integer, 0)"
"""SQL about a row of the outbox: it has to be lifted. `current` is the newest version of each type, as JSON."""

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


def read_events(event_class: type[Event], records: Sequence[Record]) -> list[Event]:
    """Decode many records of one type. Raises `NotAnEvent` if one of them can't be decoded."""
    current = str(event_class.schema_version)
    return decode(
        event_class,
        [
            record.value or b""
            if record.headers.get("ce_dataversion") == current
            else lifted(event_class, record.headers, record.value or b"")
            for record in records
        ],
    )


def lifted(event_class: type[Event], headers: Mapping[str, str], data: bytes) -> bytes:
    """The data in its current form. A record without `ce_dataversion` has version 1.

    Raises `NotAnEvent`.
    """
    named = headers.get("ce_dataversion", "1")
    if not _VERSION.fullmatch(named):
        raise NotAnEvent("its header ce_dataversion is not a version")
    version, current = int(named), event_class.schema_version
    if version > current:
        raise NotAnEvent(
            f"it is a {event_class.type} of schema version {version}, and this reader knows versions up to"
            f" {current}: deploy a release that knows it, then `shop parked retry`"
        )
    return data if version == current else upcast(event_class, version, data)


def upcast(event_class: type[Event], version: int, data: bytes) -> bytes:
    """The data of an older version in its current form. Raises `NotAnEvent`."""
    try:
        fields = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise _not_of(event_class, version, f"ValueError: {error}") from error
    try:
        for each in range(version, event_class.schema_version):
            fields = event_class.upcasts[each](fields)
        return to_json(fields)
    except Exception as error:  # any writer may have written the data, and upcasts do not check it
        reason = type(error).__name__
        # The text of other errors may quote a value, which must not get into the log.
        if isinstance(error, (KeyError, TypeError, AttributeError)):
            reason += f": {error}"
        raise _not_of(event_class, version, reason) from error


def _not_of(event_class: type[Event], version: int, reason: str) -> NotAnEvent:
    return NotAnEvent(f"its data is not a {event_class.type} of schema version {version}: {reason}")
