"""A worker's looks at its database and at the log, every second: gauges, readiness, and word to the APIs.

They are the same looks as those of `shop top` and the console. A scrape shows the last one, and waits for nothing.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from time import monotonic

from eventspine.address import Address
from eventspine.database import Connection, connect, execute, translated
from eventspine.errors import SpineError
from shop.platform.flow import ConsumerFlow, FlowReader, ServiceFlow
from shop.platform.flow.outbox import LOG_AWAY
from shop.platform.telemetry import declared
from shop.platform.telemetry.histogram import Sample
from shop.platform.telemetry.serving import Page

EVERY = 1.0  # seconds


class Looking:
    """`reader` looks at one service, whose database is at `address`."""

    def __init__(self, reader: FlowReader, address: Address) -> None:
        self._reader = reader
        self._address = address
        self._found: ServiceFlow | None = None
        self._looked_at = monotonic()
        self._telling: Connection | None = None
        """The session that holds the lock which says that the log is away."""

    async def run(self) -> None:
        """Never returns. Cancel it to stop."""
        try:
            async for flow in self._reader.looks(EVERY):
                [self._found] = flow.services
                self._looked_at = monotonic()
                await self._tell(log_away=bool(self._log_trouble()))
        finally:
            await self._quiet()
            await self._reader.close()

    def samples(self) -> Iterator[Sample]:
        """What the last look found. What it could not read is missing, and never an old number."""
        yield Sample(declared.LOOKED, (), monotonic() - self._looked_at)
        found = self._found
        if found is None:
            return
        up = found.database == "well"
        yield Sample(declared.DATABASE_UP, (), up)
        yield Sample(declared.READY, (), up)
        topics: dict[str, bool] = {}
        if found.log is not None:
            topics[found.log.topic] = found.log.state == "well"
        if found.outbox is not None and found.outbox.relay_leads is not None:
            yield Sample(declared.RELAY_LED, (), found.outbox.relay_leads)
            yield Sample(declared.OUTBOX_EVENTS, (), found.outbox.waiting or 0)
            yield Sample(declared.OUTBOX_SECONDS, (), found.outbox.waiting_seconds or 0.0)
        if up:
            topics.update({each.topic: each.state != "away" for each in found.consumers})
            yield from _parked(found.consumers)
        for topic, answers in topics.items():
            yield Sample(declared.LOG_UP, (topic,), answers)
        for each in found.consumers:
            yield from _lag(each)

    async def ready(self, _: Mapping[str, str]) -> Page:
        """503 while the database is away. A log that is away is said, and does not make the worker unready:
        nothing is lost, and a restart would not help.
        """
        found = self._found
        if found is None:
            return _json(503, {"status": "not ready", "detail": "the first look is under way"})
        if found.database != "well":
            return _json(
                503, {"status": "not ready", "detail": f"the database is away: {found.says}"}
            )
        if trouble := self._log_trouble():
            detail = f"the event log is away: {trouble}"
            return _json(200, {"status": "ready", "events": "waiting", "detail": detail})
        if found.outbox is not None and found.outbox.state != "well":
            detail = found.outbox.says
            return _json(200, {"status": "ready", "events": "waiting", "detail": detail})
        return _json(200, {"status": "ready", "events": "flowing"})

    def _log_trouble(self) -> str:
        found = self._found
        if found is None:
            return ""
        if found.log is not None and found.log.state == "away":
            return found.log.says
        if found.database != "well":
            return ""
        return next((each.says for each in found.consumers if each.state == "away"), "")

    async def _tell(self, *, log_away: bool) -> None:
        """Hold the lock as long as the log is away."""
        if not log_away:
            await self._quiet()
            return
        try:
            with translated():
                if self._telling is None:
                    self._telling = await connect(
                        self._address, application_name="eventshop log away"
                    )
                    await execute(self._telling, LOG_AWAY)
                else:
                    await execute(self._telling, "SELECT 1")  # whether the session still exists
        except SpineError:
            await self._quiet()

    async def _quiet(self) -> None:
        telling, self._telling = self._telling, None
        if telling is not None:
            with suppress(Exception):
                async with asyncio.timeout(1.0):
                    await telling.close()


def _parked(consumers: tuple[ConsumerFlow, ...]) -> Iterator[Sample]:
    records = {each.consumer: each.parked for each in consumers if each.parked is not None}
    for consumer, count in records.items():
        yield Sample(declared.PARKED_RECORDS, (consumer,), count)
    for each in consumers:
        if each.parked_keys is not None:
            yield Sample(declared.PARKED_KEYS, (each.consumer, each.topic), each.parked_keys)


def _lag(flow: ConsumerFlow) -> Iterator[Sample]:
    for each in flow.partitions:
        label = (flow.consumer, flow.topic, str(each.partition))
        yield Sample(declared.LAG_RECORDS, label, each.behind)
    if flow.behind_seconds is not None:
        yield Sample(declared.LAG_SECONDS, (flow.consumer, flow.topic), flow.behind_seconds)


def _json(status: int, said: Mapping[str, str]) -> Page:
    return Page(status, "application/json", json.dumps(said).encode())
