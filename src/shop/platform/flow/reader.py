"""Looks at the flow: asks all places at once, and compares with the looks before."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from eventspine.log import EventLog
from shop.platform.event_log import database_address, open_event_log
from shop.platform.flow.asking import Asking, NoAnswer
from shop.platform.flow.model import (
    BEHIND_AFTER,
    STUCK_AFTER,
    Api,
    ConsumerFlow,
    Flow,
    LogFlow,
    Outbox,
    PartitionLag,
    ServiceFlow,
    State,
)
from shop.platform.flow.pace import Pace, Standstill
from shop.platform.flow.places import (
    InDatabase,
    InLog,
    ServiceDatabase,
    Topic,
    age_of,
    not_ready,
)
from shop.platform.service import Service
from shop.platform.settings import Settings

_NO_LEADER_FOR = 1.5
"""Seconds without a relay's leader, after which that is trouble. A new worker takes over within one."""


@dataclass
class _Place:
    """A service, and what is asked about it."""

    service: Service
    consumers: tuple[tuple[str, str], ...]
    """Each consumer with each of its topics."""
    database: ServiceDatabase
    asking_database: Asking[InDatabase]
    asking_api: Asking[str] | None
    url: str


class FlowReader:
    """Opens one connection to each service's database, and those of the log.

    `apis` are the base URLs of the services' APIs by name; one that is missing is not asked. A `log` that is given is
    used, and stays open. Use it in one event
    loop.
    """

    def __init__(
        self,
        services: Sequence[Service],
        settings: Settings,
        apis: Mapping[str, str] | None = None,
        log: EventLog | None = None,
    ) -> None:
        self._own_log = log is None
        self._log: EventLog = open_event_log(settings) if log is None else log
        self._log_kind = settings.event_log
        self._places = [_place(each, settings, (apis or {}).get(each.name)) for each in services]
        topics = dict.fromkeys(each.topic for each in services if each.topic)
        for place in self._places:
            topics.update(dict.fromkeys(topic for _, topic in place.consumers))
        self._asking_topics = {topic: Asking(Topic(self._log, topic).ask) for topic in topics}
        self._paces: defaultdict[tuple[str, ...], Pace] = defaultdict(Pace)
        self._standstills: defaultdict[tuple[str, ...], Standstill] = defaultdict(Standstill)
        self._led: set[str] = set()
        """The services whose relay has had a leader."""
        self._asking_ages: dict[tuple[str, str], Asking[float | None]] = {}

    async def look(self) -> Flow:
        """The flow now. Takes at most a few seconds, even if nothing answers; raises nothing."""
        in_databases, in_topics, ready = await asyncio.gather(
            asyncio.gather(*(place.asking_database.answer() for place in self._places)),
            asyncio.gather(*(asking.answer() for asking in self._asking_topics.values())),
            asyncio.gather(*(_ready(place.asking_api) for place in self._places)),
        )
        in_log = dict(zip(self._asking_topics, in_topics, strict=True))
        now = time.monotonic()
        services = [
            self._service(place, found, in_log, api, now)
            for place, found, api in zip(self._places, in_databases, ready, strict=True)
        ]
        return Flow(datetime.now(UTC), self._log_kind, tuple(await asyncio.gather(*services)))

    async def looks(self, every: float = 1.0) -> AsyncIterator[Flow]:
        """Look after look, without an end: one every so many seconds, or as soon as the one before is done."""
        while True:
            began = time.monotonic()
            yield await self.look()
            await asyncio.sleep(max(0.0, every - (time.monotonic() - began)))

    async def close(self) -> None:
        """Close the connections."""
        for place in self._places:
            await place.asking_database.close()
            if place.asking_api is not None:
                await place.asking_api.close()
            await place.database.close()
        for asking in self._asking_topics.values():
            await asking.close()
        for age in self._asking_ages.values():
            await age.close()
        if self._own_log:
            await self._log.close()

    async def _service(
        self,
        place: _Place,
        found: InDatabase | NoAnswer,
        in_log: Mapping[str, InLog | NoAnswer],
        ready: str | NoAnswer | None,
        now: float,
    ) -> ServiceFlow:
        service = place.service
        known = None if isinstance(found, NoAnswer) else found
        consumers = await asyncio.gather(
            *(
                self._consumer(name, topic, known, in_log[topic], now)
                for name, topic in place.consumers
            )
        )
        return ServiceFlow(
            service.name,
            service.title,
            "well" if known else "away",
            self._outbox(service, known, now) if service.topic else None,
            self._topic(service.topic, in_log[service.topic], now) if service.topic else None,
            tuple(consumers),
            None if ready is None else _api(place.url, ready),
            found.why if isinstance(found, NoAnswer) else "",
        )

    def _outbox(self, service: Service, found: InDatabase | None, now: float) -> Outbox:
        published = self._pace(now, found.published if found else None, service.name, "published")
        relayed = self._pace(now, found.relayed if found else None, service.name, "relayed")
        if found is None:
            return Outbox("away")
        waiting = max(0, found.published - found.relayed)
        still = self._still(now, found.relayed, service.name, "relay", waits=waiting > 0)
        # Not at once: a new worker may be taking over. But if none has led so far, none is.
        leaderless = self._still(now, 0, service.name, "lead", waits=not found.relay_leads)
        if found.relay_leads:
            self._led.add(service.name)
        state: State = "well"
        says = ""
        if leaderless >= _NO_LEADER_FOR or not (found.relay_leads or service.name in self._led):
            state = "stuck"
            says = (
                "no worker feeds the log: none runs, or none can connect; see its log"
                f"{_waiting(waiting)}"
            )
        elif waiting and still >= STUCK_AFTER:
            state, says = "stuck", f"the relay does not move for {still:.0f} s{_waiting(waiting)}"
        elif waiting and found.oldest_seconds >= BEHIND_AFTER:
            state = "behind"
            says = f"the relay is {found.oldest_seconds:.0f} s behind{_waiting(waiting)}"
        return Outbox(
            state,
            published=found.published,
            relayed=found.relayed,
            waiting=waiting,
            waiting_seconds=found.oldest_seconds if waiting else 0.0,
            publish_rate=published.rate,
            relay_rate=relayed.rate,
            relay_leads=found.relay_leads,
            says=says,
        )

    def _topic(self, topic: str, found: InLog | NoAnswer, now: float) -> LogFlow:
        if isinstance(found, NoAnswer):
            self._pace(now, None, topic, "log")
            return LogFlow(topic, "away", says=found.why)
        records = sum(found.ends.values())
        pace = self._pace(now, records, topic, "log")
        return LogFlow(topic, "well", records, len(found.ends), pace.rate)

    async def _consumer(
        self,
        name: str,
        topic: str,
        found: InDatabase | None,
        in_log: InLog | NoAnswer,
        now: float,
    ) -> ConsumerFlow:
        if found is None:
            self._pace(now, None, name, topic, "applied")
            return ConsumerFlow(name, topic, "away")
        keys, parked = found.held_keys[name].get(topic, 0), found.parked[name]
        if isinstance(in_log, NoAnswer):
            self._pace(now, None, name, topic, "applied")
            return ConsumerFlow(
                name, topic, "away", parked_keys=keys, parked=parked, says=in_log.why
            )
        checkpoints = found.checkpoints.get((name, topic, in_log.identity), {})
        lags = tuple(
            PartitionLag(partition, checkpoints.get(partition, 0), end)
            for partition, end in sorted(in_log.ends.items())
        )
        applied = sum(lag.next_offset for lag in lags)
        behind = sum(lag.behind for lag in lags)
        pace = self._pace(now, applied, name, topic, "applied")
        still = self._still(now, applied, name, topic, waits=behind > 0)
        age = await self._age(name, topic, max(lags, key=lambda lag: lag.behind)) if behind else 0.0
        state: State = "well"
        says = ""
        if still >= STUCK_AFTER:
            state, says = "stuck", f"it does not move for {still:.0f} s{_waiting(behind)}"
        elif keys:
            state = "stuck"
            says = f"{keys} key(s) wait behind a parked event: `shop parked list {name.partition('.')[0]}`"
        elif age is not None and age >= BEHIND_AFTER:
            state, says = "behind", f"it is {age:.0f} s behind{_waiting(behind)}"
        return ConsumerFlow(
            name, topic, state, applied, pace.rate, behind, age, lags, keys, parked, says
        )

    async def _age(self, name: str, topic: str, most: PartitionLag) -> float | None:
        if (name, topic) not in self._asking_ages:
            self._asking_ages[name, topic] = Asking(partial(age_of, self._log, topic))
        age = await self._asking_ages[name, topic].answer(most.partition, most.next_offset)
        return None if isinstance(age, NoAnswer) else age

    def _pace(self, now: float, number: int | None, *of: str) -> Pace:
        pace = self._paces[of]
        pace.saw(now, number)
        return pace

    def _still(self, now: float, moved: int, *of: str, waits: bool) -> float:
        return self._standstills[of].seconds(now, moved, waits=waits)


def _place(service: Service, settings: Settings, url: str | None) -> _Place:
    consumers = tuple(each for each in service.consumers(settings) if each.topics)
    database = ServiceDatabase(database_address(settings, service.name), service, consumers)
    return _Place(
        service,
        tuple((each.consumer, topic) for each in consumers for topic in each.topics),
        database,
        Asking(database.ask),
        Asking(partial(not_ready, url)) if url else None,
        url or "",
    )


async def _ready(asking: Asking[str] | None) -> str | NoAnswer | None:
    return None if asking is None else await asking.answer()


def _api(url: str, ready: str | NoAnswer) -> Api:
    if isinstance(ready, NoAnswer):
        return Api(url, "away", f"{url}: {ready.why}")
    return Api(url, "stuck", f"{url}: {ready}") if ready else Api(url, "well")


def _waiting(count: int) -> str:
    return f"; {count} event(s) wait" if count else ""
