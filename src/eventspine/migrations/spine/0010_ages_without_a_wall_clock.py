"""Ages without a wall clock: running_time, outbox_marks, and running_ms of keys and parked records."""

from alembic import op

from eventspine.migrations import RUNNING_MS

revision = "spine_0010"
down_revision = "spine_0009"

# Existing rows count as stored now, so they are kept for a full retention time again.
SQL = (
    """
CREATE TABLE running_time (
    only_row SMALLINT DEFAULT 1 NOT NULL,
    ms BIGINT NOT NULL,
    PRIMARY KEY (only_row),
    CONSTRAINT running_time_has_one_row CHECK (only_row = 1)
);
INSERT INTO running_time (ms) VALUES (0);
"""
    + RUNNING_MS
    + """
CREATE TABLE outbox_marks (
    position BIGINT NOT NULL,
    running_ms BIGINT NOT NULL,
    PRIMARY KEY (position)
);
ALTER TABLE idempotency_keys ADD COLUMN running_ms BIGINT DEFAULT running_ms() NOT NULL;
DROP INDEX idempotency_keys_by_age;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (running_ms);
ALTER TABLE parked ADD COLUMN running_ms BIGINT DEFAULT running_ms() NOT NULL;
DROP INDEX parked_strangers_by_age;
CREATE INDEX parked_strangers_by_age ON parked (running_ms) WHERE NOT holds_key;
"""
)


def upgrade() -> None:
    op.execute(SQL)
