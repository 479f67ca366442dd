"""Customers who are waited for: together, in a room of a fixed size."""

import asyncio
from collections.abc import Collection

import pytest

from eventspine.errors import Overloaded, Unavailable
from shop.services.orders.arrivals import Arrivals
from tests.support.waiting import eventually


class Customers:
    """Those who are known, and the questions after them."""

    def __init__(self) -> None:
        self.known: set[int] = set()
        self.asked: list[set[int]] = []
        self.trouble: Exception | None = None

    async def __call__(self, customers: Collection[int]) -> Collection[int]:
        self.asked.append(set(customers))
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble
        return self.known & set(customers)


def waiting(arrivals: Arrivals, customers: Collection[int], seconds: float = 30) -> list[asyncio.Task[bool]]:  # fmt: skip
    until = asyncio.get_running_loop().time() + seconds
    return [asyncio.create_task(arrivals.wait(customer, until)) for customer in customers]


async def looked(customers: Customers, times: int) -> None:
    await eventually(lambda: len(customers.asked) >= times)


async def test_requests_that_wait_at_the_same_time_share_one_query() -> None:
    customers = Customers()
    tasks = waiting(Arrivals(customers, max_waiting=100), [*range(1, 51), *range(1, 51)])
    await looked(customers, 1)
    # It may have been asked again by now, and then for all of them again.
    assert all(asked == set(range(1, 51)) for asked in customers.asked)
    customers.known = set(range(1, 51))
    async with asyncio.timeout(60):
        assert await asyncio.gather(*tasks) == [True] * 100


async def test_a_request_goes_on_when_its_customer_arrives_and_others_wait() -> None:
    customers = Customers()
    customers.known = {1}
    first, second = waiting(Arrivals(customers, max_waiting=2), [1, 2])
    async with asyncio.timeout(60):
        assert await first
    assert not second.done()
    customers.known = {2}
    async with asyncio.timeout(60):
        assert await second


async def test_a_customer_who_stays_away_is_asked_for_less_and_less_and_then_given_up() -> None:
    customers = Customers()
    (task,) = waiting(Arrivals(customers, max_waiting=1), [1], seconds=0.5)
    async with asyncio.timeout(60):
        assert not await task
    assert 2 <= len(customers.asked) <= 25


async def test_one_too_many_is_refused_at_once_and_taken_once_another_has_gone() -> None:
    customers = Customers()
    arrivals = Arrivals(customers, max_waiting=2)
    tasks = waiting(arrivals, [1, 2])
    await looked(customers, 2)
    with pytest.raises(Overloaded, match="2 orders are already waiting for their customers"):
        await arrivals.wait(3, asyncio.get_running_loop().time() + 30)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    customers.known = {2, 3}
    async with asyncio.timeout(60):
        assert await asyncio.gather(tasks[1], *waiting(arrivals, [3])) == [True, True]


async def test_trouble_is_told_to_those_it_met_and_the_next_are_asked_after_again() -> None:
    customers = Customers()
    customers.trouble = Unavailable("away")
    arrivals = Arrivals(customers, max_waiting=1)
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable, match="away"):
            await waiting(arrivals, [1])[0]
        customers.trouble, customers.known = None, {1}
        assert await waiting(arrivals, [1])[0]
        await arrivals.close()


async def test_closing_waits_for_requests_that_wait() -> None:
    customers = Customers()
    arrivals = Arrivals(customers, max_waiting=1)
    (task,) = waiting(arrivals, [1], seconds=0.05)
    await looked(customers, 1)
    async with asyncio.timeout(60):
        await arrivals.close()
    assert task.done() and not task.result()
