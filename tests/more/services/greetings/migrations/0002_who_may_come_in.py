"""Keys, generations and ended sessions, by which tokens are verified."""

from alembic import op

from shop.platform.auth.migrations import IDENTITY

revision = "greetings_0002"
down_revision = "greetings_0001"


def upgrade() -> None:
    op.execute(IDENTITY)
