"""Every cell of `matrix.md`: what is answered is what stands there."""

from collections.abc import Iterator

import pytest

from tests.shop.auth import matrix
from tests.support.databases import NewDatabase
from tests.support.token_kinds import KINDS

ROUTES = [(name, route) for name in matrix.SERVICES for route in matrix.routes(name)]
EXPECTED = matrix.read(matrix.PAGE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def asked(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[matrix.Asked]:
    urls = {name: new_database(templates[name]) for name in matrix.SERVICES}
    with matrix.asked(urls) as all_:
        yield all_


def test_every_route_and_every_kind_of_token_has_its_answers() -> None:
    columns = {route for _, route in ROUTES}
    assert columns == set(matrix.REQUESTS), "say in REQUESTS what is sent to a new route"
    assert set(EXPECTED) == set(KINDS)
    for row in EXPECTED.values():
        assert set(row) == columns, "run: python -m tests.shop.auth.matrix --write; and judge it"


@pytest.mark.parametrize("what", KINDS)
def test_what_is_answered_is_what_the_table_says(asked: matrix.Asked, what: str) -> None:
    answers = {route: asked.answers(name, route, KINDS[what]) for name, route in ROUTES}
    assert answers == EXPECTED[what]
