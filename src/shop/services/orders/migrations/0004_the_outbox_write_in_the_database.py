"""The outbox write as a function, parsed and planned once a session."""

from alembic import op

from eventspine.migrations import spine_3

revision = "orders_0004"
down_revision = "orders_0003"


def upgrade() -> None:
    op.execute(spine_3())
