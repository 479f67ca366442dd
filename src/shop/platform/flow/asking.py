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
        none = NoAnswer(f"no answer within {WITHIN:g} s")
        if self._under_way is not None:
            # Its answer would be old. So it only has to end before the next is asked.
            late = self._under_way
            if not (await asyncio.wait([late], timeout=WITHIN))[0]:
                return NoAnswer("no answer")
            self._under_way = None
            if not late.cancelled() and (error := late.exception()) is not None:
                # It says why, if the next question gets no answer in time either.
                none = _no_answer(error)
        # It is under way also if this is cancelled meanwhile, so that `close` ends it.
        task = self._under_way = asyncio.ensure_future(self._ask(*about))
        done, _ = await asyncio.wait([task], timeout=WITHIN)
        if not done:
            return none
        self._under_way = None
        try:
            return task.result()
        except Exception as error:  # noqa: BLE001 - what is not expected is raised again
            return _no_answer(error)

    async def close(self) -> None:
        if self._under_way is not None:
            self._under_way.cancel()
            # Its error would otherwise be logged as one that nobody saw.
            await asyncio.gather(self._under_way, return_exceptions=True)


def _no_answer(error: BaseException) -> NoAnswer:
    """Raises an error that is none of the server's."""
    match error:
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn():
            missing = error.diag.message_primary
            return NoAnswer(f"the database is not migrated ({missing}); run `shop migrate`")
        case SpineError() | LogUnavailable() | psycopg.Error() | OSError() | EOFError():
            return NoAnswer(" ".join(str(error).split()) or type(error).__name__)
    raise error
