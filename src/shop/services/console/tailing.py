"""The end of the log, read once for all who watch it, and only while somebody does."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import NamedTuple

from eventspine.log import LogUnavailable, Record
from eventspine.seeking import Place
from shop.services.console.quick_log import LogReads
from shop.services.console.records import ends

_EVERY_S = 0.25
_AT_ONCE = 500
"""Records of a partition that are read in one turn. If more have come, the oldest are skipped, and that is said."""
_BATCHES = 20
"""Batches that wait for a slow viewer."""


class News(NamedTuple):
    records: list[Record]
    skipped: int
    """Records that came too fast to be shown."""
    away: str = ""
    """Why the log can't be read."""


class Tail:
    def __init__(self, log: LogReads, topics: list[str]) -> None:
        self._log = log
        self._topics = topics
        self._viewers: set[asyncio.Queue[News]] = set()
        self._next: dict[Place, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def news(self, since: dict[Place, int]) -> AsyncGenerator[News | None, None]:
        """What has come since these offsets, and then what comes; None if nothing came for a second."""
        queue: asyncio.Queue[News] = asyncio.Queue(_BATCHES)
        shown = dict(since)
        self._viewers.add(queue)
        if self._task is None:
            self._next = {}
            self._task = asyncio.create_task(self._run())
        try:
            yield _unseen(await self._missed(shown), shown)
            while True:
                try:
                    async with asyncio.timeout(1.0):
                        news = await queue.get()
                except TimeoutError:
                    yield None
                else:
                    yield _unseen(news, shown)
        finally:
            self._viewers.discard(queue)
            if not self._viewers:
                await self._stop()

    async def close(self) -> None:
        await self._stop()

    async def _missed(self, since: dict[Place, int]) -> News:
        """Between a page and its stream."""
        try:
            return await self._read(dict(since), await ends(self._log, self._topics))
        except LogUnavailable as error:
            return News([], 0, " ".join(str(error).split()))

    async def _run(self) -> None:
        while True:
            try:
                now = await ends(self._log, self._topics)
                if not self._next:
                    self._next = now
                news = await self._read(self._next, now)
            except LogUnavailable as error:
                news = News([], 0, " ".join(str(error).split()))
            if news.records or news.skipped or news.away:
                for queue in self._viewers:
                    _put(queue, news)
            await asyncio.sleep(_EVERY_S)

    async def _read(self, start: dict[Place, int], now: dict[Place, int]) -> News:
        """Moves `start` to the ends. Raises `LogUnavailable`."""
        found: list[Record] = []
        skipped = 0
        for place, end in now.items():
            # Beyond the end: another log has begun.
            at = min(start.get(place, end), end)
            if end - at > _AT_ONCE:
                skipped += end - at - _AT_ONCE
                at = end - _AT_ONCE
            if at < end:
                found += await self._log.read(*place, at, end - at)
            start[place] = end
        found.sort(key=lambda record: record.headers.get("ce_time", ""))
        return News(found, skipped)

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _unseen(news: News, shown: dict[Place, int]) -> News:
    """Without what this viewer was shown before."""
    fresh = []
    for record in news.records:
        place = (record.topic, record.partition)
        if record.offset >= shown.get(place, 0):
            fresh.append(record)
    for record in fresh:
        place = (record.topic, record.partition)
        shown[place] = max(shown.get(place, 0), record.offset + 1)
    return News(fresh, news.skipped, news.away)


def _put(queue: asyncio.Queue[News], news: News) -> None:
    if queue.full():
        late = queue.get_nowait()
        news = News(news.records, news.skipped + late.skipped + len(late.records), news.away)
    queue.put_nowait(news)
