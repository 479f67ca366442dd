"""A million events in the log: every page is as quick as with ten, and the console's memory stays."""

import re
from collections.abc import Iterator

import httpx
import pytest

from shop.platform import discovery
from tests.support.consoles import console
from tests.support.databases import Databases, NewDatabase
from tests.support.kafka import StartKafka
from tests.support.million import (
    fill_kafka,
    fill_log,
    fill_orders,
    look_at_every_page,
    memory_gained,
)
from tests.support.topics import log_on

pytestmark = pytest.mark.heavy

MEMORY_MB = 20
KAFKA_MEMORY_MB = 60
"""Six readers may keep 8 MB each of what Kafka has sent."""


@pytest.fixture(scope="module")
def filled(new_database: NewDatabase, templates: dict[str, str]) -> Databases:
    urls = Databases({name: new_database(template) for name, template in templates.items()})
    fill_orders(urls)
    fill_log(urls)
    return urls


@pytest.fixture(scope="module")
def served(filled: Databases) -> Iterator[httpx.Client]:
    with console(filled) as client:
        yield client


def test_every_page_answers_quickly(served: httpx.Client) -> None:
    look_at_every_page(served)


def test_what_is_far_away_is_found(served: httpx.Client) -> None:
    """Its second event is half a million positions from its first, so it takes some looks, each of them quick."""
    path, looks, found = "/timeline?q=orders/200000", 0, ""
    while path and looks < 40:
        found = served.get(path, follow_redirects=True).text
        further = re.search(r'href="(/timeline\?q=[^"]*back=[^"]+)"', found)
        path = further[1].replace("&amp;", "&") if further else ""
        looks += 1
    assert "order.cancelled, version 2" in found
    assert "order.placed, version 1" in found
    page = served.get("/log?at=2026-01-05").text
    assert 'href="/log/orders/0/345599"' in page, "the first event of that day"


def test_its_memory_stays(served: httpx.Client) -> None:
    assert memory_gained(served) < MEMORY_MB * 1024 * 1024


@pytest.mark.kafka
@pytest.mark.timeout(300)
async def test_with_kafka_every_page_is_as_quick_and_memory_stays(
    filled: Databases, start_kafka: StartKafka
) -> None:
    kafka = start_kafka()
    log = log_on(kafka)
    for service in discovery.load_all():
        await log.create_topic(service.topic)
    await log.close()
    fill_kafka(kafka)
    given = {"event_log": "kafka", "kafka": {"bootstrap_servers": kafka.bootstrap_servers}}
    with console(filled, **given) as client:
        # Also the one from a time on, though in a log that was copied Kafka's own index of times helps nothing.
        look_at_every_page(client)
        memory_gained(client)  # until then, Kafka's readers fill their buffers
        assert memory_gained(client) < KAFKA_MEMORY_MB * 1024 * 1024
        page = client.get("/log?topic=orders&at=2026-01-05").text
        assert "345600" in page, "the first event of that day"
