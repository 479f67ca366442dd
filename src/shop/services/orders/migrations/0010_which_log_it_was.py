"""Checkpoints and the relay's position say which log they are places in."""

from alembic import op

from eventspine.migrations import spine_9

revision = "orders_0010"
down_revision = "orders_0009"


def upgrade() -> None:
    op.execute(spine_9())
