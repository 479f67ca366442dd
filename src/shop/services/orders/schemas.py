"""Requests, answers and commands of the order service."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field

from shop.contracts.orders import Status
from shop.platform.http.fields import MAX_INTEGER, Body, Id, Line, Money, View


class NewOrder(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"product": "coffee", "quantity": 100, "total_price": 50, "user_id": 1}]
        }
    )

    user_id: Annotated[Id, Field(strict=True)]
    product: Line
    quantity: Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)]
    total_price: Money


class NewOwnOrder(NewOrder):
    """Where callers are known."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"product": "coffee", "quantity": 100, "total_price": 50}]}
    )

    # A factory, so that no default is documented.
    user_id: Annotated[Id, Field(strict=True)] = Field(
        default_factory=int, description="if it is left out, the user whom the token is of"
    )


class Customer(View):
    """The customer, as known to this service."""

    name: str
    email: str


class Order(View):
    id: int
    user_id: int
    product: str
    quantity: int
    total_price: Decimal
    status: Status
    version: int
    placed_at: datetime
    customer: Customer | None = Field(description="Null if the person has been erased.")


class Orders(View):
    """A page of orders, newest first."""

    items: list[Order]
    next_cursor: str | None


class ListOrders(NamedTuple):
    """Selects orders that match all given filters, newest first. `below` is the last id of the previous page."""

    user_id: int | None
    status: Status | None
    below: int
    limit: int
    product: str | None = None
    placed_from: datetime | None = None
    """The start of the time range, inclusive."""
    placed_before: datetime | None = None
    """The end of the time range, exclusive."""


class PlaceOrder(NamedTuple):
    user_id: int
    product: str
    quantity: int
    total_price: Decimal


class PlacedOrder(NamedTuple):
    """A new order. `body` is the JSON of an `Order`."""

    id: int
    user_id: int
    body: bytes


class StoredOrder(NamedTuple):
    """An order that was read. `body` is the JSON of an `Order`."""

    user_id: int
    version: int
    body: bytes


class GetOrder(NamedTuple):
    """`owner` is the user whose orders the caller may see; None for everybody's."""

    order_id: int
    owner: int | None = None


class CancelOrder(NamedTuple):
    """`versions` are the versions that the caller accepts; None accepts any version. `owner` as above."""

    order_id: int
    versions: list[int] | None
    owner: int | None = None
