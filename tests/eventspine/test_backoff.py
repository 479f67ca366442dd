"""What is waited for is said once, and again only when it is news."""

import asyncio
import time as time_module
from typing import Any

import pytest

from eventspine.backoff import Backoff


class Lines:
    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, text: str, **about: Any) -> None:
        self.said.append(f"{text}: {about['reason']}")

    def info(self, text: str, **_about: Any) -> None:
        self.said.append(text)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set; nothing waits."""
    time = [1000.0]

    async def at_once(_seconds: float) -> None: ...

    monkeypatch.setattr(time_module, "monotonic", lambda: time[0])
    monkeypatch.setattr(asyncio, "sleep", at_once)
    return time


AWAY = ConnectionError("the log is away")
CUT = ValueError("users/3 was cut")


async def play(now: list[float], *steps: tuple[float, Exception | None]) -> list[str]:
    """Each step: so many seconds later, this failure; or, for None, it works."""
    lines = Lines()
    one = Backoff(lines, "relay")
    for later, failure in steps:
        now[0] += later
        if failure:
            await one.after(failure)
        else:
            one.over()
    return lines.said


WAITS, GOES_ON = "relay.waiting: ConnectionError: the log is away", "relay.recovered"


async def test_the_same_trouble_is_said_once_until_it_is_over(now: list[float]) -> None:
    assert await play(now, *[(1, AWAY)] * 100, (1, None), (1, None)) == [WAITS, GOES_ON]


async def test_another_trouble_is_said_too(now: list[float]) -> None:
    said = await play(now, (1, AWAY), (1, CUT), (1, AWAY), (1, CUT), (1, None))
    assert said == [WAITS, "relay.waiting: ValueError: users/3 was cut", GOES_ON]


async def test_trouble_that_comes_and_goes_every_second_is_not_said_every_second(
    now: list[float],
) -> None:
    assert (await play(now, *[(0.5, CUT), (0.5, None)] * 200))[2:] == []


async def test_trouble_that_comes_back_and_stays_is_said_again(now: list[float]) -> None:
    said = await play(now, (1, AWAY), (1, None), *[(2, AWAY)] * 20, (1, None))
    assert said == [WAITS, GOES_ON, WAITS, GOES_ON]


async def test_trouble_that_comes_back_after_a_while_is_said_again(now: list[float]) -> None:
    assert await play(now, (1, AWAY), (1, None), (100, AWAY)) == [WAITS, GOES_ON, WAITS]
