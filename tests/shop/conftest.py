"""The two services, running."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from tests.conftest import NewDatabase
from tests.shop.serving import Served, serving


@pytest.fixture(scope="module")
def users(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
    """The user service, for all tests of a module: each makes what it needs."""
    with serving("users", new_database(templates["users"])) as served:
        yield served


@pytest.fixture(scope="module")
def orders(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
    """The order service, likewise. It does not wait for customers it has not heard of."""
    with serving("orders", new_database(templates["orders"]), customer_grace_ms=0) as served:
        yield served


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
