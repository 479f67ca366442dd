"""The outbox write as a function, parsed and planned once a session."""

from alembic import op

from eventspine.migrations import spine_3

revision = "users_0003"
down_revision = "users_0002"


def upgrade() -> None:
    op.execute(spine_3())
