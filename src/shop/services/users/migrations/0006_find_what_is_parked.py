"""Which keys are held up, and what is old and holds none, is found however much is parked."""

from alembic import op

from eventspine.migrations import spine_6

revision = "users_0006"
down_revision = "users_0005"


def upgrade() -> None:
    op.execute(spine_6())
