"""Clients that create users while something is replaced under them."""

import threading
import time
from typing import Self

import httpx
import psycopg

from tests.support.waiting import until


class Newcomers:
    """Clients that create users one after the other, as long as the block lasts. Each must get its 201."""

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


def end_connections(admin: psycopg.Connection, role: str) -> None:
    """While nothing is asked, so that the next request needs a new one."""
    ended = admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role]
    ).fetchall()
    assert ended
