"""A log with every version of every event there ever was: services read it, and `shop audit` agrees."""

import asyncio
import json
from collections.abc import Iterable
from typing import cast

from typer.testing import Result

from eventspine.context import NOBODY
from eventspine.database import Database
from eventspine.event import Event
from eventspine.outbox import transaction
from eventspine.projections import Projection, keep_latest
from eventspine.received import Received
from eventspine.upcasting import read_events
from shop.platform import discovery
from shop.platform.service import Service
from tests.support.databases import Databases, NewDatabase
from tests.support.golden import GOLDEN, Golden
from tests.support.living import living, plant, shop

GREETINGS = "SELECT id, user_id FROM greetings ORDER BY id"
GREETED = [(7, 1), (8, 1)]


class AsPublished:
    """What a release of that time gave `Transaction.publish`."""

    def __init__(self, golden: Golden) -> None:
        headers = golden.record.headers
        self.topic, self.key = golden.record.topic, golden.record.key
        self.type, self.schema_version = headers["ce_type"], int(headers["ce_dataversion"])
        self.version = golden.data["version"]
        self._data = (golden.record.value or b"").decode()

    def as_json(self) -> str:
        return self._data


def history(service: Service) -> list[Golden]:
    """The versions of a key rise by one."""
    own = [golden for golden in GOLDEN.values() if golden.record.topic == service.topic]
    return sorted(own, key=lambda golden: golden.data["version"])


async def publish(service: Service, database: Database, goldens: Iterable[Golden]) -> None:
    """The service's own tables, and its outbox, as its releases have written them."""
    async with transaction(database) as tx:
        for golden in goldens:
            (event,) = read_events(golden.event_class, [golden.record])
            received = Received(event, 1, golden.record)
            await keep_latest(tx, table_of(service, event), [received])
            tx.publish(cast("Event", AsPublished(golden)), NOBODY)


def table_of(service: Service, event: Event) -> Projection:
    """Of the tables of its topic, the one whose key it has."""
    fields = json.loads(event.as_json())
    tables = [
        table
        for table in service.projections
        if isinstance(table, Projection) and table.topic == service.topic
    ]
    for table in tables:
        if "id" not in table.key and table.key.keys() <= fields.keys():
            return table
    return next(table for table in tables if "id" in table.key)


async def test_every_version_is_read_by_each_service_and_the_audit_agrees(
    databases: Databases, new_database: NewDatabase, templates: dict[str, str]
) -> None:
    # Its actions set `erased_at`, which no event has.
    plant(databases["users"], "ALTER TABLE users DROP CONSTRAINT users_are_whole_or_erased")
    services = [service for service in discovery.load_all() if service.topic]
    async with living(databases) as system:
        for service in services:
            await publish(service, system.opened[service.name], history(service))
        # Nothing is in the log yet: the audit reads the outboxes.
        outboxes = await command(databases, "audit", "--json")
        assert outboxes.exit_code == 0, outboxes.output
        async with system.moving():
            await system.settled()
        for service in services:
            assert await system.opened[service.name].fetch("SELECT error FROM parked") == []
        result = await command(databases, "audit")
        assert result.exit_code == 0, result.output
        # An event of an earlier version is compared as well.
        assert "to" in GOLDEN["greeting.sent 1"].data
        plant(databases["greetings"], "UPDATE greetings SET user_id = 2 WHERE id = 7")
        wrong = await command(databases, "audit", "greetings")
        assert wrong.exit_code == 1
        assert "greetings 7 differs: user_id is 2 and must be 1" in wrong.stdout
        # And what is made anew from the log is made from it.
        rebuilt = await command(databases, "rebuild", "greetings", "greetings")
        assert rebuilt.exit_code == 0, rebuilt.output
        assert await system.opened["greetings"].fetch(GREETINGS) == GREETED
    lost = databases.but(greetings=new_database(templates["greetings"]))
    restored = await command(lost, "restore", "greetings")
    assert restored.exit_code == 0, restored.output
    async with living(lost) as system:
        assert await system.opened["greetings"].fetch(GREETINGS) == GREETED


async def command(urls: Databases, *words: str) -> Result:
    """In a thread, since a command has an event loop of its own."""
    return await asyncio.to_thread(shop, urls, *words)
