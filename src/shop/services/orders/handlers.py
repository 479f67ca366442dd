"""The order service's handlers of other services' events."""

from collections.abc import Sequence

from eventspine.handlers import Handlers
from eventspine.idempotency import forget, hold_answers
from eventspine.outbox import Transaction
from eventspine.projections import keep_latest
from eventspine.received import Received
from shop.contracts.users import UserCreated, UserErased, UserUpdated
from shop.platform.auth.copies import IDENTITY_HANDLERS
from shop.services.orders.errors import UserGone
from shop.services.orders.projections import CUSTOMERS


async def customers_changed(
    tx: Transaction, received: Sequence[Received[UserCreated | UserUpdated | UserErased]]
) -> None:
    """Keep a copy of every customer. For an erased customer, keep only the id."""
    await keep_latest(tx, CUSTOMERS, received)
    if erased := [one.event.id for one in received if isinstance(one.event, UserErased)]:
        await hold_answers(tx)
        await forget(tx, map(str, erased), UserGone().answer())


HANDLERS = Handlers(
    "orders",
    {
        UserCreated: customers_changed,
        UserUpdated: customers_changed,
        UserErased: customers_changed,
        **IDENTITY_HANDLERS,
    },
)
