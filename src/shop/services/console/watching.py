"""One look at the flow, twice a second, for all who watch.

The number of viewers changes nothing for the databases and the log: each viewer is given the newest look, and a slow
one skips some. The checkpoints of the last minutes are kept, because no table says *when* a consumer applied an event:
what was seen bounds it from both sides.
"""

import asyncio
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import NamedTuple

from shop.platform.flow import Flow, FlowReader
from shop.platform.settings import NotConfigured, Settings
from shop.services.console.reading import Reading
from shop.services.console.settings import ConsoleSettings

EVERY_S = 0.5

_KEPT_POINTS = 600
"""Of the charts: five minutes."""
_KEPT_STEPS = 2000
"""Of each checkpoint: that many changes, at most."""


class Point(NamedTuple):
    """One look, as the charts show it. None for what is not known."""

    at: float
    """Seconds since 1970."""
    published: float | None
    appended: float | None
    applied: float | None
    """Rates of all services together: events a second."""
    waiting: float | None
    """Events in outboxes that the log does not have yet, and in the log that a consumer has not applied yet."""


class Passed(NamedTuple):
    """When a checkpoint passed a place: not before `after`, and not after `by`."""

    after: datetime
    by: datetime


class _Steps:
    """A number that rises, and when it was first seen at each value."""

    def __init__(self) -> None:
        self._values: deque[int] = deque(maxlen=_KEPT_STEPS)
        self._first: deque[datetime] = deque(maxlen=_KEPT_STEPS)
        self._last: deque[datetime] = deque(maxlen=_KEPT_STEPS)

    def saw(self, at: datetime, value: int) -> None:
        if self._values and value < self._values[-1]:  # another log, or one that was restored
            for each in (self._values, self._first, self._last):
                each.clear()
        if self._values and value == self._values[-1]:
            self._last[-1] = at
            return
        self._values.append(value)
        self._first.append(at)
        self._last.append(at)

    def passed(self, place: int) -> Passed | None:
        """When the number became larger than `place`; None if it is not, or was before the console watched."""
        values = list(self._values)
        found = bisect_right(values, place)
        if found >= len(values):
            return None
        if found == 0:
            return None
        return Passed(self._last[found - 1], self._first[found])


class Watch:
    def __init__(self, settings: Settings, reading: Reading) -> None:
        self._reader = FlowReader(
            list(reading.services.values()), settings, _apis(settings, reading.services)
        )
        self._looked = asyncio.Condition()
        self._number = 0
        self.flow: Flow | None = None
        self.points: deque[Point] = deque(maxlen=_KEPT_POINTS)
        self._applied: defaultdict[tuple[str, str, int], _Steps] = defaultdict(_Steps)
        self._relayed: defaultdict[str, _Steps] = defaultdict(_Steps)
        self._made: dict[str, tuple[int, str]] = {}

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._reader.close()

    async def looks(self) -> AsyncIterator[Flow]:
        """The newest look, and then each new one; those that come too fast for the reader are skipped."""
        seen = 0
        while True:
            async with self._looked:
                while self._number == seen:
                    await self._looked.wait()
                seen, flow = self._number, self.flow
            if flow is not None:
                yield flow

    def made_once(self, name: str, make: Callable[[], str]) -> str:
        """What `make` makes of the newest look, made once for all who are shown it."""
        number, text = self._made.get(name, (0, ""))
        if number != self._number:
            number, text = self._number, make()
            self._made[name] = (number, text)
        return text

    def applied(self, consumer: str, topic: str, partition: int, offset: int) -> Passed | None:
        """When a consumer's checkpoint passed this offset, as far as that was seen."""
        return self._applied[consumer, topic, partition].passed(offset)

    def relayed(self, service: str, position: int) -> Passed | None:
        """When the relay's checkpoint reached this position, as far as that was seen."""
        return self._relayed[service].passed(position - 1)

    async def _watch(self) -> None:
        async for flow in self._reader.looks(EVERY_S):
            self._keep(flow)
            async with self._looked:
                self.flow = flow
                self._number += 1
                self._looked.notify_all()

    def _keep(self, flow: Flow) -> None:
        for service in flow.services:
            if service.outbox is not None and service.outbox.relayed is not None:
                self._relayed[service.name].saw(flow.at, service.outbox.relayed)
            for consumer in service.consumers:
                for lag in consumer.partitions:
                    at = (consumer.consumer, consumer.topic, lag.partition)
                    self._applied[at].saw(flow.at, lag.next_offset)
        self.points.append(_point(flow))


def _point(flow: Flow) -> Point:
    outboxes = [each.outbox for each in flow.services if each.outbox is not None]
    logs = [each.log for each in flow.services if each.log is not None]
    consumers = [each for service in flow.services for each in service.consumers]
    waiting = [*(each.waiting for each in outboxes), *(each.behind for each in consumers)]
    return Point(
        flow.at.timestamp(),
        _sum([each.publish_rate for each in outboxes]),
        _sum([each.rate for each in logs]),
        _sum([each.rate for each in consumers]),
        _sum(waiting),
    )


def _sum(values: "list[float | None] | list[int | None]") -> float | None:
    """Of what is known; None if nothing is."""
    known = [each for each in values if each is not None]
    return round(sum(known), 2) if known else None


def _apis(settings: Settings, services: Mapping[str, object]) -> Mapping[str, str]:
    """The address of each API. Raises `NotConfigured`."""
    said = settings.section(ConsoleSettings).apis
    if said:
        found = {}
        for each in said.split(","):
            name, _, url = each.strip().partition("=")
            if name not in services or not url.startswith(("http://", "https://")):
                raise NotConfigured(
                    f"SHOP_CONSOLE__APIS: {each.strip()!r} is not like orders=http://orders-api:8002"
                )
            found[name] = url
        return found
    if settings.env == "production":
        return {}
    host = "127.0.0.1" if settings.host in {"localhost", "0.0.0.0"} else settings.host  # noqa: S104 - compared
    host = f"[{host}]" if ":" in host else host
    return {name: f"http://{host}:{settings.service(name).port}" for name in services}
