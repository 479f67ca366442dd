"""Whose personal data a stored answer holds."""

from alembic import op

revision = "orders_0006"
down_revision = "orders_0005"
spine = "spine_0005"


def upgrade() -> None:
    # What is done was answered with the customer's data; a refusal never holds any.
    op.execute(
        "UPDATE idempotency_keys SET about = body::json->>'user_id' WHERE status IN (200, 201)"
    )
