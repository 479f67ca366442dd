"""The shop as it really runs, on each log it can run on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import Engine
from tests.support.folders import short_directory
from tests.support.shop import Shop
from tests.support.topics import forget_topics


@pytest.fixture(
    scope="session", params=["postgres", pytest.param("kafka", marks=pytest.mark.kafka)]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "postgres":
        return Engine("postgres", settings={"SHOP_EVENT_LOG": "postgres"})
    servers = request.getfixturevalue("kafka").bootstrap_servers
    return Engine(
        "kafka",
        up_options=("--kafka", servers),
        settings={"SHOP_EVENT_LOG": "kafka", "SHOP_KAFKA__BOOTSTRAP_SERVERS": servers},
        forget=lambda: forget_topics(servers),
    )


@pytest.fixture(scope="module")
def shop(engine: Engine) -> Iterator[Shop]:
    """One that runs, for all tests of a module, with data of its own, on a terminal without UTF-8."""
    engine.forget()
    with short_directory() as directory:
        shop = Shop(
            directory / "data",
            engine.up_options,
            SHOP_LOG_DIR=directory / "logs",
            PYTHONIOENCODING="ascii",
        )
        try:
            shop.start()
            yield shop
        finally:
            shop.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The whole shop on Kafka is heavy. Elsewhere than in CI it runs on the log that is a table."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.get_closest_marker("kafka"):
            item.add_marker("heavy")
