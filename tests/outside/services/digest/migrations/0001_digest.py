"""How many letters came to which status."""

from alembic import op

revision = "digest_0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE digest (
            status TEXT NOT NULL,
            letters BIGINT NOT NULL,
            PRIMARY KEY (status)
        );
        """
    )
