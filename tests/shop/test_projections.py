"""Each service's projections name every column of their tables."""

import pytest

from eventspine.projections import Projection
from shop.platform import discovery
from shop.platform.service import Service
from tests.support.serving import Served
from tests.support.shop_events import order_cancelled, order_placed

PROJECTIONS = [
    pytest.param(service, table, id=f"{service.name} {table.table}")
    for service in discovery.load_all()
    for table in service.projections
    if isinstance(table, Projection)
]


@pytest.mark.parametrize(("service", "table"), PROJECTIONS)
def test_no_column_is_forgotten(service: Service, table: Projection) -> None:
    """A column that no event carries has to be named in `not_from_events`."""
    columns = {column.name for column in service.tables().tables[table.table].columns}
    named = {*table.key, "version", *table.columns}
    assert columns == named | table.not_from_events
    assert not named & table.not_from_events


@pytest.mark.parametrize(("service", "table"), PROJECTIONS)
def test_the_projections_key_is_the_tables(service: Service, table: Projection) -> None:
    key = [column.name for column in service.tables().tables[table.table].primary_key]
    assert key == list(table.key)


def test_a_copy_that_missed_a_field_is_mended_by_the_next_event(users: Served) -> None:
    """A reader of the release before did not know the field, whoever publishes it."""
    users.hears(order_placed(7, 1, product="coffee"))
    users.rows("UPDATE orders SET product = '' WHERE id = 7 RETURNING id")
    users.hears(order_cancelled(7, 1, product="coffee"))
    assert users.rows("SELECT product, status, version FROM orders WHERE id = 7") == [
        ("coffee", "cancelled", 2)
    ]
