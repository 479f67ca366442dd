"""All services' databases and the log, written to by actions and moved by relays and consumers."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from types import ModuleType
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from eventspine.consumer import Consumer
from eventspine.context import Request
from eventspine.database import Database
from eventspine.log import EventLog
from eventspine.outbox import transaction
from eventspine.postgres_log import PostgresLog
from eventspine.relay import Relay
from shop.cli.main import app
from shop.platform import discovery
from shop.platform.discovery import PACKAGES
from shop.services.orders import actions as orders
from shop.services.orders.schemas import CancelOrder, PlaceOrder
from shop.services.users import actions as users
from shop.services.users.schemas import CreateUser, EraseUser, UpdateUser
from tests.support.databases import Databases
from tests.support.notes import cancel
from tests.support.waiting import eventually


@dataclass
class Living:
    """The databases, opened, and the log. `users_created` of the users are there."""

    urls: Databases
    opened: Mapping[str, Database]
    log: EventLog
    users_created: int = 0

    @property
    def users(self) -> Database:
        return self.opened["users"]

    @property
    def orders(self) -> Database:
        return self.opened["orders"]

    async def create(self, count: int) -> None:
        first = self.users_created + 1
        commands = [
            Request(CreateUser(f"u{n}@example.com", f"U {n}")) for n in range(first, first + count)
        ]
        async with transaction(self.users) as tx:
            await users.create(tx, commands)
        self.users_created += count

    async def update(self, *ids: int) -> None:
        """A new name, each time another."""
        async with transaction(self.users) as tx:
            for id_ in ids:
                [(name,)] = await tx.fetch("SELECT name FROM users WHERE id = %(id)s", {"id": id_})
                new = f"{name}!" if len(name) < 100 else name.rstrip("!")
                await users.update(tx, [Request(UpdateUser(id_, None, new, None))])

    async def erase(self, *ids: int) -> None:
        async with transaction(self.users) as tx:
            await users.erase(tx, [Request(EraseUser(id_, None)) for id_ in ids])

    async def place(self, *user_ids: int) -> None:
        async with transaction(self.orders) as tx:
            results = await orders.place(
                tx, [Request(PlaceOrder(id_, "tea", 2, Decimal("1.50"))) for id_ in user_ids]
            )
        assert not any(isinstance(result, Exception) for result in results)

    async def cancel(self, *ids: int) -> None:
        async with transaction(self.orders) as tx:
            await orders.cancel(tx, [Request(CancelOrder(id_, None)) for id_ in ids])

    @asynccontextmanager
    async def moving(self, *names: str) -> AsyncIterator[None]:
        """Relays and consumers run; only those named, if any are: `users relay`, …"""
        parts: dict[str, Relay | Consumer] = {}
        for service in map(discovery.load, discovery.names()):
            url = self.urls[service.name]
            parts[f"{service.name} relay"] = Relay(
                url, self.log, source=service.source, topics=[service.topic], batch=50
            )
            parts[f"{service.name} consumer"] = Consumer(
                self.opened[service.name], self.log, service.handlers
            )
        tasks = [asyncio.create_task(parts[name].run()) for name in names or parts]
        try:
            yield
        finally:
            assert not await cancel(tasks), "a task did not end when it was cancelled"

    async def settled(self, *readers: str) -> None:
        """Everything published is relayed and applied; by these services, if any are named."""
        await eventually(lambda: self._is_settled(readers or discovery.names()))

    async def _is_settled(self, readers: Sequence[str]) -> bool:
        services = {service.topic: service for service in discovery.load_all()}
        for topic, publisher in services.items():
            [(head,)] = await self.opened[publisher.name].fetch("SELECT position FROM outbox_head")
            ends = await self.log.end_offsets(topic)
            for reader in map(discovery.load, readers):
                if head and topic in reader.handlers.topics:
                    moved = await self.opened[reader.name].fetch(
                        "SELECT last_position, next_offset FROM cursors WHERE topic = %(topic)s",
                        {"topic": topic},
                    )
                    if moved != [(head, sum(ends.values()))]:
                        return False
        return True


@asynccontextmanager
async def living(urls: Databases, log: EventLog | None = None) -> AsyncIterator[Living]:
    """With this log, which stays open, or the one that is a table."""
    async with AsyncExitStack() as held:
        opened = {}
        for name in discovery.names():
            opened[name] = database = Database(urls[name])
            await database.open()
            held.push_async_callback(database.close)
        if log is None:
            log = PostgresLog(urls.log)
            held.push_async_callback(log.close)
        for service in discovery.load_all():
            await log.create_topic(service.topic)
        [(created,)] = await opened["users"].fetch("SELECT count(*) FROM users")
        yield Living(urls, opened, log, users_created=created)


def settings(urls: Databases) -> dict[str, Any]:
    """What the command line is told of them."""
    own = {f"SHOP_{name.upper()}__DATABASE_URL": urls[name] for name in discovery.names()}
    return {
        **own,
        PACKAGES: os.environ[PACKAGES],
        "SHOP_EVENT_LOG_URL": urls.log,
        # The tests' own server is one without fsync.
        "SHOP_ACCEPT_DATA_LOSS": "true",
    }


def shop(urls: Databases, *words: str, typed: str | None = None) -> Result:
    """A command, in this process; `typed` is what a person answers to its questions."""
    pool = logging.getLogger("psycopg.pool")
    level = pool.level
    try:
        words = (*words, "--data", "/nowhere")
        return CliRunner().invoke(app, words, input=typed, env=settings(urls))
    finally:
        pool.setLevel(level)


def impatient(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """What is away is waited for only briefly."""

    def database(url: str, **options: Any) -> Database:
        return Database(url, **{**options, "timeout": 0.2})

    monkeypatch.setattr(module, "Database", database)


OBEYED = "a\x1b[2J\x1b]0;b\x07\x9b1m\r\n\u202ec\x7f:smile:[red]"
"""What a terminal would obey, if it were shown as it is."""
SHOWN = r"a\x1b[2J\x1b]0;b\x07\x9b1m\r\n\u202ec\x7f:smile:[red]"


def assert_harmless(output: str) -> None:
    assert all(line.isprintable() for line in output.split("\n")), repr(output)


def plant(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, statement
