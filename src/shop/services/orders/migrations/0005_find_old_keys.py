"""Old idempotency keys are found for ever, not only while the table is young."""

from alembic import op

from eventspine.migrations import spine_4

revision = "orders_0005"
down_revision = "orders_0004"


def upgrade() -> None:
    op.execute(spine_4())
