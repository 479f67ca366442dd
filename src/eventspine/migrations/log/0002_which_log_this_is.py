"""A topic has an identity, so that one that was made anew is told from the one before."""

from alembic import op

revision = "log_0002"
down_revision = "log_0001"


def upgrade() -> None:
    op.execute("ALTER TABLE log_heads ADD COLUMN topic_id UUID DEFAULT gen_random_uuid() NOT NULL")
