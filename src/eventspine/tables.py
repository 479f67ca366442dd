"""The spine's tables, in every service's database, beside the service's own."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB


def add_spine_tables(metadata: MetaData) -> None:
    """Declare them in a service's metadata. Their names are the spine's; keep off them."""
    Table(
        "outbox_head",
        metadata,
        # One row, always: its lock is the commit order, its number the last position given out.
        Column("only_row", SmallInteger, primary_key=True, server_default=text("1")),
        Column("position", BigInteger, nullable=False),
        CheckConstraint("only_row = 1", name="outbox_head_has_one_row"),
    )
    Table(
        "outbox",
        metadata,
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("topic", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("type", Text, nullable=False),
        Column("schema_version", Integer, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("time", DateTime(timezone=True), nullable=False),
        Column("data", JSONB, nullable=False),
        Column("headers", JSONB),
    )
    Table(
        "relay",
        metadata,
        Column("source", Text, primary_key=True),
        Column("position", BigInteger, nullable=False),
        # Rises with every leader: a leader that finds another's number here is deposed.
        Column("epoch", BigInteger, nullable=False),
    )
    Table(
        "cursors",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("topic", Text, primary_key=True),
        Column("partition", Integer, primary_key=True, autoincrement=False),
        Column("next_offset", BigInteger, nullable=False),
        Column("last_position", BigInteger, nullable=False),
    )
