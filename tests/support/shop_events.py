"""Others' events, as they would arrive, for tests that need some history."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from shop.contracts.orders import OrderCancelled, OrderPlaced
from shop.contracts.users import UserCreated, UserErased, UserUpdated

LONG_AGO = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def user_created(id_: int, **fields: Any) -> UserCreated:
    given = {"version": 1, "email": f"user{id_}@example.com", "name": f"User {id_}"}
    return UserCreated(**{"id": id_, "created_at": LONG_AGO, **given, **fields})


def user_updated(id_: int, version: int, **fields: Any) -> UserUpdated:
    given = {"email": f"user{id_}@example.com", "name": f"User {id_}"}
    return UserUpdated(**{"id": id_, "version": version, "created_at": LONG_AGO, **given, **fields})


def user_erased(id_: int, version: int) -> UserErased:
    return UserErased(id=id_, version=version, created_at=LONG_AGO)


def order_placed(id_: int, user_id: int, **fields: Any) -> OrderPlaced:
    return OrderPlaced(**_order(id_, user_id, version=1, status="placed") | fields)


def order_cancelled(id_: int, user_id: int, **fields: Any) -> OrderCancelled:
    return OrderCancelled(**_order(id_, user_id, version=2, status="cancelled") | fields)


def _order(id_: int, user_id: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "user_id": user_id,
        "product": "tea",
        "quantity": 1,
        "total_price": Decimal("1.50"),
        "placed_at": LONG_AGO,
        **fields,
    }
