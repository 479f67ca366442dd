"""The indexes parked_held_keys, for blocked keys, and parked_strangers_by_age, for pruning."""

from alembic import op

revision = "spine_0006"
down_revision = "spine_0005"

# A hash, because a key may be too long for an index.
SQL = """
CREATE INDEX parked_held_keys ON parked (consumer, topic, coalesce(hashtextextended(key, 0), 0))
    WHERE holds_key;
CREATE INDEX parked_strangers_by_age ON parked (parked_at) WHERE NOT holds_key;
"""


def upgrade() -> None:
    op.execute(SQL)
