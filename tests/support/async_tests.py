"""How `async def test_…` is run: by anyio's plugin, on asyncio, and not for ever."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

SECONDS = 150.0
"""An async test may take this long: each example, where Hypothesis makes them. With a mark
`timeout` it may take a little less than the mark says, so that it is cancelled and cleans up."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    mark = pyfuncitem.get_closest_marker("timeout")
    seconds = mark.args[0] - 10.0 if mark else SECONDS
    test = pyfuncitem.obj
    examples = getattr(test, "hypothesis", None)
    if examples and inspect.iscoroutinefunction(examples.inner_test):
        examples.inner_test = _limited(examples.inner_test, seconds)
    elif inspect.iscoroutinefunction(test):
        pyfuncitem.obj = _limited(test, seconds)


def _limited(test: Callable[..., Awaitable[None]], seconds: float) -> Callable[..., Any]:
    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return limited
