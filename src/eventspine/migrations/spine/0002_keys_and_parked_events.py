"""The tables idempotency_keys and parked."""

from alembic import op

revision = "spine_0002"
down_revision = "spine_0001"

SQL = """
CREATE TABLE idempotency_keys (
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL,
    headers JSONB NOT NULL,
    body TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys USING brin (created_at);
CREATE TABLE parked (
    consumer TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    position BIGINT NOT NULL,
    key TEXT,
    headers JSONB NOT NULL,
    value BYTEA,
    holds_key BOOLEAN NOT NULL,
    cause TEXT NOT NULL,
    error TEXT NOT NULL,
    attempts INTEGER DEFAULT 1 NOT NULL,
    parked_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (consumer, topic, partition, "offset", position)
);
"""


def upgrade() -> None:
    op.execute(SQL)
