"""Keys, generations and ended sessions, by which tokens are verified."""

from alembic import op

from shop.platform.auth.migrations import IDENTITY

revision = "users_0012"
down_revision = "users_0011"


def upgrade() -> None:
    op.execute(IDENTITY)
