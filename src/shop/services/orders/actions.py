"""What the order service does. Each action takes a batch of requests and answers one result each.

A batch does what its commands would have done one after the other. A refusal is a value among the
results, so that it fails no neighbour.
"""

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from eventspine.context import Request
from eventspine.outbox import Transaction
from shop.contracts.orders import OrderCancelled, OrderPlaced
from shop.platform.problems import PreconditionFailed
from shop.services.orders.errors import OrderNotFound, UnknownCustomer
from shop.services.orders.queries import order
from shop.services.orders.schemas import CancelOrder, Customer, Order, PlaceOrder

# One statement places every order whose customer is known; the n of those it does not return were
# refused. MERGE, because its RETURNING, unlike INSERT's, can name the source's columns.
_PLACE = """
MERGE INTO orders AS o
USING (
    SELECT c.n, c.user_id, c.product, c.quantity, c.total_price, u.name, u.email
    FROM jsonb_to_recordset(%(commands)s::jsonb) AS c(
        n integer, user_id bigint, product text, quantity integer, total_price numeric(12, 2))
    JOIN customers u ON u.id = c.user_id AND NOT u.erased
    ORDER BY c.n
) AS c ON false
WHEN NOT MATCHED THEN INSERT (user_id, product, quantity, total_price)
    VALUES (c.user_id, c.product, c.quantity, c.total_price)
RETURNING c.n, o.id, o.total_price, o.placed_at, c.name, c.email
"""

# In the order of their ids, or two batches could wait for each other.
_LOCK = """
SELECT o.id, o.user_id, o.product, o.quantity, o.total_price, o.status, o.version, o.placed_at,
    c.name, c.email
FROM orders o LEFT JOIN customers c ON c.id = o.user_id
WHERE o.id = ANY(%(ids)s)
ORDER BY o.id FOR NO KEY UPDATE OF o
"""

_CANCEL = """
UPDATE orders SET status = 'cancelled', version = version + 1 WHERE id = ANY(%(ids)s)
"""


async def place(
    tx: Transaction, requests: Sequence[Request[PlaceOrder]]
) -> list[Order | UnknownCustomer]:
    wanted = [
        {
            "n": n,
            "user_id": command.user_id,
            "product": command.product,
            "quantity": command.quantity,
            "total_price": str(command.total_price),
        }
        for n, (command, _, _) in enumerate(requests)
    ]
    results: list[Order | UnknownCustomer | None] = [None] * len(requests)
    rows = await tx.fetch(_PLACE, {"commands": to_json(wanted).decode()})
    for n, id_, total_price, placed_at, name, email in rows:
        command, context, _ = requests[n]
        fields: dict[str, Any] = {
            "id": id_,
            "user_id": command.user_id,
            "product": command.product,
            "quantity": command.quantity,
            "total_price": total_price,
            "status": "placed",
            "version": 1,
            "placed_at": placed_at,
        }
        tx.publish(OrderPlaced(**fields), context)
        customer = Customer(name=name, email=email)
        results[n] = Order(**fields, customer=customer)
    return [
        result or UnknownCustomer(f"This service knows no user with the id {command.user_id}")
        for result, (command, _, _) in zip(results, requests, strict=True)
    ]


async def cancel(
    tx: Transaction, requests: Sequence[Request[CancelOrder]]
) -> list[Order | OrderNotFound | PreconditionFailed]:
    """An order is cancelled once; to cancel it again changes nothing and answers the same."""
    rows = await tx.fetch(_LOCK, {"ids": [request.command.order_id for request in requests]})
    known = {row[0]: order(row) for row in rows}
    cancelled: list[int] = []
    results: list[Order | OrderNotFound | PreconditionFailed] = []
    for command, context, _ in requests:
        was = known.get(command.order_id)
        if was is None:
            results.append(OrderNotFound(f"No order has the id {command.order_id}"))
            continue
        if command.versions is not None and was.version not in command.versions:
            detail = f'The order is at version {was.version}: ETag "{was.version}"'
            results.append(PreconditionFailed(detail))
            continue
        if was.status == "placed":
            now = was.model_copy(update={"status": "cancelled", "version": was.version + 1})
            known[was.id] = now
            cancelled.append(was.id)
            event = OrderCancelled.model_validate(now, from_attributes=True)
            tx.publish(event, context)
        results.append(known[was.id])
    await tx.execute(_CANCEL, {"ids": cancelled})
    return results
