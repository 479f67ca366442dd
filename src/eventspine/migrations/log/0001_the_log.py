"""The log's tables."""

from alembic import op

revision = "log_0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE log_heads (
            topic TEXT NOT NULL,
            partition INTEGER NOT NULL,
            next_offset BIGINT NOT NULL,
            PRIMARY KEY (topic, partition)
        );
        CREATE TABLE log_records (
            topic TEXT NOT NULL,
            partition INTEGER NOT NULL,
            "offset" BIGINT NOT NULL,
            key TEXT,
            value TEXT,
            headers JSON NOT NULL,
            appended_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (topic, partition, "offset")
        );
        """
    )
