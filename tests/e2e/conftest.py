"""The shop as it really runs, on each log it can run on."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shop.platform import discovery
from tests.e2e.shop import Shop


@dataclass(frozen=True)
class Engine:
    """A log to run the shop on."""

    name: str
    up_options: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    """For parts that are started one by one; of PostgreSQL the database is still to be named."""
    forget: Callable[[], None] = lambda: None
    """Have an empty log again: each shop begins with new databases."""


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


def forget_topics(servers: str) -> None:
    from confluent_kafka.admin import AdminClient

    from tests.e2e.shop import until

    admin = AdminClient({"bootstrap.servers": servers})
    ours = {discovery.load(name).topic for name in discovery.names()}

    def there() -> set[str]:
        return ours & admin.list_topics(timeout=10).topics.keys()

    if topics := there():
        for deleted in admin.delete_topics(list(topics)).values():
            deleted.result(10)
        until(lambda: not there(), "the topics of the shop before are deleted")


@contextmanager
def short_directory() -> Iterator[Path]:
    """Pytest's own are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="eventshop-e2e-") as directory:
        os.chmod(directory, 0o711)
        yield Path(directory)


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
