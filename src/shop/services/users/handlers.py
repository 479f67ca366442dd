"""What the user service does when others' events arrive."""

from collections.abc import Sequence

from eventspine.handlers import Handlers
from eventspine.outbox import Transaction
from eventspine.projections import keep_latest
from eventspine.received import Received
from shop.contracts.orders import OrderCancelled, OrderPlaced
from shop.services.users.projections import ORDERS


async def orders_changed(
    tx: Transaction, received: Sequence[Received[OrderPlaced | OrderCancelled]]
) -> None:
    """Keep a copy of every order, for `GET /users/{id}/orders`."""
    await keep_latest(tx, ORDERS, received)


HANDLERS = Handlers(
    "users",
    {
        OrderPlaced: orders_changed,
        OrderCancelled: orders_changed,
    },
)
