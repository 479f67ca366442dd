"""log_heads.topic_id: the identity of a topic. A recreated topic has another one."""

from alembic import op

revision = "log_0002"
down_revision = "log_0001"


def upgrade() -> None:
    op.execute("ALTER TABLE log_heads ADD COLUMN topic_id UUID DEFAULT gen_random_uuid() NOT NULL")
