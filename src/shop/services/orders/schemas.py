"""What goes in and out of the order service."""

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
    """The customer as this service last heard of them."""

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
    customer: Customer | None = Field(description="null once the person has been erased")


class Orders(View):
    """A page of orders, newest first."""

    items: list[Order]
    next_cursor: str | None


class ListOrders(NamedTuple):
    """Orders for which all that is given holds, newest first; `below` is where the page before ended."""

    user_id: int | None
    status: Status | None
    below: int
    limit: int
    product: str | None = None
    placed_from: datetime | None = None
    """The first moment of a range of time."""
    placed_before: datetime | None = None
    """The first moment after it."""


class PlaceOrder(NamedTuple):
    user_id: int
    product: str
    quantity: int
    total_price: Decimal


class GetOrder(NamedTuple):
    """`owner` is the user whose orders the caller may see; None for everybody's."""

    order_id: int
    owner: int | None = None


class CancelOrder(NamedTuple):
    """`versions` are those the caller will have cancelled; None for any. `owner` as above."""

    order_id: int
    versions: list[int] | None
    owner: int | None = None
