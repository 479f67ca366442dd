"""Whose personal data a stored answer holds."""

from alembic import op

revision = "users_0005"
down_revision = "users_0004"
spine = "spine_0005"


def upgrade() -> None:
    # What is done was answered with the user's data; a refusal never holds any.
    op.execute("UPDATE idempotency_keys SET about = body::json->>'id' WHERE status IN (200, 201)")
