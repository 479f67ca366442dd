"""Whether an API can work now, and whether its events reach the log."""

import asyncio
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from eventspine.batching import Batcher
from eventspine.database import Database
from eventspine.errors import Unavailable
from shop.platform.flow.outbox import OutboxNow, outbox_now
from shop.platform.http.app import ServiceApp
from shop.platform.settings import Bounds

if TYPE_CHECKING:
    from shop.platform.telemetry.histogram import Sample

_LATE = 3.0
"""Seconds: an event that waits for less is on its way."""

_EVERY = 1.0
"""Seconds between two looks for the metrics."""

_WITHIN = 1.5
"""Seconds after which a database that refuses connections is called away."""


class Readiness:
    """Asks the database in one statement. `source` is that of a service that publishes."""

    def __init__(self, database: Database, source: str, bounds: Bounds) -> None:
        self._database = database
        self._source = source
        # A batcher, so that concurrent questions share one query.
        self.checking: Batcher[None, OutboxNow | None] = Batcher(
            self._ask, **bounds, name="readiness"
        )
        self._ready: bool | None = None
        self._database_up: bool | None = None
        self._outbox: OutboxNow | None = None
        self._looked_at = monotonic()

    async def ask(self) -> dict[str, str]:
        """Raises if the database does not answer. Returns what else is to be said.

        A log or workers that are away do not make an API unready: events wait in the outbox, and nothing is lost.
        """
        self._database_up = False
        asking = asyncio.ensure_future(self.checking.submit(None))
        try:
            done, _ = await asyncio.wait([asking], timeout=_WITHIN)
            # A request would wait a little longer for a connection. One that is only slow is not away.
            if not done and (refusal := self._database.refusal) is not None:
                raise Unavailable(str(refusal))
            self._outbox = await asking
        finally:
            asking.cancel()
        self._database_up = True
        return _said(self._outbox)

    async def look(self, app: ServiceApp) -> None:
        """Ask every two seconds, for the metrics. Never returns."""
        while True:
            self._ready = await app.why_not_ready() is None
            self._looked_at = monotonic()
            await asyncio.sleep(_EVERY)

    def samples(self) -> "Iterator[Sample]":
        from shop.platform.telemetry import declared  # noqa: PLC0415 - only where metrics are on
        from shop.platform.telemetry.histogram import Sample  # noqa: PLC0415

        yield Sample(declared.LOOKED, (), monotonic() - self._looked_at)
        if self._ready is None:
            return
        yield Sample(declared.READY, (), self._ready)
        if self._database_up is not None:
            yield Sample(declared.DATABASE_UP, (), self._database_up)
        if self._outbox is not None and self._database_up:
            yield Sample(declared.RELAY_LED, (), self._outbox.led)
            yield Sample(declared.OUTBOX_EVENTS, (), self._outbox.waiting)
            yield Sample(declared.OUTBOX_SECONDS, (), self._outbox.oldest_seconds)

    async def _ask(self, asked: Sequence[None]) -> Sequence[OutboxNow | None]:
        outbox = None
        try:
            if self._source:
                outbox = await outbox_now(self._database.fetch, self._source)
        except psycopg.ProgrammingError:
            # Tables or rights of this release are missing until `shop migrate` has run. It may work all the same.
            pass
        if outbox is None:
            await self._database.fetch("SELECT 1")
        return [outbox] * len(asked)


def _said(outbox: OutboxNow | None) -> dict[str, str]:
    if outbox is None:
        return {}
    waiting = f"{outbox.waiting} event(s) wait in the outbox"
    if outbox.waiting:
        waiting += f", the oldest for {outbox.oldest_seconds:.0f} s"
    if outbox.log_away:
        return {"events": "waiting", "detail": f"the event log is away: {waiting}"}
    if not outbox.led:
        return {"events": "waiting", "detail": f"no worker feeds the event log: {waiting}"}
    if outbox.oldest_seconds > _LATE:
        return {"events": "waiting", "detail": waiting}
    return {"events": "flowing"}
