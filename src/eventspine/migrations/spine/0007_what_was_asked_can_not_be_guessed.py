"""idempotency_keys: of keys and requests only what nobody can guess by."""

from alembic import op

revision = "spine_0007"
down_revision = "spine_0006"

# What was stored is found again under its hash. (An answer about somebody who was erased in the last
# day has lost its fingerprint: its repeat is now refused like another request's.) The column has another
# name, so that an API of the release before can't store a key where this one would not look for it.
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
