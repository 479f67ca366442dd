"""A key's parked events are found without reading the others'."""

from alembic import op

from eventspine.migrations import spine_8

revision = "orders_0009"
down_revision = "orders_0008"


def upgrade() -> None:
    op.execute(spine_8())
