"""The tables of the issuing side. The tables that other services have copies of are in `shop.platform.auth`."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY


def add_issuing_tables(metadata: MetaData) -> None:
    """Declare these tables in the user service's metadata, after the spine's."""
    Table(
        "credentials",
        metadata,
        # A user without a password has no row.
        Column("user_id", BigInteger, primary_key=True, autoincrement=False),
        Column("password_hash", Text, nullable=False),
        Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )
    Table(
        "devices",
        metadata,
        # Devices on which the user has logged in. Wrong passwords from other devices do not slow them.
        Column("token_hash", LargeBinary, primary_key=True),
        Column("user_id", BigInteger, nullable=False),
        _running_ms(),
        Index("devices_of_user", "user_id"),
        Index("devices_by_age", "running_ms"),
    )
    Table(
        "sessions",
        metadata,
        # Sessions that have not ended.
        Column("id", Uuid, primary_key=True),
        Column("user_id", BigInteger, nullable=False),
        Column("family_hash", LargeBinary, nullable=False),
        Column("token_hash", LargeBinary, nullable=False),
        # Counts the refresh tokens of the family, from 1.
        Column("generation", BigInteger, nullable=False, server_default=text("1")),
        Column("device", Text),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("refreshed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("begun_ms", BigInteger, nullable=False, server_default=text("running_ms()")),
        _running_ms(),
        Index("sessions_of_user", "user_id"),
        Index("sessions_by_age", "running_ms"),
        Index("sessions_by_beginning", "begun_ms"),
    )
    Table(
        "refresh_answers",
        metadata,
        # Answers to refresh tokens, for clients that did not receive the answer.
        Column("token_hash", LargeBinary, primary_key=True),
        Column("session_id", Uuid, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        Column("answer", LargeBinary, nullable=False),
        Column("answered_at", DateTime(timezone=True), nullable=False),
        _running_ms(),
        Index("refresh_answers_of_session", "session_id"),
        Index("refresh_answers_by_age", "running_ms"),
    )
    Table(
        "password_resets",
        metadata,
        Column("user_id", BigInteger, primary_key=True, autoincrement=False),
        Column("token_hash", LargeBinary, nullable=False),
        _running_ms(),
        Index("password_resets_by_age", "running_ms"),
    )
    Table(
        "private_keys",
        metadata,
        # Encrypted; the public halves are in `signing_keys`.
        Column("kid", Text(collation="C"), primary_key=True),
        Column("algorithm", Text, nullable=False),
        Column("encrypted_under", Text, nullable=False),
        Column("encrypted", LargeBinary, nullable=False),
        Column("made_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )
    Table(
        "clients",
        metadata,
        Column("id", Text(collation="C"), primary_key=True),
        Column("scope", ARRAY(Text), nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )
    Table(
        "client_secrets",
        metadata,
        Column("secret_hash", LargeBinary, primary_key=True),
        Column(
            "client_id",
            Text(collation="C"),
            ForeignKey("clients.id", ondelete="CASCADE"),
            nullable=False,
        ),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Index("client_secrets_of_client", "client_id"),
    )


def _running_ms() -> Column[int]:
    """The running time when the row was stored (docs/decisions/0006)."""
    return Column("running_ms", BigInteger, nullable=False, server_default=text("running_ms()"))
