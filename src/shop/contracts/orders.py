"""The events of the order service. The topic is `orders`; the key is the order's id."""

from typing import Literal

from eventspine.event import Event, IntegerId
from shop.contracts.values import Id, Line, Money, Quantity, Time

Status = Literal["placed", "cancelled"]


class OrderEvent(Event):
    topic = "orders"
    source = "/orders"

    id: IntegerId
    user_id: Id
    product: Line
    quantity: Quantity
    total_price: Money
    status: Status
    placed_at: Time


class OrderPlaced(OrderEvent):
    """The first event of an order."""

    type = "order.placed"


class OrderCancelled(OrderEvent):
    """The order is cancelled. This is its last event."""

    type = "order.cancelled"
