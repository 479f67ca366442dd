"""idempotency_keys_by_age, as an index that pruning can go by for ever."""

from alembic import op

revision = "spine_0004"
down_revision = "spine_0003"

# A BRIN index remembers the oldest time that a range of pages has ever held. Pages are used again
# once their keys have been pruned, so after a while every range looked as old as the table is, and
# pruning read all of it.
SQL = """
DROP INDEX idempotency_keys_by_age;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
"""


def upgrade() -> None:
    op.execute(SQL)
