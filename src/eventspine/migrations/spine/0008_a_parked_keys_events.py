"""The index parked_by_key: a key's parked events, in their order."""

from alembic import op

revision = "spine_0008"
down_revision = "spine_0007"

SQL = """
CREATE INDEX parked_by_key ON parked
    (consumer, topic, coalesce(hashtextextended(key, 0), 0), position, partition, "offset");
"""


def upgrade() -> None:
    op.execute(SQL)
