"""What the order service does when others' events arrive."""

from collections.abc import Sequence

from eventspine.errors import MissingEvents
from eventspine.event import dump
from eventspine.handlers import Handlers
from eventspine.idempotency import forget, hold_answers
from eventspine.outbox import Transaction
from eventspine.reading import Received
from shop.contracts.users import UserCreated, UserErased, UserUpdated
from shop.services.orders.errors import UserGone

# The newest version wins, so a repeat does nothing. What is selected, as the tables stood before,
# is an event whose predecessor never came.
_KEEP = """
WITH e AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(events)s::jsonb) AS e(
        id bigint, email text, name text, version bigint)
), kept AS (
    INSERT INTO customers AS c (id, email, name, version, erased)
    SELECT id, email, name, version, email IS NULL FROM e ORDER BY id
    ON CONFLICT (id) DO UPDATE SET email = excluded.email, name = excluded.name,
        version = excluded.version, erased = excluded.erased
    WHERE c.version < excluded.version
)
SELECT e.id, coalesce(c.version, 0), e.version FROM e LEFT JOIN customers c USING (id)
WHERE e.version > coalesce(c.version, 0) + 1
LIMIT 1
"""


async def customers_changed(
    tx: Transaction, received: Sequence[Received[UserCreated | UserUpdated | UserErased]]
) -> None:
    """Keep a copy of every customer, and no more of an erased one than the id."""
    events = [one.event for one in received]
    for id_, known, got in await tx.fetch(_KEEP, {"events": dump(events)}):
        tx.alarm(MissingEvents("customer", id_, known=known, got=got))
    if erased := [event.id for event in events if isinstance(event, UserErased)]:
        await hold_answers(tx)
        await forget(tx, map(str, erased), UserGone().answer())


HANDLERS = Handlers(
    "orders",
    {
        UserCreated: customers_changed,
        UserUpdated: customers_changed,
        UserErased: customers_changed,
    },
)
