"""What the user service does when others' events arrive."""

from collections.abc import Sequence

from eventspine.errors import MissingEvents
from eventspine.event import dump
from eventspine.handlers import Handlers
from eventspine.outbox import Transaction
from eventspine.reading import Received
from shop.contracts.orders import OrderCancelled, OrderPlaced

# The newest version wins, so a repeat does nothing. What is selected, as the tables stood before,
# is an event whose predecessor never came.
_KEEP = """
WITH e AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(events)s::jsonb) AS e(
        id bigint, user_id bigint, product text, quantity integer, total_price numeric,
        status text, version bigint, placed_at timestamptz)
), kept AS (
    INSERT INTO orders AS o
        (id, user_id, product, quantity, total_price, status, version, placed_at)
    SELECT id, user_id, product, quantity, total_price, status, version, placed_at
    FROM e ORDER BY id
    ON CONFLICT (id) DO UPDATE SET status = excluded.status, version = excluded.version
    WHERE o.version < excluded.version
)
SELECT e.id, coalesce(o.version, 0), e.version FROM e LEFT JOIN orders o USING (id)
WHERE e.version > coalesce(o.version, 0) + 1
LIMIT 1
"""


async def orders_changed(
    tx: Transaction, received: Sequence[Received[OrderPlaced | OrderCancelled]]
) -> None:
    """Keep a copy of every order, for `GET /users/{id}/orders`."""
    events = [one.event for one in received]
    for id_, known, got in await tx.fetch(_KEEP, {"events": dump(events)}):
        tx.alarm(MissingEvents("order", id_, known=known, got=got))


HANDLERS = Handlers(
    "users",
    {
        OrderPlaced: orders_changed,
        OrderCancelled: orders_changed,
    },
)
