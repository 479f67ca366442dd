"""Which function handles which event, and how events are grouped for it.

A service's handlers are one readable map:

    Handlers("orders", {UserCreated: customers_changed, UserErased: customers_changed})

A handler takes a *sequence* of events, each with its envelope (`Received`). So the same function applies one
live event or ten thousand replayed ones, in a statement or two. It may publish. In one call every key occurs at
most once, and the events of a key are handed over in order.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from eventspine.event import Event
from eventspine.outbox import Transaction
from eventspine.received import Received

Item = TypeVar("Item")

# The argument is a sequence of `Received` of exactly the events that the map assigns to the function. An exact
# type would need one overload for each number of events.
Handler = Callable[[Transaction, Sequence[Any]], Awaitable[None]]


class Handlers:
    """A consumer's name and its map from event to function."""

    def __init__(self, consumer: str, handlers: Mapping[type[Event], Handler]) -> None:
        self.consumer = consumer
        self._handlers = dict(handlers)
        self._classes = {(event.topic, event.type): event for event in handlers}
        self._sources: dict[str, str] = {}
        for event in handlers:
            source = self._sources.setdefault(event.topic, event.source)
            if source != event.source:
                raise ValueError(
                    f"topic {event.topic} would carry events of {source} and of {event.source}, "
                    "whose positions can't be compared: give each source its own topic"
                )

    @property
    def topics(self) -> list[str]:
        return sorted(self._sources)

    def event_class(self, topic: str, type_: str) -> type[Event] | None:
        """None for an event that this consumer does not handle."""
        return self._classes.get((topic, type_))

    def knows_source(self, topic: str, source: str) -> bool:
        """Whether the source publishes to this topic. A topic has one source, because positions of different
        sources can't be compared.
        """
        return source == self._sources[topic]

    async def apply(self, tx: Transaction, received: Sequence[Received[Any]]) -> None:
        """Pass the events to their functions, in the order of the log."""
        if tx.steps.apply is None:
            await self._apply(tx, received)
        else:
            await tx.steps.apply(tx, received, partial(self._apply, tx, received))

    async def _apply(self, tx: Transaction, received: Sequence[Any]) -> None:
        for wave in waves(received, key=topic_and_id):
            groups: dict[Handler, list[Received[Any]]] = {}
            for one in wave:
                groups.setdefault(self._handlers[type(one.event)], []).append(one)
            for handler, group in groups.items():
                await handler(tx, group)


def topic_and_id(received: Any) -> Hashable:
    """The entity that an event is about. Events of one entity are handled in order."""
    return received.event.topic, received.event.id


def waves(items: Iterable[Item], *, key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Split a sequence so that the n-th item of each key is in the n-th wave.

    A wave has at most one item of each key, and wave by wave the items of a key stay in order. The
    order *between* keys is not kept, so waves are large.
    """
    cut: list[list[Item]] = []
    seen: dict[Hashable, int] = {}
    for item in items:
        of = key(item)
        nth = seen.get(of, 0)
        seen[of] = nth + 1
        if nth == len(cut):
            cut.append([])
        cut[nth].append(item)
    return cut
