"""What the order service's tables must be, said once: the fold of the log."""

from eventspine.fold import Fold

FOLDS = (
    Fold(
        table="orders",
        topic="orders",
        columns={
            "user_id": "(data->>'user_id')::bigint",
            "product": "data->>'product'",
            "quantity": "(data->>'quantity')::integer",
            "total_price": "(data->>'total_price')::numeric(12, 2)",
            "status": "data->>'status'",
            "placed_at": "(data->>'placed_at')::timestamptz",
        },
    ),
    Fold(
        table="customers",
        topic="users",
        columns={
            "email": "data->>'email'",
            "name": "data->>'name'",
            # An erased user's last event carries no address.
            "erased": "data->>'email' IS NULL",
        },
    ),
)
