"""A user service that issues tokens, for all tests of a module."""

from collections.abc import Iterator

import pytest

from tests.support.databases import NewDatabase
from tests.support.issuer import Issuer, issuing


@pytest.fixture(scope="module")
def issuer(
    new_database: NewDatabase, templates: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Issuer]:
    with issuing(new_database(templates["users"]), tmp_path_factory.mktemp("keys")) as issuer:
        yield issuer
