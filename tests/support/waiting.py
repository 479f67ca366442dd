"""Waiting for a condition: until it holds, and never longer than a deadline.

Both give what was found, as soon as it is true of anything. A test that waits for a fixed time
fails on a busy machine or wastes time on an idle one.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

Found = TypeVar("Found")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
"""Seconds. What takes long is asked less and less often, so that it is not kept from its work."""


def until(found: Callable[[], Found], what: str = "it", timeout: float = 30) -> Found:
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
    found: Callable[[], Awaitable[Found]], within: float = 30.0, what: str = "it"
) -> Found: ...


@overload
async def eventually(
    found: Callable[[], Found], within: float = 30.0, what: str = "it"
) -> Found: ...


async def eventually(found: Callable[[], object], within: float = 30.0, what: str = "it") -> object:
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
