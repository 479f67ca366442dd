"""The recorded examples of every version of every event, as they are in the log."""

import json
from typing import Any, NamedTuple

from devstack.contracts import Contracts, example_record, packages
from eventspine.event import Event
from eventspine.log import Record


class Golden(NamedTuple):
    """An example that is recorded, of one version of a type of event."""

    event_class: type[Event]
    record: Record
    is_current: bool

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.record.value or b"")
        return data


def _golden(found: Contracts, type_: str, version: int) -> Golden:
    schema = json.loads(found.schema(type_, version).read_text())
    example = json.loads(found.example(type_, version).read_text())
    event_class = found.events[type_]
    return Golden(
        event_class, example_record(schema, example), version == event_class.schema_version
    )


GOLDEN = {
    f"{type_} {version}": _golden(found, type_, version)
    for found in packages()
    for type_, version in found.recorded()
}
