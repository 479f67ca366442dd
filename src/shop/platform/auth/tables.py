"""The tables of `copies.py`."""

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Index,
    MetaData,
    Table,
    Text,
    Uuid,
    event,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from shop.platform.auth.migrations import STAMP_CHANGE, STAMPED


def add_identity_tables(metadata: MetaData) -> None:
    """Declare these tables in a service's metadata, after the spine's.

    Indexed text is compared byte by byte. A locale's rules may change, and would then break the index.
    """
    tables = (
        Table(
            "signing_keys",
            metadata,
            Column("kid", Text(collation="C"), primary_key=True),
            Column("state", Text, nullable=False),
            Column("public_jwk", JSONB, nullable=False),
            *_version(),
        ),
        Table(
            "access",
            metadata,
            Column("subject", Text(collation="C"), primary_key=True),
            Column("roles", ARRAY(Text), nullable=False),
            Column("locked", Boolean, nullable=False),
            Column("generation", BigInteger, nullable=False),
            Column("reason", Text, nullable=False),
            *_version(),
            Index("access_by_change", "changed_in"),
            Index("access_by_age", "changed_ms"),
        ),
        Table(
            "ended_sessions",
            metadata,
            Column("session_id", Uuid, primary_key=True),
            Column("user_id", BigInteger, nullable=False),
            Column("reason", Text, nullable=False),
            *_version(),
            Index("ended_sessions_by_change", "changed_in"),
            Index("ended_sessions_by_age", "changed_ms"),
        ),
    )
    event.listen(metadata, "before_create", DDL(STAMP_CHANGE))  # type: ignore[no-untyped-call]
    for table in tables:
        event.listen(table, "after_create", DDL(STAMPED.format(table=table.name)))  # type: ignore[no-untyped-call]


def _version() -> tuple[Column[int], ...]:
    return (
        Column("version", BigInteger, nullable=False),
        # The id of the transaction that wrote the row. A row with an id below that of the oldest running transaction
        # is visible. A number from a sequence could become visible after a higher one.
        Column("changed_in", BigInteger, nullable=False),
        # The running time at which it was written.
        Column("changed_ms", BigInteger, nullable=False),
    )
