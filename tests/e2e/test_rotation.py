"""A database's password is replaced under load, and no request is refused."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.support.secured import Secured, new_password
from tests.support.shop import Running, answers, free_ports, shop_command
from tests.support.waiting import until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    with ExitStack() as stops:
        yield Secured(tmp_path, stops)


class Load:
    """Clients that create users one after the other, as long as the block lasts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self.answers: list[int] = []
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 50) -> None:
        """Wait until so many more have been answered."""
        goal = len(self.answers) + count
        until(lambda: len(self.answers) >= goal or {*self.answers} - {201}, "answers", 60)
        assert {*self.answers} == {201}

    def _send(self, client: int) -> None:
        with httpx.Client(base_url=self._url, timeout=20) as connection:
            number = 0
            while not self._stopping.is_set():
                number += 1
                person = {"email": f"{client}-{number}-{id(self)}@example.com", "name": "A"}
                self.answers.append(connection.post("/users", json=person).status_code)
                time.sleep(0.01)


def test_a_databases_password_is_replaced_and_no_request_is_refused(secured: Secured) -> None:
    (port,) = free_ports(1)
    role = "users_api"
    api = Running(
        "api", "users", by=shop_command,
        **secured.environment("api", "users"), SHOP_USERS__PORT=port,
    )  # fmt: skip
    with ExitStack() as stops:
        stops.callback(api.stop)
        client = stops.enter_context(closing(httpx.Client(base_url=f"http://127.0.0.1:{port}")))
        until(lambda: answers(client), "the API answers", 60)
        url = f"http://127.0.0.1:{port}"
        [old], new = secured.passwords(role), new_password()
        # The steps of docs/operations.md, each under load.
        with Load(url) as first:
            first.more()
            secured.set_file(role, old, new)
            first.more()
            secured.set_roles("users")
            first.more()
        end_idle_connections(secured, role)
        with Load(url) as between:
            between.more()
            secured.set_file(role, new)
            between.more()
        end_idle_connections(secured, role)
        with Load(url) as last:
            last.more()
        assert {*first.answers, *between.answers, *last.answers} == {201}
        with pytest.raises(Exception, match="password authentication failed"):
            secured.connect("users", role, old)
    made_new = secured.connect("users", role)
    made_new.close()


def end_idle_connections(secured: Secured, role: str) -> None:
    """While nothing is asked, so that the next request needs a new one."""
    with closing(secured.as_superuser("users")) as admin:
        ended = admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role]
        ).fetchall()
    assert ended
