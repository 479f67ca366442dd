"""`shop rebuild` of a shop that takes a thousand orders a second, killed in each of its phases."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.support.checker import check
from tests.support.load import Sent
from tests.support.phases import PHASES
from tests.support.rush import Rush
from tests.support.shop import Shop, environment, new_order, new_user
from tests.support.waiting import until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]

A_SECOND = 1000
DAMAGED = "UPDATE customers SET name = 'damaged' WHERE id % 3 = 0"
WRONG = "SELECT count(*) FROM customers WHERE name = 'damaged'"


def test_no_answer_is_wrong_and_in_the_end_each_table_is_right(shop: Shop) -> None:
    sent = [asked(shop.users, "create_user", "/users", new_user()) for _ in range(30)]
    ids = [int(one.answer["id"]) for one in sent]
    until(lambda: shop.rows("orders", "SELECT count(*) FROM customers") == [(30,)], "all are known")
    shop.rows("orders", f"{DAMAGED} RETURNING id")
    first = asked(shop.orders, "place_order", "/orders", new_order(ids[0]))
    sent.append(first)
    with Rush(shop.orders_port, ids, A_SECOND) as rush, reading(shop, first):
        for phase in PHASES:
            assert killed(shop, phase, "before") == -signal.SIGKILL, phase
            # It was killed before the tables changed places.
            assert shop.rows("orders", WRONG) == [(10,)], phase
        assert killed(shop, "tables are locked", "after") == -signal.SIGKILL
        assert shop.rows("orders", WRONG) == [(10,)]
        began = time.monotonic()
        done = shop.run("rebuild", "orders", timeout=120)
        ended = time.monotonic()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the tables were replaced" in done.stdout
        assert shop.rows("orders", WRONG) == [(0,)]
    print(f"{rush.rate(began, ended):.0f} orders a second during the last rebuild; {done.stdout}")
    # Those that waited behind too many others were told so.
    assert {one.status for one in rush.sent} <= {201, 503}, rush.refused()
    faults = check(shop.sources(), [*sent, *rush.sent])
    assert not faults, "\n".join(faults)
    compared = shop.run("rebuild", "orders", "--dry-run", timeout=120)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    audited = shop.run("audit", timeout=120)
    assert audited.returncode == 0, audited.stdout + audited.stderr


def asked(client: httpx.Client, action: str, path: str, body: Mapping[str, Any]) -> Sent:
    sent_at = time.monotonic()
    answer = client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return Sent(action, body, 201, answer.json(), sent_at, time.monotonic())  # type: ignore[arg-type]


def killed(shop: Shop, phase: str, when: str) -> int:
    """The exit status of a rebuild that is killed in this phase."""
    command = [sys.executable, "-m", "tests.support.phases", phase, when]
    command += ["rebuild", "orders", "--data", str(shop.data)]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=120, check=False)
    return done.returncode


@contextmanager
def reading(shop: Shop, order: Sent) -> Iterator[None]:
    """All the time the order is read as it was placed."""
    stopping = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{shop.orders_port}", timeout=30) as client:
            while not stopping.is_set():
                answer = client.get(f"/orders/{order.answer['id']}")
                if answer.status_code != 200 or answer.json() != order.answer:
                    wrong.append(f"{answer.status_code} {answer.text}")
                time.sleep(0.005)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    assert not wrong, wrong[:3]
