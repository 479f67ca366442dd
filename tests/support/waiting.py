"""Waiting for a condition: until it holds, and never longer than a deadline.

Both give what was found, as soon as it is true of anything. A test that waits for a fixed time
fails on a busy machine or wastes time on an idle one.

Some tests compare seconds with a promise. A busy machine makes any single try slow. So such a test tries
again (`at_best`), or allows for a slower machine (`SLOWER`) where a fault would take much longer still.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

Found = TypeVar("Found")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
"""Seconds. What takes long is asked less and less often, so that it is not kept from its work."""

SLOWER = 8.0
"""Seconds that a busy machine may need in addition. Less than the ten that most limits of the shop are."""


def at_best(took: Callable[[], float], within: float, tries: int = 8) -> float:
    """The seconds of the first try that took less than `within`. Fails if none did.

    What waits for a timer, a poll or another client is too slow each time; what other programs slow down is not.
    """
    slow: list[float] = []
    for _ in range(tries):
        if (seconds := took()) < within:
            return seconds
        slow.append(round(seconds, 3))
    raise AssertionError(f"each try took more than {within:g} s: {slow}")


async def at_best_async(took: Callable[[], Awaitable[float]], within: float, tries: int = 8) -> float:  # fmt: skip
    """The same, of a coroutine function."""
    slow: list[float] = []
    for _ in range(tries):
        if (seconds := await took()) < within:
            return seconds
        slow.append(round(seconds, 3))
    raise AssertionError(f"each try took more than {within:g} s: {slow}")


def until(found: Callable[[], Found], what: str = "it", timeout: float = 60) -> Found:
    """In a test that is no coroutine; `timeout` is in seconds."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 1.3)
    return result


@overload
async def eventually(
    found: Callable[[], Awaitable[Found]], within: float = 60.0, what: str = "it"
) -> Found: ...


@overload
async def eventually(
    found: Callable[[], Found], within: float = 60.0, what: str = "it"
) -> Found: ...


async def eventually(found: Callable[[], object], within: float = 60.0, what: str = "it") -> object:
    """In a coroutine, of a function or a coroutine function; `within` is in seconds."""
    deadline = time.monotonic() + within
    pause = _FIRST_PAUSE
    while True:
        result = found()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 1.3)
