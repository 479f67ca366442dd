"""Idempotency keys, and events that could not be applied."""

from alembic import op

from eventspine.migrations import spine_2

revision = "orders_0003"
down_revision = "orders_0002"


def upgrade() -> None:
    op.execute(spine_2())
