"""The column relay.captured: what change data capture has published."""

from alembic import op

revision = "spine_0011"
down_revision = "spine_0010"

SQL = """
ALTER TABLE relay ADD COLUMN captured BIGINT DEFAULT 0 NOT NULL;
"""


def upgrade() -> None:
    op.execute(SQL)
