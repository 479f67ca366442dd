"""Keys, generations and ended sessions, by which tokens are verified."""

from alembic import op

from shop.platform.auth.migrations import IDENTITY

revision = "orders_0013"
down_revision = "orders_0012"


def upgrade() -> None:
    op.execute(IDENTITY)
