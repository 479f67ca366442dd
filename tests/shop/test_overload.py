"""More than it can do: refused at once, in so many words; what was accepted is done and answered."""

import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from shop.platform.http import body
from shop.platform.settings import Settings
from tests.support.databases import NewDatabase
from tests.support.serving import Served, problem, serving, stalled, waits_for_locks
from tests.support.shop import Running, free_ports
from tests.support.shop_events import user_created
from tests.support.waiting import SLOWER, until

ORDER = {"user_id": 1, "product": "tea", "quantity": 1, "total_price": "1.50"}


@pytest.fixture
def url(new_database: NewDatabase, templates: dict[str, str]) -> str:
    return new_database(templates["orders"])


@contextmanager
def closed(url: str, table: str) -> Iterator[None]:
    """While it lasts, the table can't be read."""
    with psycopg.connect(url) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


CONCURRENT = 2
"""Batches of new orders that run at once."""


def are_stuck(served: Served) -> bool:
    """As many batches as may run at once are running, and wait for the head."""
    return waits_for_locks(served) == CONCURRENT


class Clients:
    """Many at once, each on a connection of its own; their answers and the seconds they took."""

    def __init__(self, port: int, most: int = 64) -> None:
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            timeout=20,
            limits=httpx.Limits(max_connections=most),
        )
        self._pool = ThreadPoolExecutor(most)
        self.answered = 0

    def send(
        self, path: str = "/orders", method: str = "POST", body: Any = ORDER
    ) -> "Future[tuple[httpx.Response, float]]":
        return self._pool.submit(self._send, method, path, body)

    def _send(self, method: str, path: str, body: Any) -> tuple[httpx.Response, float]:
        began = time.monotonic()
        response = self._client.request(method, path, json=None if method == "GET" else body)
        seconds = time.monotonic() - began
        self.answered += 1
        return response, seconds

    def close(self) -> None:
        self._pool.shutdown()
        self._client.close()


def start_all_batches(
    served: Served, sending: Clients
) -> "list[Future[tuple[httpx.Response, float]]]":
    """With an order each, as nothing can commit."""
    sent = []
    for count in range(1, CONCURRENT + 1):
        sent.append(sending.send())
        until(lambda count=count: waits_for_locks(served) == count, "its batch waits")
    return sent


@contextmanager
def clients(port: int) -> Iterator[Clients]:
    made = Clients(port)
    try:
        yield made
    finally:
        made.close()


def refused(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["retry-after"] == "1"
    return problem(response, 503, "temporarily-unavailable")


def test_a_request_too_many_is_refused_at_once_and_waiting_ones_are_served(url: str) -> None:
    with serving("orders", url, max_waiting=8) as served, clients(served.port) as sending:
        served.hears(user_created(1))
        with stalled(url):
            first = start_all_batches(served, sending)
            others = [sending.send() for _ in range(40)]
            until(lambda: sending.answered == 32, "all that are too many are answered")
            early = [other.result() for other in others if other.done()]
            # Reads have a queue of their own.
            reading, seconds = sending.send("/orders/1", "GET").result()
            assert reading.status_code == 404
            assert seconds < 1
        for response, seconds in early:
            assert "8 callers are waiting already" in refused(response)["detail"]
            assert seconds < 1
        statuses = [future.result()[0].status_code for future in (*first, *others)]
        assert sorted(statuses) == [201] * 10 + [503] * 32
        assert served.rows("SELECT count(*) FROM orders") == [(10,)]
        # It is over at once.
        assert sending.send().result()[0].status_code == 201


def test_a_request_that_can_only_be_refused_is_refused_before_its_body_comes(url: str) -> None:
    with serving("orders", url, max_waiting=1) as served, clients(served.port) as sending:
        served.hears(user_created(1))
        with stalled(url):
            first = start_all_batches(served, sending)
            others = [sending.send() for _ in range(2)]
            until(lambda: sending.answered == 1, "the queue is full")
            with socket.create_connection(("127.0.0.1", served.port), 20) as connection:
                connection.sendall(
                    b"POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 100\r\n\r\n"
                )
                assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")
        assert [each.result()[0].status_code for each in first] == [201] * CONCURRENT
        assert sorted(each.result()[0].status_code for each in others) == [201, 503]


def test_reads_of_lists_keep_no_write_and_no_health_check_waiting(
    new_database: NewDatabase, templates: dict[str, str]
) -> None:
    users_url = new_database(templates["users"])
    with serving("users", users_url) as served, clients(served.port) as sending:
        new = {"email": "a@b.c", "name": "A"}
        assert sending.send("/users", body=new).result()[0].status_code == 201
        with closed(users_url, "orders"):
            # More than there are connections to the database.
            reading = [sending.send("/users/1/orders", "GET") for _ in range(40)]
            until(lambda: waits_for_locks(served) == 2, "two lists are under way")
            for n in range(10):
                other = {"email": f"{n}@b.c", "name": "B"}
                assert sending.send("/users", body=other).result()[0].status_code == 201
                assert sending.send("/health/ready", "GET").result()[0].status_code == 200
            assert waits_for_locks(served) == 2
            assert sending.answered == 21
        assert [each.result()[0].status_code for each in reading] == [200] * 40


def test_lists_beyond_the_queue_are_refused_at_once(url: str) -> None:
    with serving("orders", url, max_waiting=8) as served, clients(served.port) as sending:
        with closed(url, "orders"):
            reading = [sending.send("/orders", "GET") for _ in range(40)]
            until(lambda: sending.answered == 30, "all that are too many are answered")
            for early in [each for each in reading if each.done()]:
                assert "8 callers are waiting already" in refused(early.result()[0])["detail"]
        statuses = [each.result()[0].status_code for each in reading]
        assert sorted(statuses) == [200] * 10 + [503] * 30


def test_overload_refuses_only_the_surplus(url: str) -> None:
    with serving("orders", url, max_waiting=4) as served, clients(served.port) as sending:
        served.hears(user_created(1))
        answers = [future.result()[0] for future in [sending.send() for _ in range(300)]]
        accepted = [answer for answer in answers if answer.status_code == 201]
        for answer in answers:
            if answer.status_code != 201:
                refused(answer)
        assert accepted
        ids = {answer.json()["id"] for answer in accepted}
        assert {id_ for (id_,) in served.rows("SELECT id FROM orders")} == ids
        assert len(served.events()) == len(ids) == len(accepted)


def test_a_request_whose_turn_does_not_come_in_time_is_refused_and_not_done(url: str) -> None:
    """Though the batches before it go on, and nobody knows for how long."""
    limit = 0.3
    with (
        serving("orders", url, request_timeout_ms=limit * 1000) as served,
        clients(served.port) as sending,
    ):
        served.hears(user_created(1))
        with stalled(url):
            first = start_all_batches(served, sending)
            late = [sending.send() for _ in range(5)]
            for response, seconds in [future.result() for future in late]:
                assert "no turn came in 0.3 s" in refused(response)["detail"]
                assert limit * 0.9 < seconds < limit + SLOWER
            assert are_stuck(served), "they are still under way"
        assert [each.result()[0].status_code for each in first] == [201] * CONCURRENT
        assert sending.send().result()[0].status_code == 201
        assert served.rows("SELECT count(*) FROM orders") == [(CONCURRENT + 1,)]
        assert len(served.events()) == CONCURRENT + 1


def test_a_body_that_does_not_come_is_refused_in_time_and_holds_nothing_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "_BODY_WITHIN", 1.5)
    head = (
        b"POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n{"
    )
    with serving("orders", url) as served, clients(served.port) as sending:
        served.hears(user_created(1))
        # More than there are connections to the database.
        slow = [socket.create_connection(("127.0.0.1", served.port), 10) for _ in range(20)]
        began = time.monotonic()
        for each in slow:
            each.sendall(head)
        # One goes on, a byte at a time: the limit is for the whole.
        dripping = threading.Thread(target=drip, args=(slow[0],))
        dripping.start()
        answered_first = False
        for _ in range(10):
            response, _ = sending.send().result()
            assert response.status_code == 201
            answered_first = answered_first or not select.select(slow, [], [], 0)[0]
        assert answered_first, "an order waited for the bodies"
        dripping.join(10)
        for each in slow:
            answer = b""
            while part := each.recv(65536):
                answer += part
            assert time.monotonic() - began < 1.5 + SLOWER
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"urn:eventshop:problem:request-too-slow" in answer
            assert b"\r\nconnection: close\r\n" in answer.lower()
            each.close()
        assert len(served.events()) == 10


def drip(into: socket.socket) -> None:
    """Until there is an answer."""
    while not select.select([into], [], [], 0.05)[0]:
        into.sendall(b" ")


@contextmanager
def orders_process(url: str, *, drain_ms: int) -> Iterator[tuple[Running, int]]:
    """The order service's API, ready; and its port."""
    (port,) = free_ports(1)
    process = Running(
        "api", "orders",
        SHOP_ORDERS__DATABASE_URL=url, SHOP_ORDERS__PORT=port, SHOP_DRAIN_MS=drain_ms,
        SHOP_LOG_LEVEL="warning",
    )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            until(lambda: is_ready(client), "it is ready")
        yield process, port
        assert process.stop(signal.SIGCONT) == 0, process.output.lines
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()
            process.output.close()


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_is_announced_and_the_second_finishes_accepted_requests(
    url: str, again: signal.Signals
) -> None:
    with (
        orders_process(url, drain_ms=60_000) as (process, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
        psycopg.connect(url, autocommit=True) as connection,
        clients(port) as sending,
    ):
        connection.execute("INSERT INTO customers VALUES (1, 'a@b.c', 'A', 1, false)")
        with stalled(url):
            accepted = sending.send()
            until(lambda: is_blocked(connection), "the order is under way")
            process.process.send_signal(signal.SIGTERM)
            until(lambda: not is_ready(client), "it says that it will stop")
            # Others may not have noticed yet.
            found, _ = sending.send("/orders", "GET").result()
            assert found.json() == {"items": [], "next_cursor": None}
            process.process.send_signal(again)
            until(lambda: refuses(port), "it takes no more")
            assert not accepted.done()
        assert accepted.result()[0].status_code == 201
        assert process.process.wait(60) == 0
        assert connection.execute("SELECT count(*) FROM orders").fetchall() == [(1,)]


@pytest.mark.heavy
def test_an_accepted_request_is_finished_and_answered_even_if_it_is_slow(url: str) -> None:
    with orders_process(url, drain_ms=0) as (process, port), clients(port) as sending:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("INSERT INTO customers VALUES (1, 'a@b.c', 'A', 1, false)")
            with stalled(url):
                sent = time.monotonic()
                accepted = sending.send()
                until(lambda: is_blocked(connection), "the order is under way")
                process.process.send_signal(signal.SIGTERM)
                until(lambda: refuses(port), "it takes no more")
                # A server that only looked at the clock had given up by then. After five seconds PostgreSQL does.
                time.sleep(max(0.0, sent + 4.2 - time.monotonic()))
                assert not accepted.done()
        assert accepted.result()[0].status_code == 201
        assert process.process.wait(60) == 0


def test_a_request_that_is_given_up_is_told_that_it_may_have_been_done(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "finish_within", lambda _: 1)
    with serving("orders", url) as served, clients(served.port) as sending:
        served.hears(user_created(1))
        with stalled(url), closed(url, "orders"):
            listing = sending.send("/orders", "GET")
            placing = sending.send()
            until(lambda: waits_for_locks(served) == 2, "both are under way")
            served.server.should_exit = True
            problem(placing.result()[0], 503, "unknown-outcome")
            refused(listing.result()[0])
        # And it is.
        until(lambda: served.rows("SELECT count(*) FROM orders") == [(1,)], "it is committed")


def test_the_time_in_which_it_goes_on_answering_ends_by_itself(url: str) -> None:
    with orders_process(url, drain_ms=300) as (process, _):
        asked = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(60) == 0
        assert time.monotonic() - asked > 0.3


def is_ready(client: httpx.Client) -> bool:
    try:
        response = client.get("/health/ready")
    except httpx.TransportError:
        return False
    if response.status_code != 200:
        problem(response, 503, "temporarily-unavailable")
    return response.status_code == 200


def is_blocked(connection: psycopg.Connection) -> bool:
    rows = connection.execute(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ).fetchall()
    return bool(rows)


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
