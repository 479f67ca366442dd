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

PUBLISH_EVENTS = """
CREATE FUNCTION publish_events(count integer, events jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    base bigint;
BEGIN
    -- STRICT: if the head is gone this fails, instead of publishing nothing.
    UPDATE outbox_head SET position = position + count RETURNING position - count INTO STRICT base;
    INSERT INTO outbox (position, topic, key, type, schema_version, version, time, data, headers)
    SELECT base + e.n, e.t, e.k, e.y, e.s, e.v, clock_timestamp(), e.d, e.h
    FROM ROWS FROM (
        jsonb_to_recordset(events) AS
            (t text, k text, y text, s integer, v bigint, d jsonb, h jsonb)
    ) WITH ORDINALITY AS e(t, k, y, s, v, d, h, n);
    PERFORM pg_notify('outbox', '');
END
$$;
"""
"""The outbox write: a transaction's last statement. It takes the row lock of `outbox_head`, advances
it by the number of events, and stores them with the positions between."""

# A BRIN index remembers the oldest time that a range of pages has ever held. Pages are used again
# once their keys have been pruned, so after a while every range looked as old as the table is, and
# pruning read all of it.
_SPINE_4 = """
DROP INDEX idempotency_keys_by_age;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
"""

_SPINE_5 = """
ALTER TABLE idempotency_keys ADD COLUMN about TEXT;
CREATE INDEX idempotency_keys_about ON idempotency_keys (about) WHERE about IS NOT NULL;
"""

# A hash, since a key may be longer than what an index takes.
_SPINE_6 = """
CREATE INDEX parked_held_keys ON parked (consumer, topic, coalesce(hashtextextended(key, 0), 0))
    WHERE holds_key;
CREATE INDEX parked_strangers_by_age ON parked (parked_at) WHERE NOT holds_key;
"""

# What was stored is found again under its hash. (An answer about somebody who was erased in the last
# day has lost its fingerprint: its repeat is now refused like another request's.) The column has another
# name, so that an API of the release before can't store a key where this one would not look for it.
_SPINE_7 = """
ALTER TABLE idempotency_keys
    ALTER COLUMN fingerprint TYPE BYTEA USING sha256(convert_to(key || ' ' || fingerprint, 'UTF8')),
    ALTER COLUMN key TYPE BYTEA USING sha256(convert_to(key, 'UTF8'));
ALTER TABLE idempotency_keys RENAME COLUMN key TO key_hash;
DO $$ BEGIN
    -- PostgreSQL 18 gives it a name; those before do not have it.
    ALTER TABLE idempotency_keys
        RENAME CONSTRAINT idempotency_keys_key_not_null TO idempotency_keys_key_hash_not_null;
EXCEPTION WHEN undefined_object THEN NULL;
END $$;
"""

_SPINE_8 = """
CREATE INDEX parked_by_key ON parked
    (consumer, topic, coalesce(hashtextextended(key, 0), 0), position, partition, "offset");
"""

# Checkpoints and positions are places in a log, and say in which. Those from before know it once they are
# next read. Those of a log that is not in use are kept, for the way back and to know what was applied.
_SPINE_9 = """
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

RUNNING_MS = """
CREATE FUNCTION running_ms() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT ms FROM running_time);
END
$$;
"""
"""The running time as it stands, for rows that are stored without saying it."""

# What is there counts as stored now, so it is kept for its time once more.
_SPINE_10 = (
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


def spine_1() -> str:
    """outbox, outbox_head, relay, cursors."""
    return _SPINE_1


def spine_2() -> str:
    """idempotency_keys, parked."""
    return _SPINE_2


def spine_3() -> str:
    """publish_events, the function that writes the outbox."""
    return PUBLISH_EVENTS


def spine_4() -> str:
    """idempotency_keys_by_age, as an index that pruning can go by for ever."""
    return _SPINE_4


def spine_5() -> str:
    """idempotency_keys.about: whose personal data an answer holds."""
    return _SPINE_5


def spine_6() -> str:
    """parked_held_keys: which keys are held up; parked_strangers_by_age: what can be pruned."""
    return _SPINE_6


def spine_7() -> str:
    """idempotency_keys: of keys and requests only what nobody can guess by."""
    return _SPINE_7


def spine_8() -> str:
    """parked_by_key: a key's parked events, in their order."""
    return _SPINE_8


def spine_9() -> str:
    """Which log checkpoints and the relay's position are places in; those of the logs before."""
    return _SPINE_9


def spine_10() -> str:
    """running_time, outbox_marks; running_ms of keys and parked records: ages without a wall clock."""
    return _SPINE_10


STEPS = (
    spine_1,
    spine_2,
    spine_3,
    spine_4,
    spine_5,
    spine_6,
    spine_7,
    spine_8,
    spine_9,
    spine_10,
)
"""All of them, in their order."""
