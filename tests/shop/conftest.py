"""The two services, running."""

from collections.abc import Iterator

import pytest

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
