"""A question that is asked again and again: a server that fails late says why, and no error is lost."""

import asyncio
import gc

import pytest

from eventspine.log import LogUnavailable
from shop.platform.flow import asking
from shop.platform.flow.asking import Asking, NoAnswer


async def test_an_error_that_comes_late_is_the_reason_and_not_one_that_nobody_saw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unseen.append(told))
    monkeypatch.setattr(asking, "WITHIN", 0.05)

    async def ask() -> str:
        await asyncio.sleep(0.07)
        raise LogUnavailable("its certificate can't be verified")

    question = Asking(ask)
    try:
        assert await question.answer() == NoAnswer("no answer within 0.05 s")
        # The first has failed meanwhile, and the second has not yet.
        assert await question.answer() == NoAnswer("its certificate can't be verified")
    finally:
        await question.close()
    gc.collect()
    assert not unseen


async def test_an_error_that_is_no_servers_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "WITHIN", 0.05)

    async def ask() -> str:
        await asyncio.sleep(0.07)
        raise ZeroDivisionError

    question = Asking(ask)
    assert isinstance(await question.answer(), NoAnswer)
    with pytest.raises(ZeroDivisionError):
        await question.answer()
