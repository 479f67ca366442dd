"""When clients are asked back that were refused because a queue is full."""

import pytest

from shop.platform.http import surplus
from shop.platform.http.surplus import A_SECOND_MORE_EACH, LONGEST, Surplus


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(surplus, "monotonic", clock)
    return clock


def refused(route: Surplus, count: int) -> int:
    """Of so many that are refused, the seconds that the last one is asked to wait."""
    answers = [route.answer("full") for _ in range(count)]
    assert answers[-1].status == 503
    return int(dict(answers[-1].headers)["retry-after"])


def test_a_few_that_are_refused_come_back_after_a_second(clock: Clock) -> None:
    route = Surplus()
    for _ in range(5):
        assert refused(route, A_SECOND_MORE_EACH - 1) == 1
        clock.now += 1


def test_the_more_are_refused_the_later_they_come_back(clock: Clock) -> None:
    route = Surplus()
    assert refused(route, A_SECOND_MORE_EACH) == 2
    assert refused(route, 3 * A_SECOND_MORE_EACH) == 5
    clock.now += 1
    assert refused(route, 1) == 5  # as many as in the second before
    assert refused(route, 100 * A_SECOND_MORE_EACH) == LONGEST


@pytest.mark.parametrize("later", [2, 60])
def test_a_surplus_that_is_over_is_forgotten(clock: Clock, later: int) -> None:
    route = Surplus()
    refused(route, 10 * A_SECOND_MORE_EACH)
    clock.now += later
    assert refused(route, 1) == 1
