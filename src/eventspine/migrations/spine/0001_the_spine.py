"""The tables outbox, outbox_head, relay and cursors."""

from alembic import op

revision = "spine_0001"
down_revision = None

SQL = """
CREATE TABLE outbox_head (
    only_row SMALLINT DEFAULT 1 NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (only_row),
    CONSTRAINT outbox_head_has_one_row CHECK (only_row = 1)
);
INSERT INTO outbox_head (position) VALUES (0);
CREATE TABLE outbox (
    position BIGINT NOT NULL,
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    type TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    version BIGINT NOT NULL,
    time TIMESTAMP WITH TIME ZONE NOT NULL,
    data JSONB NOT NULL,
    headers JSONB,
    PRIMARY KEY (position)
);
CREATE TABLE relay (
    source TEXT NOT NULL,
    position BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    PRIMARY KEY (source)
);
CREATE TABLE cursors (
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset BIGINT NOT NULL,
    last_position BIGINT NOT NULL,
    PRIMARY KEY (consumer, topic, partition)
);
"""


def upgrade() -> None:
    op.execute(SQL)
