"""What the user service reads."""

from collections.abc import Sequence
from decimal import Decimal

from psycopg.rows import TupleRow
from sqlalchemy import (
    BigInteger,
    Text,
    bindparam,
    case,
    cast,
    collate,
    func,
    literal_column,
    select,
)

from eventspine.database import Database, query
from shop.platform.auth.caller import visible
from shop.platform.http.paging import encode_cursor
from shop.services.users.errors import UserNotFound
from shop.services.users.schemas import (
    GetUser,
    ListUserOrders,
    ListUsers,
    User,
    UserOrder,
    UserOrders,
    Users,
)
from shop.services.users.tables import LETTERS, orders, users

_THERE = select(*(users.c[name] for name in User.model_fields)).where(users.c.erased_at.is_(None))

_MANY_THERE = _THERE.where(users.c.id == func.any(bindparam("ids")))
_MANY = query(_MANY_THERE)

# In the order of their ids, or two batches could wait for each other.
LOCK = query(_MANY_THERE.order_by(users.c.id).with_for_update(key_share=True))

_PAGE = query(
    _THERE.where(users.c.id < bindparam("below"))
    .order_by(users.c.id.desc())
    .limit(bindparam("limit", type_=BigInteger))
)

# Upper and lower case as the column's collation has them, which the index goes by: a parameter has
# the database's own, and there INFO may not be info.
_WITH_EMAIL = query(
    _THERE.where(
        func.lower(users.c.email) == func.lower(collate(cast(bindparam("email"), Text), LETTERS))
    )
)

_OWN = query(_THERE.where(users.c.id == bindparam("owner"), users.c.id < bindparam("below")))

_OWN_WITH_EMAIL = query(
    _THERE.where(
        func.lower(users.c.email) == func.lower(collate(cast(bindparam("email"), Text), LETTERS)),
        users.c.id + literal_column("0") == bindparam("owner"),
    )
)

_ORDERS = query(
    select(*(orders.c[name] for name in UserOrder.model_fields))
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


async def get(database: Database, asked: Sequence[GetUser]) -> list[User | UserNotFound]:
    """In the order asked for, in one statement. Another's id is looked for as that of no user."""
    ids = [visible(id_, owner) for id_, owner in asked]
    found = {one.id: one for one in map(user, await database.fetch(_MANY, {"ids": ids}))}
    return [
        found.get(id_) or UserNotFound(f"No user has the id {each.user_id}")
        for id_, each in zip(ids, asked, strict=True)
    ]


async def pages(database: Database, asked: Sequence[ListUsers]) -> list[Users]:
    """The pages asked for, one after the other."""
    return [await _users(database, *page) for page in asked]


async def _users(
    database: Database, email: str | None, below: int, limit: int, owner: int | None
) -> Users:
    if email is None and owner is not None:
        rows = await database.fetch(_OWN, {"owner": owner, "below": below})
        return Users(items=[user(row) for row in rows], next_cursor=None)
    if email is not None:
        # One at most. Not below an id in the statement: it is to be found by its address alone.
        by_email = _WITH_EMAIL if owner is None else _OWN_WITH_EMAIL
        rows = await database.fetch(by_email, {"email": email, "owner": owner})
        items = [found for found in map(user, rows) if found.id < below]
        return Users(items=items, next_cursor=None)
    # One more than is shown: if it is there, so is a next page.
    rows = await database.fetch(_PAGE, {"below": below, "limit": limit + 1})
    items = [user(row) for row in rows[:limit]]
    return Users(
        items=items, next_cursor=encode_cursor(items[-1].id) if len(rows) > limit else None
    )


async def orders_of(database: Database, asked: Sequence[ListUserOrders]) -> list[UserOrders]:
    """The pages asked for, one after the other."""
    return [await _orders(database, *page) for page in asked]


async def _orders(database: Database, user_id: int, below: int, limit: int) -> UserOrders:
    rows = await database.fetch(_ORDERS, {"user_id": user_id, "below": below, "limit": limit + 1})
    [(count, total)] = await database.fetch(_TOTALS, {"user_id": user_id})
    items = [
        UserOrder(**dict(zip(UserOrder.model_fields, row, strict=True))) for row in rows[:limit]
    ]
    return UserOrders(
        items=items,
        # One row more was asked for than is shown: if it is there, so is a next page.
        next_cursor=encode_cursor(items[-1].id) if len(rows) > limit else None,
        count=count,
        total=Decimal(total).quantize(Decimal("0.01")),
    )


def user(row: TupleRow) -> User:
    """A row with a column for each of a user's fields."""
    return User(**dict(zip(User.model_fields, row, strict=True)))
