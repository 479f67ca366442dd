"""Whatever is killed or frozen while clients buy: nothing is lost, and nothing is there twice.

One shop lives through all of it, and after each blow everything that was ever sent to it is
judged again (see `checker`).
"""

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.e2e.checker import check
from tests.e2e.load import Load, Outcome, Sent
from tests.e2e.shop import PARTS, Shop, gone, until

SOME = 60  # orders: enough that a blow falls among many
FROZEN = 3.0  # seconds: longer than PostgreSQL lets a session idle in a transaction


class Witnessed:
    """The shop, and all that clients ever sent to it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.sent: list[Sent] = []
        self._loads = 0

    @contextmanager
    def load(self) -> Iterator[Load]:
        self._loads += 1
        load = Load(
            self.shop.users_port, self.shop.orders_port, name=f"load{self._loads}", seed=self._loads
        )
        try:
            with load:
                load.until(SOME)
                yield load
        finally:
            self.sent += load.sent

    def check(self) -> None:
        faults = check(self.shop.sources(), self.sent)
        assert not faults, "\n".join(faults)


@pytest.fixture(scope="module")
def witnessed(shop: Shop) -> Witnessed:
    return Witnessed(shop)


@pytest.mark.parametrize("victim", [*PARTS, "postgres"])
def test_kill_9_loses_nothing_and_repeats_nothing(witnessed: Witnessed, victim: str) -> None:
    with witnessed.load() as load:
        kill(witnessed.shop, victim)
        load.until(SOME)
    witnessed.check()
    if victim == "orders-api":
        assert any(sent.outcome is Outcome.UNKNOWN for sent in load.sent)
    if victim.endswith("-worker"):
        assert all(sent.outcome is not Outcome.UNKNOWN for sent in load.sent)


def test_kill_9_of_a_backend_restarts_postgres_and_loses_nothing(witnessed: Witnessed) -> None:
    with witnessed.load() as load:
        witnessed.shop.backends("orders")[0].kill()
        load.until(SOME)
    witnessed.check()


def test_connections_that_are_terminated_again_and_again_cost_no_order(
    witnessed: Witnessed,
) -> None:
    with witnessed.load() as load:
        for _ in range(15):
            terminate_connections(witnessed.shop)
            load.until(SOME // 6)
    witnessed.check()


@pytest.mark.parametrize("victim", ["orders-api", "orders-worker"])
def test_frozen_and_thawed_it_goes_on(witnessed: Witnessed, victim: str) -> None:
    with witnessed.load() as load:
        freeze(witnessed.shop, victim)
        load.until(SOME)
    witnessed.check()
    assert all(sent.outcome is not Outcome.UNKNOWN for sent in load.sent)


def test_one_blow_after_the_other(witnessed: Witnessed) -> None:
    shop = witnessed.shop
    blows: Sequence[Callable[[], None]] = [
        *(lambda part=part: kill(shop, part) for part in (*PARTS, "postgres")),  # type: ignore[misc]
        lambda: terminate_connections(shop),
        lambda: freeze(shop, "users-worker"),
        lambda: shop.backends("users")[0].kill(),
    ]
    with witnessed.load() as load:
        for blow in random.Random(2).sample(blows, len(blows)):
            blow()
            load.until(SOME // 6)
    witnessed.check()


def test_ctrl_c_stops_everything_and_the_next_start_finds_it(witnessed: Witnessed) -> None:
    shop = witnessed.shop
    with witnessed.load():
        processes = shop.processes()
        began = time.monotonic()
        assert shop.up.stop(signal.SIGINT) == 0
        took = time.monotonic() - began
    assert took < 5
    assert gone(processes)
    assert "eventshop has stopped" in shop.up.output.lines[-1]
    shop.start()
    witnessed.check()


def test_kill_9_of_the_command_leaves_nothing_behind_and_the_next_start_finds_it(
    witnessed: Witnessed,
) -> None:
    shop = witnessed.shop
    with witnessed.load():
        processes = shop.processes()
        shop.up.stop(signal.SIGKILL)
        # At once, as somebody in a hurry does: it waits for what is still leaving.
        shop.start()
    began = time.monotonic()
    left = [each.cmdline() for each in processes if each.is_running()]
    until(lambda: gone(processes), f"gone: {left}", timeout=20)
    print("LEFT", left, time.monotonic() - began)
    witnessed.check()


def kill(shop: Shop, part: str) -> None:
    """And wait until it is there again."""
    said = len(shop.up.output.lines)
    shop.part(part).kill()
    shop.up.output.until(f"{part} ended: killed by SIGKILL", after=said)
    shop.up.output.until(f"{part} is ready again", after=said)


def freeze(shop: Shop, part: str) -> None:
    process = shop.part(part)
    process.suspend()
    until(lambda: process.status() == "stopped", f"{part} is frozen")
    time.sleep(FROZEN)
    process.resume()


def terminate_connections(shop: Shop) -> None:
    shop.rows(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s)",
        ["users", "orders", "log"],
    )
