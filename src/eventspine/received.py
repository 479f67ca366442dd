"""An event with its envelope: what a handler gets."""

from contextlib import suppress
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from eventspine.context import Context, from_headers
from eventspine.event import Event
from eventspine.log import Record

Published = TypeVar("Published", bound=Event, covariant=True)  # noqa: PLC0105 - a field's type


class Received(NamedTuple, Generic[Published]):
    """An event with its envelope, as handlers get it."""

    event: Published
    position: int
    """The number of the event among all events of its source: 1, 2, 3, … without gaps."""
    record: Record
    """The record in the log: topic, partition, offset, headers."""

    @property
    def source(self) -> str:
        """The service that published it, such as `/users`."""
        return self.record.headers["ce_source"]

    @property
    def time(self) -> datetime | None:
        """When it was published, by the clock of the publisher's database; None if the header is malformed."""
        with suppress(KeyError, ValueError):
            return datetime.fromisoformat(self.record.headers["ce_time"])
        return None

    @property
    def context(self) -> Context:
        """The context of the request that caused it. A handler that publishes passes it on."""
        return from_headers(self.record.headers)
