"""idempotency_keys_by_age becomes a B-tree index, which pruning can use for any length of time."""

from alembic import op

revision = "spine_0004"
down_revision = "spine_0003"

# A BRIN index keeps the oldest time that a range of pages has ever held. Pages are reused after their keys
# have been pruned. So after a while every range looked as old as the table, and pruning read all of it.
SQL = """
DROP INDEX idempotency_keys_by_age;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
"""


def upgrade() -> None:
    op.execute(SQL)
