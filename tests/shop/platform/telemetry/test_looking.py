"""What a worker and an API say of a database, a log or a worker that is away."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager

import pytest

from shop.platform import discovery
from shop.platform.flow import FlowReader
from shop.platform.telemetry import looking as module
from shop.platform.telemetry.looking import Looking
from tests.support.databases import Databases
from tests.support.living import living
from tests.support.serving import serving, settings_of
from tests.support.waiting import eventually

AWAY = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.05)


@asynccontextmanager
async def looking_at(database: str, log: str) -> AsyncIterator[Looking]:
    settings = settings_of("users", database, event_log_url=log)
    found = Looking(FlowReader([discovery.load("users")], settings), database)
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _said(looking: Looking) -> tuple[int, Mapping[str, str]]:
    page = await looking.ready({})
    return page.status, json.loads(page.body)


def _numbers(looking: Looking) -> dict[str, float]:
    return {
        sample.of.name: sample.value
        for sample in looking.samples()
        if isinstance(sample.value, int | float)
    }


async def test_all_flows(databases: Databases) -> None:
    async with living(databases) as system, system.moving():
        await system.create(1)
        await system.settled()
        async with looking_at(databases["users"], databases.log) as looking:
            status, said = await eventually(lambda: _ready(looking))
            assert (status, said) == (200, {"status": "ready", "events": "flowing"})
            numbers = _numbers(looking)
    assert numbers["shop_database_up"] == numbers["shop_event_log_up"] == 1
    assert numbers["shop_outbox_lag_events"] == numbers["shop_consumer_lag_records"] == 0
    assert numbers["shop_outbox_led"] == 1


async def _ready(looking: Looking) -> tuple[int, Mapping[str, str]] | None:
    said = await _said(looking)
    return said if said[1].get("events") == "flowing" else None


async def test_a_log_that_is_away_is_said_by_worker_and_api_and_makes_neither_unready(
    databases: Databases,
) -> None:
    with serving("users", databases["users"]) as api:

        async def api_says() -> str:
            answer = await asyncio.to_thread(api.client.get, "/health/ready")
            assert answer.status_code == 200
            return str(answer.json().get("detail", ""))

        assert await api_says() == "no worker feeds the event log: 0 event(s) wait in the outbox"
        async with looking_at(databases["users"], AWAY) as looking:
            await eventually(lambda: _about(looking, "the event log is away"))
            assert (await _said(looking))[0] == 200
            numbers = _numbers(looking)
            assert (numbers["shop_event_log_up"], numbers["shop_ready"]) == (0, 1)
            assert "shop_consumer_lag_records" not in numbers
            await eventually(lambda: _starts(api_says(), "the event log is away"))
        # The worker is gone, and its word with it.
        await eventually(lambda: _starts(api_says(), "no worker feeds"))


async def _starts(says: Awaitable[str], text: str) -> bool:
    return (await says).startswith(text)


async def _about(looking: Looking, text: str) -> bool:
    return text in str((await _said(looking))[1])


async def test_a_database_that_is_away_makes_the_worker_unready_and_shows_no_old_numbers(
    databases: Databases,
) -> None:
    async with looking_at(AWAY, databases.log) as looking:
        await eventually(lambda: _about(looking, "the database is away"))
        assert (await _said(looking))[0] == 503
        numbers = _numbers(looking)
    assert (numbers["shop_database_up"], numbers["shop_ready"]) == (0, 0)
    assert not {"shop_outbox_lag_events", "shop_outbox_led"} & set(numbers)


def test_an_api_whose_role_may_not_read_the_relay_yet_is_ready_and_says_nothing_more(
    databases: Databases,
) -> None:
    with serving("users", databases["users"]) as api:
        api.connection.execute("ALTER TABLE relay RENAME TO relay_of_later")
        try:
            answer = api.client.get("/health/ready")
        finally:
            api.connection.execute("ALTER TABLE relay_of_later RENAME TO relay")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
