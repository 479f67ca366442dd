"""Asks one thing again and again, and never waits for it longer than a moment."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, NamedTuple, TypeVar

import psycopg

from eventspine.errors import SpineError
from eventspine.log import LogUnavailable

WITHIN = 1.25
"""Seconds. A pool gives up after 1, and says why. With a look every second, trouble is seen within three."""

_Answer = TypeVar("_Answer")


class NoAnswer(NamedTuple):
    """It gave no answer."""

    why: str


class Asking(Generic[_Answer]):
    """A question that is asked at each look.

    A question that is still under way is not asked a second time. So a silent server does not collect
    questions.
    """

    def __init__(self, ask: Callable[..., Awaitable[_Answer]]) -> None:
        self._ask = ask
        self._under_way: asyncio.Future[_Answer] | None = None

    async def answer(self, *about: Any) -> _Answer | NoAnswer:
        """The answer, if it comes in time."""
        if self._under_way is not None:
            # Its answer would be old. So it only has to end before the next is asked.
            late, _ = await asyncio.wait([self._under_way], timeout=WITHIN)
            if not late:
                return NoAnswer("no answer")
            self._under_way = None
        # It is under way also if this is cancelled meanwhile, so that `close` ends it.
        task = self._under_way = asyncio.ensure_future(self._ask(*about))
        done, _ = await asyncio.wait([task], timeout=WITHIN)
        if not done:
            return NoAnswer(f"no answer within {WITHIN:g} s")
        self._under_way = None
        try:
            return task.result()
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            missing = error.diag.message_primary
            return NoAnswer(f"the database is not migrated ({missing}); run `shop migrate`")
        except (SpineError, LogUnavailable, psycopg.Error, OSError, EOFError) as error:
            return NoAnswer(" ".join(str(error).split()) or type(error).__name__)

    async def close(self) -> None:
        if self._under_way is not None:
            self._under_way.cancel()
            # Its error would otherwise be logged as one that nobody saw.
            await asyncio.gather(self._under_way, return_exceptions=True)
