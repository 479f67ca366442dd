"""The order service's tables that can be recomputed from the event log."""

from eventspine.projections import Projection
from shop.platform.auth.copies import IDENTITY_PROJECTIONS

ORDERS = Projection(
    "orders",
    topic="orders",
    columns={
        "user_id": "bigint",
        "product": "text",
        "quantity": "integer",
        "total_price": "numeric(12, 2)",
        "status": "text",
        "placed_at": "timestamptz",
    },
)

CUSTOMERS = Projection(
    "customers",
    topic="users",
    columns={"email": "text", "name": "text"},
    # The last event of an erased user has no email address.
    computed={"erased": "email IS NULL"},
    personal=["email", "name"],
)

PROJECTIONS = (ORDERS, CUSTOMERS, *IDENTITY_PROJECTIONS)
