"""The services, running: a fixture for each, by its name."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from shop.platform import discovery
from tests.conftest import NewDatabase
from tests.shop.serving import Served, serving

# The order service does not wait for customers it has not heard of.
SETTINGS: dict[str, dict[str, Any]] = {"orders": {"customer_grace_ms": 0}}


def _fixture(service: str) -> Any:
    @pytest.fixture(scope="module", name=service)
    def served(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
        """For all tests of a module: each makes what it needs."""
        url = new_database(templates[service])
        with serving(service, url, **SETTINGS.get(service, {})) as served:
            yield served

    return served


for name in discovery.names():
    globals()[name] = _fixture(name)


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """After a command that was run in this process."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("psycopg.pool").setLevel(logging.NOTSET)
    structlog.reset_defaults()
