"""A service's real application on a real server, in a thread, for as long as a block lasts."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import uvicorn

from eventspine.database import Database
from eventspine.event import Event
from eventspine.outbox import transaction
from shop.platform import discovery
from shop.platform.http.app import ServiceApp
from shop.platform.processes.api import Server, make_app
from shop.platform.settings import Settings, read_settings
from tests.support.received import heard


@dataclass(frozen=True)
class Served:
    """A running service: where it listens, a client for it, and its database, to look behind it."""

    name: str
    app: ServiceApp
    server: uvicorn.Server
    port: int
    client: httpx.Client
    database_url: str
    connection: psycopg.Connection

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql).fetchall()

    def events(self) -> list[tuple[Any, ...]]:
        """Everything published so far: position, type, key, version, data, headers."""
        return self.rows(
            "SELECT position, type, key, version, data, headers FROM outbox ORDER BY position"
        )

    def stored(self) -> list[tuple[Any, ...]]:
        """All that a request could have left behind: the rows of each table but the spine's own."""
        return [*self.rows(f"SELECT * FROM {self.name} ORDER BY id"), *self.events()]

    def hears(self, *events: Event) -> None:
        """Apply others' events, as the service's worker would."""
        handlers = discovery.load(self.name).handlers

        async def apply() -> None:
            database = Database(self.database_url, size=1)
            await database.open()
            async with transaction(database) as tx:
                await handlers.apply(tx, heard(*events))
            await database.close()

        asyncio.run(apply())


def settings_of(name: str, database_url: str, **given: Any) -> Settings:
    """A service's on this database; what is given is the service's own, where it has that."""
    model = discovery.sections()[name]
    own = {key: given.pop(key) for key in list(given) if key in model.model_fields}
    sections = {name: {"database_url": database_url, **own}}
    return read_settings(discovery.sections(), **sections, **given)


@contextmanager
def serving(name: str, database_url: str, **settings: Any) -> Iterator[Served]:
    given = settings_of(name, database_url, **settings)
    app = make_app(discovery.load(name), given)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = Server(app, given)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    started = threading.Event()
    for _ in range(12_000):
        if server.started or not thread.is_alive():
            break
        started.wait(0.005)
    assert server.started, f"{name} did not start"
    try:
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
            psycopg.connect(database_url, autocommit=True) as connection,
        ):
            yield Served(name, app, server, port, client, database_url, connection)
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
    assert not thread.is_alive(), f"{name} did not stop"


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The answer, which must be a problem of this kind; its document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:eventshop:problem:{slug}"
    assert document["status"] == status
    assert document["title"]
    return document


def wrong_fields(document: dict[str, Any]) -> Sequence[tuple[str, str]]:
    """Where, and which, by a problem that names fields."""
    return [(error["in"], error["field"]) for error in document.get("errors", ())]


@contextmanager
def stalled(url: str) -> Iterator[None]:
    """While it lasts, nothing that publishes can commit."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT FROM outbox_head FOR UPDATE")
        yield


def waits_for_locks(served: Served) -> int:
    """How many statements do."""
    waiting = served.rows(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    return len(waiting)
