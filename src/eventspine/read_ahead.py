"""Reads and decodes the next records of a subscription while the last ones are applied.

The log, this process and the database then work at the same time. It reads ahead only if there is a backlog. Otherwise
it would take a record at once that could have been applied together with those that arrive meanwhile.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from eventspine.log import Record, Subscription
from eventspine.reading import AppliedBefore, Checkpoint, Partition, Reading


class Prepared(NamedTuple):
    """Records, and what was decided about them ahead. The decision holds only for the same checkpoints."""

    records: Sequence[Record]
    starts: Mapping[Partition, Checkpoint] = MappingProxyType({})
    earlier: Mapping[str, AppliedBefore | None] = MappingProxyType({})
    reading: Reading | None = None

    def still_right(
        self, checkpoints: Mapping[Partition, Checkpoint], earlier: Mapping[str, AppliedBefore]
    ) -> Reading | None:
        """The decision, or None if it was made from other checkpoints or another earlier log."""
        same = all(checkpoints.get(at) == start for at, start in self.starts.items())
        same = same and all(earlier.get(topic) is one for topic, one in self.earlier.items())
        return self.reading if same else None


class ReadAhead:
    """A subscription, of which one `poll` may be running. While it is, call nothing of it but `commit`."""

    def __init__(
        self, subscription: Subscription, prepare: Callable[[Sequence[Record]], Prepared]
    ) -> None:
        self.subscription = subscription
        self._prepare = prepare
        self._reading: asyncio.Task[Prepared] | None = None
        self.dropped: list[Record] = []
        """Records that were read ahead and dropped. The subscription has passed them, so seek back to them."""

    def begin(self, most: int) -> None:
        """Begin to read and decode. The next `poll` returns the result."""
        self._reading = asyncio.create_task(self._ahead(most))

    async def poll(self, most: int) -> Prepared:
        """What was read ahead, which may be more than `most`; or else up to `most` records. Waits a second."""
        reading, self._reading = self._reading, None
        return await reading if reading else Prepared(await self._poll(most))

    async def stop(self) -> None:
        """Stop to read ahead, and drop what was read."""
        reading, self._reading = self._reading, None
        if reading is None:
            return
        while not reading.done():
            # Again, because a query that fails at that very moment may swallow a cancellation.
            reading.cancel()
            await asyncio.wait([reading], timeout=1.0)
        # If an error lasts, a later `poll` raises it again.
        if not reading.cancelled() and reading.exception() is None:
            self.dropped += reading.result().records

    async def close(self) -> None:
        try:
            await self.stop()
        finally:
            await self.subscription.close()

    async def _ahead(self, most: int) -> Prepared:
        records = await self._poll(most)
        try:
            return self._prepare(records)
        except Exception:  # noqa: BLE001 - it fails again in its turn, and until then no record may be lost
            return Prepared(records)

    async def _poll(self, most: int) -> list[Record]:
        return await self.subscription.poll(most, timeout=1.0)
