"""A read makes an order's JSON from its row, without a model."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from shop.services.orders import queries

_ROW = (
    *(7, 12, 'tea "x" é\u2028', 2),
    *(Decimal("42.50"), "placed", 3, datetime(2026, 1, 1, 12, 30, 15, tzinfo=UTC)),
)


@pytest.mark.parametrize(
    ("changed", "customer"),
    [
        ({}, ("Ann", "ann@example.com")),
        ({}, (None, None)),
        (
            {4: Decimal("0.00"), 7: datetime(2026, 1, 1, 1, 2, 3, 45, tzinfo=UTC)},
            ("", "a@b.example"),
        ),
        ({4: Decimal("99999999.99"), 5: "cancelled"}, ("Ann", "ann@example.com")),
    ],
)
def test_the_json_of_a_row_is_that_of_the_model(
    changed: dict[int, object], customer: tuple[str | None, str | None]
) -> None:
    row = (*(changed.get(place, value) for place, value in enumerate(_ROW)), *customer)
    stored = queries._stored(row)
    assert stored.body == queries.order(row).model_dump_json().encode()
    assert (stored.user_id, stored.version) == (12, 3)


def test_the_names_in_the_json_are_plain_strings() -> None:
    # `to_json` looks at every other kind of key for ten times as long.
    assert {type(name) for name in queries._COLUMNS} == {str}
