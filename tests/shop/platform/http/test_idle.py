"""Connections on which nothing is asked: how long they are kept, and what they are closed for."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import httpx
import pytest
import structlog

from shop.platform.http import crowd as crowds
from tests.support.databases import NewDatabase
from tests.support.raw_http import ALIVE, BODY, JSON, Raw, connected, request
from tests.support.serving import Served, serving, stalled, waits_for_locks
from tests.support.waiting import SLOWER, at_best, until


def new_user() -> bytes:
    return request("POST", "/users", JSON, body=BODY % f"{uuid4().hex}@example.com".encode())


def test_a_connection_is_kept_longer_than_balancers_keep_theirs(users: Served) -> None:
    until(lambda: not idle(users), "no other is there")
    with connected(users) as raw:
        assert raw.answers_on()
        until(lambda: idle(users), "it is idle")
        (until_,) = idle(users)
        left = until_ - time.monotonic()
    assert 65 < left <= 75


def idle(served: Served) -> list[float]:
    connections = list(served.server.server_state.connections)
    return [at for c in connections if (at := c.idle_until()) is not None]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def hasty(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
    """It keeps a connection for one second."""
    with serving("users", new_database(templates["users"]), keep_alive_s=1) as served:
        yield served


def test_an_idle_connection_is_closed_in_its_time(hasty: Served) -> None:
    def asked_again_and_again() -> float:
        """The longest pause between two requests. Each request begins the time anew."""
        longest = 0.0
        with connected(hasty) as raw:
            for _ in range(3):
                assert raw.answers_on()
                began = time.monotonic()
                time.sleep(0.5)
                longest = max(longest, time.monotonic() - began)
            if longest < 0.9:
                assert raw.answers_on()
                began = time.monotonic()
                assert raw.is_closed()
                assert 0.9 < time.monotonic() - began < 1 + SLOWER
        return longest

    at_best(asked_again_and_again, 0.9)


def test_a_connection_that_is_being_answered_is_not_idle(hasty: Served) -> None:
    with connected(hasty) as raw:
        with stalled(hasty.database_url):
            raw.send(new_user())
            until(lambda: waits_for_locks(hasty), "the user is under way")
            time.sleep(1.3)  # longer than it keeps an idle one
        assert raw.answer()[0] == 201
        assert raw.answers_on()


@pytest.mark.parametrize("closing", ["timeout_keep_alive_handler", "close_idle", "shutdown"])
def test_a_request_that_has_just_arrived_is_answered_before_its_connection_closes(
    users: Served, closing: str
) -> None:
    """The event loop was busy, and comes to the end of the connection first."""
    connections = users.server.server_state.connections
    until(lambda: not idle(users), "no other is there")
    with connected(users) as raw:
        assert raw.answers_on()
        until(lambda: idle(users), "it is idle")
        (connection,) = (c for c in connections if c.idle_until() is not None)  # type: ignore[union-attr]
        busy, arrived = threading.Event(), threading.Event()

        def close() -> None:
            busy.set()
            assert arrived.wait(60)
            connection.idle_since -= 75  # type: ignore[union-attr]  # its time is over
            getattr(connection, closing)()

        connection.loop.call_soon_threadsafe(close)
        assert busy.wait(60)
        raw.send(new_user())
        time.sleep(0.05)  # in which it gets there
        arrived.set()
        assert raw.answer()[0] == 201
        if closing == "shutdown":
            assert raw.is_closed()
        else:
            assert raw.answers_on()


def test_all_requests_of_a_connection_have_one_task_which_ends_with_it(users: Served) -> None:
    def tasks() -> set[asyncio.Task[object]]:
        found = asyncio.all_tasks(loop)
        return {task for task in found if "_answer_in_turn" in repr(task.get_coro())}

    until(lambda: not idle(users), "no other is there")
    with connected(users) as raw:
        assert raw.answers_on()
        (connection,) = users.server.server_state.connections
        loop = connection.loop
        task = tasks()
        assert raw.answers_on()
        assert tasks() == task
        assert len(task) == 1
    until(lambda: not tasks(), "it has ended")


def test_a_pool_at_its_limit_does_what_it_answered_and_nothing_else(
    hasty: Served,
) -> None:
    """A pool that keeps its connections for longer than the server, and asks at that very moment."""
    sent: list[str] = []
    answered: list[str] = []
    cut: list[str] = []

    def ask(shift: float) -> None:
        with httpx.Client(
            base_url=hasty.client.base_url, limits=httpx.Limits(keepalive_expiry=60), timeout=30
        ) as client:
            for _ in range(3):
                assert client.get("/health/live").status_code == 200
                time.sleep(1 + shift)
                email = f"{uuid4().hex}@example.com"
                sent.append(email)
                try:
                    answer = client.post("/users", json={"email": email, "name": "N"})
                except httpx.TransportError:
                    cut.append(email)
                else:
                    assert answer.status_code == 201
                    answered.append(email)

    shifts = [(n - 10) / 5000 for n in range(20)]  # from 2 ms before to 2 ms after
    asking = [threading.Thread(target=ask, args=(shift,)) for shift in shifts]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    until(lambda: not hasty.server.server_state.tasks, "all is answered")
    made = {email for (email,) in hasty.rows("SELECT email FROM users")} & set(sent)
    assert made == set(answered)
    assert len(sent) == len(answered) + len(cut) == 60


def test_a_stop_closes_idle_connections_and_says_so_with_what_it_still_answers(
    new_database: NewDatabase, templates: dict[str, str]
) -> None:
    database = new_database(templates["users"])
    with ExitStack() as stack:
        served = stack.enter_context(serving("users", database, drain_ms=1500))
        idle_, busy, asking = (stack.enter_context(connected(served)) for _ in range(3))
        for raw in (idle_, busy, asking):
            assert raw.answers_on()
        with stalled(database):
            busy.send(new_user())
            until(lambda: waits_for_locks(served), "the user is under way")
            served.server.should_exit = True
            until(lambda: served.app.stopping, "it is about to stop")
            # Meanwhile it answers, on these connections and on new ones, but no second time.
            for raw in (asking, stack.enter_context(connected(served))):
                raw.send(ALIVE)
                status, headers, _ = raw.answer()
                assert (status, headers["connection"]) == (200, "close")
                assert raw.is_closed()
        status, headers, _ = busy.answer()
        assert (status, headers["connection"]) == (201, "close")
        assert busy.is_closed()
        assert idle_.is_closed()


@pytest.fixture
def small(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
    """It holds three connections."""
    with serving("users", new_database(templates["users"]), max_connections=3) as served:
        yield served


def held(served: Served, count: int) -> None:
    until(lambda: len(idle(served)) == count, f"{count} are idle")


def test_a_newcomer_takes_the_place_of_the_one_that_was_idle_for_the_longest(small: Served) -> None:
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(connected(small)) for _ in range(3))
        for raw in (first, second, third, first):  # so that the second is the one
            assert raw.answers_on()
            time.sleep(0.01)
        held(small, 3)
        with structlog.testing.capture_logs() as logs:
            newcomer = stack.enter_context(connected(small))
            assert newcomer.answers_on()
        assert second.is_closed()
        assert first.answers_on() and third.answers_on() and newcomer.answers_on()
    (line,) = logs
    assert line["event"] == "api.idle_connections_closed"
    assert (line["limit"], line["count"]) == (3, 1)


def test_a_connection_at_work_keeps_its_place(small: Served) -> None:
    with ExitStack() as stack:
        working = [stack.enter_context(connected(small)) for _ in range(3)]
        with stalled(small.database_url), structlog.testing.capture_logs() as logs:
            for raw in working:
                raw.send(new_user())
            connections = small.server.server_state.connections
            # One that has been accepted and not read yet is idle.
            until(lambda: len(connections) == 3 and not idle(small), "all have been read")
            for _ in range(3):
                with connected(small) as newcomer:
                    status, headers, body = newcomer.answer()
                    assert (status, headers["connection"]) == (503, "close")
                    assert headers["retry-after"] == "1"
                    document = json.loads(body)
                    assert document["type"] == "urn:eventshop:problem:temporarily-unavailable"
                    assert document["detail"] == "too many connections"
                    assert newcomer.is_closed()
        assert [raw.answer()[0] for raw in working] == [201] * 3
    (line,) = logs  # once, not for each
    assert line["event"] == "api.connections_refused"
    assert (line["limit"], line["count"]) == (3, 1)
    until(lambda: not small.server.server_state.connections, "they have gone")
    with connected(small) as another:
        assert another.answers_on()


def test_many_newcomers_all_find_room_among_the_idle(
    new_database: NewDatabase, templates: dict[str, str]
) -> None:
    with (
        serving("users", new_database(templates["users"]), max_connections=50) as served,
        ExitStack() as stack,
    ):
        # Twice as many come at once as may be there: nobody is refused for those who only stay.
        for _ in range(4):
            wave = [stack.enter_context(connected(served)) for _ in range(25)]
            for raw in wave:
                assert raw.answers_on()
        assert len(served.server.server_state.connections) <= 50


def test_the_log_is_told_again_later(small: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowds, "_SAY_EVERY", 1000.0)
    with ExitStack() as stack, structlog.testing.capture_logs() as logs:
        for n in range(8):
            newcomer: Raw = stack.enter_context(connected(small))
            assert newcomer.answers_on()
            if n == 6:
                monkeypatch.setattr(crowds, "_SAY_EVERY", 0.0)
    assert [line["count"] for line in logs] == [1, 4]


def test_a_client_that_leaves_at_once_makes_room(small: Served) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", small.port)):
            pass
    until(lambda: not small.server.server_state.connections, "they have gone")
    with connected(small) as raw:
        assert raw.answers_on()
