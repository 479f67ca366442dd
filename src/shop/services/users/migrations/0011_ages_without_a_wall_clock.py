"""How old keys and parked records are, no wall clock says."""

from alembic import op

from eventspine.migrations import spine_10

revision = "users_0011"
down_revision = "users_0010"


def upgrade() -> None:
    op.execute(spine_10())
