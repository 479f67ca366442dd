"""The actions of the order service. Each takes a batch of requests and returns one result for each.

A batch has the same effect as its commands one after another. A refusal is a value among the results, so that
the other commands of the batch still succeed.
"""

from collections.abc import Sequence

from pydantic_core import to_json
from sqlalchemy.dialects.postgresql.base import PGDialect

from eventspine.context import Request
from eventspine.event import trusted
from eventspine.outbox import Transaction
from shop.contracts.orders import OrderCancelled, OrderPlaced
from shop.platform.problems import PreconditionFailed
from shop.services.orders.errors import OrderNotFound, UnknownCustomer
from shop.services.orders.queries import lock, not_found, seen
from shop.services.orders.schemas import CancelOrder, Order, PlacedOrder, PlaceOrder
from shop.services.orders.tables import orders

_GIVEN = ", ".join(PlaceOrder._fields)
_DIALECT = PGDialect()  # type: ignore[no-untyped-call]
_TYPES = ", ".join(f"{name} {orders.c[name].type.compile(_DIALECT)}" for name in PlaceOrder._fields)

# One statement places every order whose customer is known. It returns their numbers n, from 1; the missing
# numbers are refused. MERGE, because its RETURNING, unlike INSERT's, can name the source's columns. OFFSET 0
# makes PostgreSQL do one look-up for each order, for any number of customers at planning time.
_PLACE = f"""
MERGE INTO orders AS o
USING (
    SELECT c.*, u.name AS customer_name, u.email AS customer_email
    FROM ROWS FROM (jsonb_to_recordset(%(commands)s::jsonb) AS ({_TYPES}))
        WITH ORDINALITY AS c({_GIVEN}, n)
    CROSS JOIN LATERAL (
        SELECT name, email FROM customers WHERE id = c.user_id AND NOT erased OFFSET 0
    ) AS u
    ORDER BY c.n
) AS c ON false
WHEN NOT MATCHED THEN INSERT ({_GIVEN}) VALUES ({", ".join(f"c.{name}" for name in PlaceOrder._fields)})
RETURNING c.n, o.id, o.total_price, o.placed_at, c.customer_name, c.customer_email
"""  # noqa: S608 - names from the code, no user input

if {*OrderPlaced.model_fields, "customer"} != {*Order.model_fields}:
    raise TypeError("the answer to a new order is its event's data and its customer")

_CANCEL = """
UPDATE orders SET status = 'cancelled', version = version + 1 WHERE id = ANY(%(ids)s)
"""


async def place(
    tx: Transaction, requests: Sequence[Request[PlaceOrder]]
) -> list[PlacedOrder | UnknownCustomer]:
    wanted = [request.command._asdict() for request in requests]
    results: list[PlacedOrder | UnknownCustomer | None] = [None] * len(requests)
    rows = await tx.fetch(_PLACE, {"commands": to_json(wanted).decode()})
    for n, id_, total_price, placed_at, name, email in rows:
        placed = {
            "id": id_,
            **wanted[n - 1],
            "total_price": total_price,
            "status": "placed",
            "version": 1,
            "placed_at": placed_at,
        }
        data = tx.publish(trusted(OrderPlaced, placed), requests[n - 1].context)
        customer = to_json({"name": name, "email": email}).decode()
        body = f'{data[:-1]},"customer":{customer}}}'.encode()
        results[n - 1] = PlacedOrder(id_, placed["user_id"], body)
    return [
        result or UnknownCustomer(f"This service knows no user with the id {command.user_id}")
        for result, (command, _, _) in zip(results, requests, strict=True)
    ]


async def cancel(
    tx: Transaction, requests: Sequence[Request[CancelOrder]]
) -> list[Order | OrderNotFound | PreconditionFailed]:
    """An order is cancelled once. Another cancellation changes nothing and gets the same answer."""
    known = await lock(tx, [request.command for request in requests])
    cancelled: list[int] = []
    results: list[Order | OrderNotFound | PreconditionFailed] = []
    for command, context, _ in requests:
        was = seen(known, command)
        if was is None:
            results.append(not_found(command))
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
