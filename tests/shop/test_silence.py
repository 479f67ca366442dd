"""A service whose database says nothing any more, and closes nothing."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from devstack.postgres import LocalPostgres
from eventspine.database import Connection, Database
from shop.platform import discovery
from shop.platform.processes import api as api_process
from shop.platform.settings import BODY_WITHIN, TRANSACTION_WITHIN, Settings
from tests.support.proxy import Proxy
from tests.support.serving import problem, serving, settings_of
from tests.support.waiting import SLOWER, until

USER = {"email": "ann@example.com", "name": "Ann"}


@pytest.fixture
def proxy(postgres: LocalPostgres) -> Iterator[Proxy]:
    with Proxy(str(postgres.socket_dir / ".s.PGSQL.5432")) as proxy:
        yield proxy


@pytest.fixture
def url(proxy: Proxy, users_url: str) -> str:
    """By way of the proxy."""
    name = psycopg.conninfo.conninfo_to_dict(users_url)["dbname"]
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"


def test_a_request_is_refused_in_time_and_the_next_are_answered_once_it_is_back(
    proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "silent_after", 0.5)
    with serving("users", url) as served:
        assert served.client.get("/health/ready").status_code == 200
        proxy.hold()
        began = time.monotonic()
        problem(served.client.post("/users", json=USER), 503, "temporarily-unavailable")
        # The silence, and then, since the time for it is not over, a wait for another connection.
        assert time.monotonic() - began < 0.5 + 2.0 + SLOWER
        proxy.heal()

        def is_created() -> bool:
            return served.client.post("/users", json=USER).status_code == 201

        until(is_created, "a user is created")
        assert len(served.events()) == 1


def test_the_process_ends_in_its_time_though_its_work_does_not(
    proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever it is that a request waits for, and whether or not that has a limit.
    monkeypatch.setattr(Connection, "silent_after", 60.0)
    monkeypatch.setattr(api_process, "TRANSACTION_WITHIN", 60)
    monkeypatch.setattr(Settings, "finish_within", lambda _: 2)
    settings = settings_of("users", url)
    app = api_process.make_app(discovery.load("users"), settings)
    server = api_process.Server(app, settings)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        running = threading.Thread(target=server.run, args=([listener],), daemon=True)
        running.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        until(lambda: server.started, "it has started")
        with httpx.Client(base_url=address, timeout=20) as client:
            until(lambda: client.get("/health/ready").status_code == 200, "it is ready")
            proxy.hold()
            moved = proxy.moved
            creating = pool.submit(client.post, "/users", json=USER)
            until(lambda: proxy.moved > moved, "it is under way")
            asked = time.monotonic()
            server.should_exit = True
            problem(creating.result(), 503, "unknown-outcome")
            running.join(30)
            assert not running.is_alive()
            # Two seconds to finish, one for the pool, and the rest.
            assert time.monotonic() - asked < 3 + SLOWER


def test_a_requests_longest_wait_fits_into_the_time_to_stop() -> None:
    settings = Settings()
    database = Database("postgresql://", transaction_within=TRANSACTION_WITHIN)
    longest = BODY_WITHIN + settings.request_timeout_ms / 1000 + database.within
    assert longest < settings.finish_within() <= longest + 1
