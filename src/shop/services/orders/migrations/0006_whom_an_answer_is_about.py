"""A stored answer names the person whose data it holds."""

from alembic import op

revision = "orders_0006"
down_revision = "orders_0005"
spine = "spine_0005"


def upgrade() -> None:
    # Answers of successful requests hold the customer's data; refusals do not.
    op.execute(
        "UPDATE idempotency_keys SET about = body::json->>'user_id' WHERE status IN (200, 201)"
    )
