"""The event log, for a page: reads alone, and none that a person would wait for in vain."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from eventspine.log import EventLog, LogUnavailable, Record, TopicIdentity
from eventspine.seeking import KnowsWhenAppended

WITHIN_S = 1.5
"""For one read."""
_CALM_S = 1.0
"""After a read that failed, the next ones fail at once for so long: a page makes many."""

Found = TypeVar("Found")


class LogReads(Protocol):
    """What a page needs of a log. All of them raise `LogUnavailable`."""

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]: ...

    async def end_offsets(self, topic: str) -> dict[int, int]: ...

    async def identity(self, topic: str) -> TopicIdentity: ...


class QuickLog:
    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._failed_at = 0.0
        self._why = ""

    async def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        return await self._quickly(lambda: self._log.read(topic, partition, offset, limit))

    async def end_offsets(self, topic: str) -> dict[int, int]:
        return await self._quickly(lambda: self._log.end_offsets(topic))

    async def identity(self, topic: str) -> TopicIdentity:
        return await self._quickly(lambda: self._log.identity(topic))

    async def appended_from(
        self, topic: str, partitions: Sequence[int], time: datetime
    ) -> dict[int, int] | None:
        log = self._log
        if not isinstance(log, KnowsWhenAppended):
            return None
        return await self._quickly(lambda: log.appended_from(topic, partitions, time))

    async def close(self) -> None:
        await self._log.close()

    async def _quickly(self, ask: Callable[[], Awaitable[Found]]) -> Found:
        if self._why and time.monotonic() - self._failed_at < _CALM_S:
            raise LogUnavailable(self._why)
        try:
            async with asyncio.timeout(WITHIN_S):
                found = await ask()
        except TimeoutError:
            self._failed(f"no answer within {WITHIN_S:g} s")
            raise LogUnavailable(self._why) from None
        except LogUnavailable as error:
            self._failed(" ".join(str(error).split()))
            raise
        self._why = ""
        return found

    def _failed(self, why: str) -> None:
        self._failed_at, self._why = time.monotonic(), why
