"""The function publish_events, which writes the outbox."""

from alembic import op

from eventspine.migrations import PUBLISH_EVENTS

revision = "spine_0003"
down_revision = "spine_0002"

SQL = PUBLISH_EVENTS


def upgrade() -> None:
    op.execute(SQL)
