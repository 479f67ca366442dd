"""The tables of the log that is a table, in a PostgreSQL database of its own."""

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.schema import CreateTable

metadata = MetaData()

Table(
    "log_heads",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    # The first partition's id is the topic's. A recreated topic has another one.
    Column("topic_id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
)
Table(
    "log_records",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text),
    # Text and not jsonb, because a log must return the same bytes.
    Column("value", Text),
    Column("headers", JSON, nullable=False),
    Column("appended_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)


def create_tables() -> str:
    """SQL that creates the tables that do not exist."""
    return ";".join(
        str(CreateTable(table, if_not_exists=True).compile(dialect=PGDialect_psycopg()))  # type: ignore[no-untyped-call]
        for table in metadata.sorted_tables
    )
