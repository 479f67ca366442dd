"""Which keys are held up, and what is old and holds none, is found however much is parked."""

from alembic import op

from eventspine.migrations import spine_6

revision = "orders_0007"
down_revision = "orders_0006"


def upgrade() -> None:
    op.execute(spine_6())
