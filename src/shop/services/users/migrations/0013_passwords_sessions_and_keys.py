"""Passwords, sessions, signing keys and clients: the service issues tokens."""

from alembic import op

revision = "users_0013"
down_revision = "users_0012"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE credentials (
            user_id BIGINT NOT NULL,
            password_hash TEXT NOT NULL,
            changed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (user_id)
        );
        CREATE TABLE devices (
            token_hash BYTEA NOT NULL,
            user_id BIGINT NOT NULL,
            running_ms BIGINT DEFAULT running_ms() NOT NULL,
            PRIMARY KEY (token_hash)
        );
        CREATE INDEX devices_by_age ON devices (running_ms);
        CREATE INDEX devices_of_user ON devices (user_id);
        CREATE TABLE sessions (
            id UUID NOT NULL,
            user_id BIGINT NOT NULL,
            family_hash BYTEA NOT NULL,
            token_hash BYTEA NOT NULL,
            generation BIGINT DEFAULT 1 NOT NULL,
            device TEXT,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            refreshed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            begun_ms BIGINT DEFAULT running_ms() NOT NULL,
            running_ms BIGINT DEFAULT running_ms() NOT NULL,
            PRIMARY KEY (id)
        );
        CREATE INDEX sessions_by_age ON sessions (running_ms);
        CREATE INDEX sessions_by_beginning ON sessions (begun_ms);
        CREATE INDEX sessions_of_user ON sessions (user_id);
        CREATE TABLE refresh_answers (
            token_hash BYTEA NOT NULL,
            session_id UUID NOT NULL,
            answer BYTEA NOT NULL,
            answered_at TIMESTAMP WITH TIME ZONE NOT NULL,
            running_ms BIGINT DEFAULT running_ms() NOT NULL,
            PRIMARY KEY (token_hash),
            FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
        );
        CREATE INDEX refresh_answers_by_age ON refresh_answers (running_ms);
        CREATE INDEX refresh_answers_of_session ON refresh_answers (session_id);
        CREATE TABLE password_resets (
            user_id BIGINT NOT NULL,
            token_hash BYTEA NOT NULL,
            running_ms BIGINT DEFAULT running_ms() NOT NULL,
            PRIMARY KEY (user_id)
        );
        CREATE INDEX password_resets_by_age ON password_resets (running_ms);
        CREATE TABLE private_keys (
            kid TEXT COLLATE "C" NOT NULL,
            algorithm TEXT NOT NULL,
            encrypted_under TEXT NOT NULL,
            encrypted BYTEA NOT NULL,
            made_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (kid)
        );
        CREATE TABLE clients (
            id TEXT COLLATE "C" NOT NULL,
            scope TEXT[] NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (id)
        );
        CREATE TABLE client_secrets (
            secret_hash BYTEA NOT NULL,
            client_id TEXT COLLATE "C" NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (secret_hash),
            FOREIGN KEY(client_id) REFERENCES clients (id) ON DELETE CASCADE
        );
        CREATE INDEX client_secrets_of_client ON client_secrets (client_id);
        """
    )
