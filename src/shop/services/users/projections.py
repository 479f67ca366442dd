"""The user service's tables that can be recomputed from the event log."""

from eventspine.projections import Projection
from shop.platform.auth.copies import IDENTITY_PROJECTIONS

USERS = Projection(
    "users",
    topic="users",
    # An erased user's last event carries neither e-mail nor name.
    columns={"email": "text", "name": "text", "created_at": "timestamptz"},
    not_from_events={"erased_at": "CASE WHEN email IS NULL THEN event_time END"},
    personal=["email", "name"],
)

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

PROJECTIONS = (USERS, ORDERS, *IDENTITY_PROJECTIONS)
