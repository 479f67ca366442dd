"""parked_held_keys: which keys are held up; parked_strangers_by_age: what can be pruned."""

from alembic import op

revision = "spine_0006"
down_revision = "spine_0005"

# A hash, since a key may be longer than what an index takes.
SQL = """
CREATE INDEX parked_held_keys ON parked (consumer, topic, coalesce(hashtextextended(key, 0), 0))
    WHERE holds_key;
CREATE INDEX parked_strangers_by_age ON parked (parked_at) WHERE NOT holds_key;
"""


def upgrade() -> None:
    op.execute(SQL)
