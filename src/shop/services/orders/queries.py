"""The reads of the order service."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

from psycopg.rows import TupleRow
from pydantic_core import to_json
from sqlalchemy import (
    BigInteger,
    DateTime,
    Select,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)

from eventspine.database import Database, Query, query
from eventspine.outbox import Transaction
from shop.contracts.orders import Status
from shop.platform.http.fields import MAX_BIGINT
from shop.platform.http.paging import encode_cursor
from shop.services.orders.errors import OrderNotFound
from shop.services.orders.schemas import (
    CancelOrder,
    Customer,
    GetOrder,
    ListOrders,
    Order,
    Orders,
    StoredOrder,
)
from shop.services.orders.tables import customers, orders

# OFFSET 0 makes PostgreSQL do one look-up for each order.
_CUSTOMER = (
    select(customers.c.name, customers.c.email)
    .where(customers.c.id == orders.c.user_id)
    .offset(literal_column("0"))
    .lateral("customer")
)
_WITH_CUSTOMER: Select[Any] = select(orders, _CUSTOMER.c.name, _CUSTOMER.c.email).join_from(
    orders, _CUSTOMER, true(), isouter=True
)
# SQLAlchemy's names are a subclass of `str`, and `to_json` needs about 3 µs for each of those.
_COLUMNS = [str(column.name) for column in orders.columns]
if [*_COLUMNS, "customer"] != [*Order.model_fields]:
    raise TypeError("an order's JSON has the columns of its row, in their order, and the customer")

_THESE = _WITH_CUSTOMER.where(orders.c.id == func.any(bindparam("ids")))
# Of these users; and those that are asked for whosever they are. What is another's is found no more than
# what is not there, and is not locked.
_OWNED = _THESE.where(
    or_(
        orders.c.user_id == func.any(bindparam("owners")),
        orders.c.id == func.any(bindparam("anybodys")),
    )
)


_Seen = TypeVar("_Seen", Order, StoredOrder)


def _locking(statement: Select[Any]) -> Select[Any]:
    # In the order of their ids; otherwise two batches could deadlock.
    return statement.order_by(orders.c.id).with_for_update(key_share=True, of=orders)


_MANY, _MANY_OWNED = query(_THESE), query(_OWNED)
_LOCK, _LOCK_OWNED = query(_locking(_THESE)), query(_locking(_OWNED))

_KNOWN = query(
    select(customers.c.id).where(
        customers.c.id == func.any(bindparam("ids")), customers.c.erased.is_(False)
    )
)

_PLACED_AT = query(select(orders.c.placed_at).where(orders.c.id == bindparam("id")))

# Literals and not parameters, so that the planner can use the partial index.
_STATUS = {
    "placed": (orders.c.status == literal_column("'placed'"),),
    "cancelled": (
        orders.c.status == literal_column("'cancelled'"),
        orders.c.status != literal_column("'placed'"),
    ),
    None: (),
}
# An expression that no index has, for queries that must use another index. With few orders, the planner might
# otherwise choose the partial index, and later read all cancelled orders. The same applies below.
_FILTER_STATUS = {
    status: (orders.c.status.concat("") == literal_column(f"'{status}'"),) if status else ()
    for status in _STATUS
}
_LIMIT = bindparam("limit", type_=BigInteger)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@cache
def _by_id(*, of_user: bool, status: Status | None, product: bool, timed: bool) -> Query:
    """The query for all orders, or those of a user, sorted by id."""
    statement = _WITH_CUSTOMER.where(orders.c.id < bindparam("below"))
    if of_user:
        statement = statement.where(
            orders.c.user_id == bindparam("user_id"), *_FILTER_STATUS[status]
        )
    else:
        statement = statement.where(*_STATUS[status])
    if product:
        statement = statement.where(orders.c.product.concat("") == bindparam("product"))
    if timed:
        placed_at = orders.c.placed_at.op("+")(literal_column("interval '0'"))
        statement = statement.where(
            placed_at >= bindparam("placed_from", type_=DateTime(timezone=True)),
            placed_at < bindparam("placed_before", type_=DateTime(timezone=True)),
        )
    return query(statement.order_by(orders.c.id.desc()).limit(_LIMIT))


@cache
def _by_time(*, status: Status | None, product: bool) -> Query:
    """The query for orders sorted by time, and by id if the time is the same."""
    place = tuple_(orders.c.placed_at, orders.c.id)
    statement = _WITH_CUSTOMER.where(
        orders.c.placed_at >= bindparam("placed_from", type_=DateTime(timezone=True)),
        place
        < tuple_(
            bindparam("placed_before", type_=DateTime(timezone=True)),
            bindparam("below", type_=BigInteger),
        ),
        *_FILTER_STATUS[status],
    )
    if product:
        statement = statement.where(orders.c.product == bindparam("product"))
    return query(statement.order_by(orders.c.placed_at.desc(), orders.c.id.desc()).limit(_LIMIT))


async def get(database: Database, asked: Sequence[GetOrder]) -> list[StoredOrder | OrderNotFound]:
    """In the order asked for, in one statement."""
    rows = await database.fetch(*_chosen(_MANY, _MANY_OWNED, asked))
    found = {row[0]: _stored(row) for row in rows}
    return [seen(found, each) or not_found(each) for each in asked]


async def lock(tx: Transaction, asked: Sequence[CancelOrder]) -> dict[int, Order]:
    """Those of them that are there; a neighbour's may be among them (`seen`)."""
    rows = await tx.fetch(*_chosen(_LOCK, _LOCK_OWNED, asked))
    return {each.id: each for each in map(order, rows)}


def _chosen(
    any_: Query, owned: Query, asked: Sequence[GetOrder | CancelOrder]
) -> tuple[Query, dict[str, list[int]]]:
    ids = [each.order_id for each in asked]
    owners = [each.owner for each in asked if each.owner is not None]
    if not owners:
        return any_, {"ids": ids}
    anybodys = [each.order_id for each in asked if each.owner is None]
    return owned, {"ids": ids, "owners": owners, "anybodys": anybodys}


def seen(found: Mapping[int, _Seen], asked: GetOrder | CancelOrder) -> _Seen | None:
    """What this one of a batch may see of what was found for all."""
    order = found.get(asked.order_id)
    return order if order and (asked.owner is None or asked.owner == order.user_id) else None


def not_found(asked: GetOrder | CancelOrder) -> OrderNotFound:
    return OrderNotFound(f"No order has the id {asked.order_id}")


async def pages(database: Database, asked: Sequence[ListOrders]) -> list[Orders]:
    """The requested pages, one after another."""
    return [await _page(database, page) for page in asked]


async def _page(database: Database, asked: ListOrders) -> Orders:
    timed = asked.placed_from is not None or asked.placed_before is not None
    first, end = asked.placed_from or _FIRST, asked.placed_before or _LAST
    below = asked.below
    # A user has few orders, so they are read by id, also with other filters.
    if asked.user_id is None and (timed or asked.product is not None):
        statement = _by_time(status=asked.status, product=asked.product is not None)
        end, below = await _going_on(database, end, below)
    else:
        statement = _by_id(
            of_user=asked.user_id is not None,
            status=asked.status,
            product=asked.product is not None,
            timed=timed,
        )
    values = {"user_id": asked.user_id, "product": asked.product, "below": below}
    rows = await database.fetch(
        statement,
        # One row more than a page. If it exists, there is a next page.
        {**values, "placed_from": first, "placed_before": end, "limit": asked.limit + 1},
    )
    items = [order(row) for row in rows[: asked.limit]]
    return Orders(
        items=items, next_cursor=encode_cursor(items[-1].id) if len(rows) > asked.limit else None
    )


async def _going_on(database: Database, end: datetime, below: int) -> tuple[datetime, int]:
    """The time and id before which the page starts: the end of the range, or the order `below`."""
    if below != MAX_BIGINT:
        for (placed_at,) in await database.fetch(_PLACED_AT, {"id": below}):
            return min((placed_at, below), (end, 0))
    return end, 0


async def known(database: Database, ids: Collection[int]) -> set[int]:
    """The ids of these that are customers and may order."""
    return {id_ for (id_,) in await database.fetch(_KNOWN, {"ids": list(ids)})}


def _stored(row: TupleRow) -> StoredOrder:
    """The same as JSON. A model of it would cost seven times as much."""
    *columns, name, email = row
    fields: dict[str, Any] = dict(zip(_COLUMNS, columns, strict=True))
    fields["customer"] = None if name is None else {"name": name, "email": email}
    return StoredOrder(fields["user_id"], fields["version"], to_json(fields))


def order(row: TupleRow) -> Order:
    """The order in a row with the columns of `_WITH_CUSTOMER`."""
    *columns, name, email = row
    return Order(
        **dict(zip(_COLUMNS, columns, strict=True)),
        customer=None if name is None else Customer(name=name, email=email),
    )
