"""What the greeting service does when others' events arrive."""

from collections.abc import Sequence

from eventspine.handlers import Handlers
from eventspine.outbox import Transaction
from eventspine.projections import keep_latest
from eventspine.received import Received
from shop.contracts.users import UserCreated, UserErased, UserUpdated
from shop.platform.auth.copies import IDENTITY_HANDLERS
from tests.more.services.greetings.projections import PEOPLE


async def people_changed(
    tx: Transaction, received: Sequence[Received[UserCreated | UserUpdated | UserErased]]
) -> None:
    """Keep a copy of everybody, and no more of an erased one than the id."""
    await keep_latest(tx, PEOPLE, received)


HANDLERS = Handlers(
    "greetings",
    {
        UserCreated: people_changed,
        UserUpdated: people_changed,
        UserErased: people_changed,
        **IDENTITY_HANDLERS,
    },
)
