"""The greeting service's tables."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    MetaData,
    Table,
    Text,
    func,
    text,
)

from eventspine.tables import add_spine_tables
from shop.platform.auth.tables import add_identity_tables

metadata = MetaData()
add_spine_tables(metadata)
add_identity_tables(metadata)

greetings = Table(
    "greetings",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    Column("sent_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

people = Table(
    # The user service's users, as its events tell of them.
    "people",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text),
    Column("version", BigInteger, nullable=False),
    Column("erased", Boolean, nullable=False),
)
