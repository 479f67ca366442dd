"""Steps of the spine's own schema, called from services' migrations; never changed once released."""

_SPINE_1 = """
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

_SPINE_2 = """
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


def spine_1() -> str:
    """outbox, outbox_head, relay, cursors."""
    return _SPINE_1


def spine_2() -> str:
    """idempotency_keys, parked."""
    return _SPINE_2
