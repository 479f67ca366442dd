"""idempotency_keys.about: the person whose data an answer holds."""

from alembic import op

revision = "spine_0005"
down_revision = "spine_0004"

SQL = """
ALTER TABLE idempotency_keys ADD COLUMN about TEXT;
CREATE INDEX idempotency_keys_about ON idempotency_keys (about) WHERE about IS NOT NULL;
"""


def upgrade() -> None:
    op.execute(SQL)
