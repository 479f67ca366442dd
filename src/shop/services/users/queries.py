"""What the user service reads."""

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import BigInteger, bindparam, case, func, select

from eventspine.database import Database, query
from shop.platform.http.paging import encode_cursor
from shop.services.users.errors import UserNotFound
from shop.services.users.schemas import ListUserOrders, User, UserOrder, UserOrders
from shop.services.users.tables import orders, users

_MANY = query(
    select(users.c.id, users.c.email, users.c.name, users.c.version, users.c.created_at).where(
        users.c.id == func.any(bindparam("ids")), users.c.erased_at.is_(None)
    )
)

_ORDERS = query(
    select(
        orders.c.id,
        orders.c.product,
        orders.c.quantity,
        orders.c.total_price,
        orders.c.status,
        orders.c.version,
        orders.c.placed_at,
    )
    .where(orders.c.user_id == bindparam("user_id"), orders.c.id < bindparam("below"))
    .order_by(orders.c.id.desc())
    .limit(bindparam("limit", type_=BigInteger))
)

_TOTALS = query(
    select(
        func.count(),
        func.coalesce(func.sum(case((orders.c.status == "placed", orders.c.total_price))), 0),
    ).where(orders.c.user_id == bindparam("user_id"))
)


async def get(database: Database, ids: Sequence[int]) -> list[User | UserNotFound]:
    """The users of these ids, in the order asked for, in one statement."""
    found: dict[int, User] = {}
    for id_, email, name, version, created_at in await database.fetch(_MANY, {"ids": list(ids)}):
        found[id_] = User(id=id_, email=email, name=name, version=version, created_at=created_at)
    return [found.get(id_) or UserNotFound(f"No user has the id {id_}") for id_ in ids]


async def orders_of(database: Database, asked: Sequence[ListUserOrders]) -> list[UserOrders]:
    """The pages asked for, one after the other."""
    return [await _page(database, *page) for page in asked]


async def _page(database: Database, user_id: int, below: int, limit: int) -> UserOrders:
    rows = await database.fetch(_ORDERS, {"user_id": user_id, "below": below, "limit": limit + 1})
    [(count, total)] = await database.fetch(_TOTALS, {"user_id": user_id})
    names = ("id", "product", "quantity", "total_price", "status", "version", "placed_at")
    items = [UserOrder(**dict(zip(names, row, strict=True))) for row in rows[:limit]]
    return UserOrders(
        items=items,
        # One row more was asked for than is shown: if it is there, so is a next page.
        next_cursor=encode_cursor(items[-1].id) if len(rows) > limit else None,
        count=count,
        total=Decimal(total).quantize(Decimal("0.01")),
    )
