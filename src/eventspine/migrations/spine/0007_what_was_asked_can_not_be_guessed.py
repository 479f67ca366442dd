"""idempotency_keys stores only hashes of keys and requests, so that requests can't be guessed."""

from alembic import op

revision = "spine_0007"
down_revision = "spine_0006"

# Stored keys are found again by their hash. (Before this release, an erasure also removed the fingerprint. So a
# repeat of a request about a person erased in the last day is now refused, like another request.) The column
# gets another name, so that an API of the release before can't store a key that this release does not find.
SQL = """
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


def upgrade() -> None:
    op.execute(SQL)
