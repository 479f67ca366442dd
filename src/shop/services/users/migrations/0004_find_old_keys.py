"""Old idempotency keys are found for ever, not only while the table is young."""

from alembic import op

from eventspine.migrations import spine_4

revision = "users_0004"
down_revision = "users_0003"


def upgrade() -> None:
    op.execute(spine_4())
