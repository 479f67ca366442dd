"""Idempotency keys, and events that could not be applied."""

from alembic import op

from eventspine.migrations import spine_2

revision = "users_0002"
down_revision = "users_0001"


def upgrade() -> None:
    op.execute(spine_2())
