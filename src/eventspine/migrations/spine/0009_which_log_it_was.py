"""Checkpoints and the relay's position store their log; those of earlier logs are kept."""

from alembic import op

revision = "spine_0009"
down_revision = "spine_0008"

# Checkpoints and relay positions belong to one log and store its identity. Existing rows get it when they are
# next read. Rows of a log that is not in use are kept, for a return to that log and to know what was applied.
SQL = """
ALTER TABLE cursors
    ADD COLUMN log TEXT DEFAULT '' NOT NULL,
    ADD COLUMN partitions INTEGER DEFAULT 0 NOT NULL,
    ADD COLUMN rule TEXT DEFAULT '' NOT NULL;
ALTER TABLE relay ADD COLUMN log TEXT DEFAULT '' NOT NULL;
CREATE TABLE earlier_cursors (
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    log TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset BIGINT NOT NULL,
    last_position BIGINT NOT NULL,
    partitions INTEGER NOT NULL,
    rule TEXT NOT NULL,
    PRIMARY KEY (consumer, topic, log, partition)
);
CREATE TABLE earlier_relay (
    source TEXT NOT NULL,
    log TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (source, log)
);
"""


def upgrade() -> None:
    op.execute(SQL)
