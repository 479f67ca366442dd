"""Token buckets: how many requests are let through, and how much memory they take."""

from shop.platform.auth.limits import Limits


def test_so_many_at_once_and_then_by_the_rate() -> None:
    limits = Limits(5, seconds=2)
    assert [limits.take("a", 100.0) for _ in range(10)] == [0.0] * 10
    wait = limits.take("a", 100.0)
    assert 0.19 < wait < 0.21
    assert limits.take("a", 100.0 + wait) == 0.0
    assert limits.take("a", 100.0 + wait) > 0


def test_over_a_long_time_it_is_the_rate_and_no_more() -> None:
    limits = Limits(5, seconds=2)
    let = sum(not limits.take("a", n / 100) for n in range(60 * 100))
    assert 5 * 60 <= let <= 5 * 60 + 10


def test_one_does_not_use_up_anothers() -> None:
    limits = Limits(1, seconds=1)
    assert limits.take("a", 1.0) == 0.0
    assert limits.take("a", 1.0) > 0
    assert limits.take("b", 1.0) == 0.0


def test_its_memory_is_bounded_and_who_waits_is_forgotten_last() -> None:
    limits = Limits(1, seconds=10, most=100)
    for n in range(1000):
        limits.take(f"once {n}", float(n))
        assert len(limits) <= 100
    while not limits.take("often", 1000.0):
        pass
    for n in range(80):
        limits.take(f"more {n}", 1000.0)
    assert limits.take("often", 1000.5) > 0


def test_a_slow_rate_lets_one_through() -> None:
    limits = Limits(0.01)
    assert limits.take("a", 1.0) == 0.0
    assert 99 < limits.take("a", 1.0) <= 100
