"""What the order service reads."""

from collections.abc import Collection, Sequence
from typing import Any

from psycopg.rows import TupleRow
from sqlalchemy import BigInteger, Select, bindparam, func, literal_column, select

from eventspine.database import Database, query
from shop.contracts.orders import Status
from shop.platform.http.paging import encode_cursor
from shop.services.orders.errors import OrderNotFound
from shop.services.orders.schemas import Customer, ListOrders, Order, Orders
from shop.services.orders.tables import customers, orders

_WITH_CUSTOMER: Select[Any] = select(orders, customers.c.name, customers.c.email).join_from(
    orders, customers, orders.c.user_id == customers.c.id, isouter=True
)
_COLUMNS = orders.columns.keys()

# In the order of their ids, or two batches could wait for each other.
LOCK = query(
    _WITH_CUSTOMER.where(orders.c.id == func.any(bindparam("ids")))
    .order_by(orders.c.id)
    .with_for_update(key_share=True, of=orders)
)

_MANY = query(_WITH_CUSTOMER.where(orders.c.id == func.any(bindparam("ids"))))

_KNOWN = query(
    select(customers.c.id).where(
        customers.c.id == func.any(bindparam("ids")), customers.c.erased.is_(False)
    )
)

_PAGE = (
    _WITH_CUSTOMER.where(orders.c.id < bindparam("below"))
    .order_by(orders.c.id.desc())
    .limit(bindparam("limit", type_=BigInteger))
)
# Literals and not parameters, so that the planner sees that the partial index serves them.
_STATUS = {
    "placed": (orders.c.status == literal_column("'placed'"),),
    "cancelled": (
        orders.c.status == literal_column("'cancelled'"),
        orders.c.status != literal_column("'placed'"),
    ),
    None: (),
}
# Of one user by `orders_of_user` alone: an expression, or the planner might, while there are few
# orders, take the partial index, and read all that were ever cancelled.
_OF_USER = orders.c.user_id == bindparam("user_id")
_STATUS_OF_USER = {
    status: (orders.c.status.concat("") == literal_column(f"'{status}'"),) if status else ()
    for status in _STATUS
}
_PAGES = {
    **{(False, status): query(_PAGE.where(*those)) for status, those in _STATUS.items()},
    **{
        (True, status): query(_PAGE.where(_OF_USER, *those))
        for status, those in _STATUS_OF_USER.items()
    },
}


async def get(database: Database, ids: Sequence[int]) -> list[Order | OrderNotFound]:
    """The orders of these ids, in the order asked for, in one statement."""
    rows = await database.fetch(_MANY, {"ids": list(ids)})
    found = {each.id: each for each in map(order, rows)}
    return [found.get(id_) or OrderNotFound(f"No order has the id {id_}") for id_ in ids]


async def pages(database: Database, asked: Sequence[ListOrders]) -> list[Orders]:
    """The pages asked for, one after the other."""
    return [await _page(database, *page) for page in asked]


async def _page(
    database: Database, user_id: int | None, status: Status | None, below: int, limit: int
) -> Orders:
    rows = await database.fetch(
        _PAGES[user_id is not None, status],
        # One more than is shown: if it is there, so is a next page.
        {"user_id": user_id, "below": below, "limit": limit + 1},
    )
    items = [order(row) for row in rows[:limit]]
    return Orders(
        items=items, next_cursor=encode_cursor(items[-1].id) if len(rows) > limit else None
    )


async def known(database: Database, ids: Collection[int]) -> set[int]:
    """Which of these are customers who may order."""
    return {id_ for (id_,) in await database.fetch(_KNOWN, {"ids": list(ids)})}


def order(row: TupleRow) -> Order:
    """A row of `_WITH_CUSTOMER`'s columns."""
    *columns, name, email = row
    return Order(
        **dict(zip(_COLUMNS, columns, strict=True)),
        customer=None if name is None else Customer(name=name, email=email),
    )
