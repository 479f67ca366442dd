"""The progress of a long command, as metrics while it runs."""

import asyncio

import httpx
from prometheus_client.parser import text_string_to_metric_families as families

from shop.cli.progress import SO_FAR, shown
from shop.cli.progress_served import progress_served
from shop.platform import discovery
from shop.platform.settings import Settings, read_settings
from tests.support.shop import free_ports


def _settings(port: int) -> Settings:
    return read_settings(discovery.sections(), telemetry={"metrics_port": port})


async def test_what_is_done_is_served_while_the_command_runs() -> None:
    [port] = free_ports(1)
    SO_FAR.clear()
    async with progress_served(_settings(port), "audit", "orders"):
        with shown("orders") as progress:
            progress("reading topic orders", 20, 80)
            async with httpx.AsyncClient() as client:
                text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    found = {family.name: family.samples for family in families(text)}
    labels = {"command": "audit", "step": "orders: reading topic orders"}
    [done], [expected] = found["shop_progress_done"], found["shop_progress_expected"]
    assert (done.labels, done.value) == (labels, 20)
    assert (expected.labels, expected.value) == (labels, 80)


async def test_without_a_port_nothing_is_served() -> None:
    before = asyncio.all_tasks()
    async with progress_served(_settings(0), "audit", "orders"):
        assert asyncio.all_tasks() == before
