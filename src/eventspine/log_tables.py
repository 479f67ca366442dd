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
    # Of a topic, the first partition's: by it a topic that was made anew is told from the old one.
    Column("topic_id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
)
Table(
    "log_records",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text),
    # Text and not jsonb: a log gives back the bytes it was given.
    Column("value", Text),
    Column("headers", JSON, nullable=False),
    Column("appended_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)


def create_tables() -> str:
    """SQL that makes those which are not there."""
    return ";".join(
        str(CreateTable(table, if_not_exists=True).compile(dialect=PGDialect_psycopg()))  # type: ignore[no-untyped-call]
        for table in metadata.sorted_tables
    )
