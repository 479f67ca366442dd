"""Whatever is killed or frozen while clients buy: nothing is lost, and nothing is there twice.

One shop lives through all of it, and after each blow everything that was ever sent to it is
judged again (see `checker`).
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import psutil
import pytest

from tests.support.checker import check
from tests.support.examples import heavy
from tests.support.load import Load, Outcome, Sent
from tests.support.shop import Shop, gone
from tests.support.waiting import SLOWER, until

SOME = 50  # orders: enough that a blow falls among many
FROZEN = 3.0  # seconds: longer than PostgreSQL lets a session idle in a transaction


class Witnessed:
    """The shop, and all that clients ever sent to it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.sent: list[Sent] = []
        self._loads = 0

    @contextmanager
    def load(self) -> Iterator[Load]:
        """Clients that are buying when the block begins, and buy until it ends."""
        self._loads += 1
        load = Load(self.shop.ports, name=f"load{self._loads}", seed=self._loads)
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


@pytest.mark.parametrize("victim", ["orders-api", "orders-worker", *heavy("postgres")])
def test_kill_9_loses_nothing_and_repeats_nothing(witnessed: Witnessed, victim: str) -> None:
    with witnessed.load() as load:
        kill(witnessed.shop, victim)
        load.until(SOME)
    witnessed.check()
    unknown = [str(sent) for sent in load.sent if sent.outcome is Outcome.UNKNOWN]
    if victim == "orders-api":
        assert unknown
    if victim.endswith("-worker"):
        assert unknown == []


@pytest.mark.heavy
def test_kill_9_of_a_backend_restarts_postgres_and_loses_nothing(witnessed: Witnessed) -> None:
    with witnessed.load() as load:
        kill_a_backend(witnessed.shop, "orders")
        load.until(SOME)
    witnessed.check()


@pytest.mark.heavy
def test_sessions_that_are_ended_again_and_again_cost_no_order(witnessed: Witnessed) -> None:
    """The server may end one between a commit and the answer: done, and yet an error."""
    with witnessed.load() as load:
        for _ in range(10):
            end_sessions(witnessed.shop)
            load.until(5)
    witnessed.check()


@pytest.mark.heavy
def test_frozen_and_thawed_they_go_on(witnessed: Witnessed) -> None:
    with witnessed.load() as load:
        freeze(witnessed.shop, "users-worker", "orders-api")
        load.until(SOME)
    witnessed.check()


@pytest.mark.heavy
def test_one_blow_after_the_other(witnessed: Witnessed) -> None:
    shop = witnessed.shop
    blows: Sequence[Callable[[], None]] = [
        partial(kill, shop, "users-api"),
        partial(kill_a_backend, shop, "users"),
        partial(kill, shop, "users-worker"),
        partial(end_sessions, shop),
        partial(kill, shop, "postgres"),
    ]
    with witnessed.load() as load:
        for blow in blows:
            blow()
            load.until(5)
    witnessed.check()


@pytest.mark.heavy
def test_ctrl_c_stops_everything_and_the_next_start_finds_it(witnessed: Witnessed) -> None:
    shop = witnessed.shop
    with witnessed.load():
        processes = shop.processes()
        began = time.monotonic()
        assert shop.up.stop(signal.SIGINT) == 0
        took = time.monotonic() - began
    assert took < 5 + SLOWER
    assert gone(processes)
    assert "eventshop has stopped" in shop.up.output.lines[-1]
    shop.start()
    witnessed.check()


@pytest.mark.heavy
def test_kill_9_of_the_command_leaves_no_process_and_the_next_start_works(
    witnessed: Witnessed,
) -> None:
    shop = witnessed.shop
    with witnessed.load():
        processes = shop.processes()
        shop.up.stop(signal.SIGKILL)
        # At once, as somebody in a hurry does: it waits for what is still leaving.
        shop.start()
    witnessed.check()
    until(lambda: gone(processes), "all that was left behind has ended")


def kill(shop: Shop, part: str) -> None:
    """And wait until it is there again."""
    said = len(shop.up.output.lines)
    shop.part(part).kill()
    shop.up.output.until(f"{part} ended: killed by SIGKILL", after=said)
    shop.up.output.until(f"{part} is ready again", after=said)


def kill_a_backend(shop: Shop, database: str) -> None:
    def killed() -> bool:
        """False if a session ended meanwhile by itself."""
        with suppress(psutil.NoSuchProcess):
            for backend in shop.backends(database):
                backend.kill()
                return True
        return False

    until(killed, "a backend is killed")


def end_sessions(shop: Shop) -> None:
    shop.rows(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s)",
        ["users", "orders", "log"],
    )


def freeze(shop: Shop, *parts: str) -> None:
    processes = [shop.part(part) for part in parts]
    for process in processes:
        process.suspend()
    time.sleep(FROZEN)
    for process in processes:
        process.resume()
