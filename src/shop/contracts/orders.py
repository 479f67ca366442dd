"""What the order service publishes. Topic `orders`, key: the order's id."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

from eventspine.event import Event

Status = Literal["placed", "cancelled"]


class OrderEvent(Event):
    topic = "orders"
    source = "/orders"

    user_id: int
    product: str
    quantity: int
    total_price: Decimal
    """In the shop's one currency; on the wire a decimal string with two places."""
    status: Status
    placed_at: datetime


class OrderPlaced(OrderEvent):
    """The first event of an order."""

    type = "order.placed"


class OrderCancelled(OrderEvent):
    """An order is cancelled once and stays so."""

    type = "order.cancelled"
