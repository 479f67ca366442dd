"""A key's parked events are found without reading the others'."""

from alembic import op

from eventspine.migrations import spine_8

revision = "users_0008"
down_revision = "users_0007"


def upgrade() -> None:
    op.execute(spine_8())
