"""SQL for services' migrations. What was released never changes: a later change is another constant."""

STAMP_CHANGE = """
CREATE FUNCTION stamp_identity_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_in := pg_current_xact_id()::text::bigint;
    NEW.changed_ms := running_ms();
    RETURN NEW;
END
$$;
"""

STAMPED = """
CREATE TRIGGER stamped BEFORE INSERT OR UPDATE ON {table}
FOR EACH ROW EXECUTE FUNCTION stamp_identity_change();
"""

IDENTITY = (
    STAMP_CHANGE
    + """
CREATE TABLE signing_keys (
    kid TEXT COLLATE "C" NOT NULL,
    state TEXT NOT NULL,
    public_jwk JSONB NOT NULL,
    version BIGINT NOT NULL,
    changed_in BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (kid)
);
CREATE TABLE access (
    subject TEXT COLLATE "C" NOT NULL,
    roles TEXT[] NOT NULL,
    locked BOOLEAN NOT NULL,
    generation BIGINT NOT NULL,
    reason TEXT NOT NULL,
    version BIGINT NOT NULL,
    changed_in BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (subject)
);
CREATE INDEX access_by_change ON access (changed_in);
CREATE INDEX access_by_age ON access (changed_ms);
CREATE TABLE ended_sessions (
    session_id UUID NOT NULL,
    user_id BIGINT NOT NULL,
    reason TEXT NOT NULL,
    version BIGINT NOT NULL,
    changed_in BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL,
    PRIMARY KEY (session_id)
);
CREATE INDEX ended_sessions_by_change ON ended_sessions (changed_in);
CREATE INDEX ended_sessions_by_age ON ended_sessions (changed_ms);
"""
    + "".join(STAMPED.format(table=table) for table in ("signing_keys", "access", "ended_sessions"))
)
"""Run it in a migration of a service that has the spine's tables."""
