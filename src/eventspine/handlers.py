"""Which function handles which event, and how events are grouped for it.

A service's handlers are one readable map:

    Handlers("orders", {UserCreated: customers_changed, UserErased: customers_changed})

A handler takes a *sequence* of events, each with its envelope (`Received`). So the same function applies one
live event or ten thousand replayed ones, in a statement or two. It may publish. In one call every key occurs at
most once, and the events of a key are handed over in order.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from eventspine.event import Event
from eventspine.outbox import Transaction

if TYPE_CHECKING:
    from eventspine.reading import Received

Item = TypeVar("Item")

# The argument is a sequence of `Received` of exactly those events that the map names for the function;
# a type that said so would need one overload for every number of them.
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
                    "whose positions can't be compared: give each source a topic of its own"
                )

    @property
    def topics(self) -> list[str]:
        return sorted(self._sources)

    def event_class(self, topic: str, type_: str) -> type[Event] | None:
        """None for an event that this consumer has no use for."""
        return self._classes.get((topic, type_))

    def knows_source(self, topic: str, source: str) -> bool:
        """Positions can only be compared within a source, so a topic carries one."""
        return source == self._sources[topic]

    async def apply(self, tx: Transaction, received: Sequence["Received[Any]"]) -> None:
        """Hand the events, in the order of the log, to their functions."""
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
    """What an event is about. Events of one key are handled in order."""
    return received.event.topic, received.event.id


def waves(items: Iterable[Item], *, key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Cut a sequence so that the n-th item of each key stands in the n-th wave.

    Taken wave by wave, no key is out of order and none stands twice in a wave. Order *between*
    keys is given up: that is what makes the groups big.
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
