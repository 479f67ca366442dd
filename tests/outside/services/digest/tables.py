"""The digest service's tables."""

from sqlalchemy import BigInteger, Column, MetaData, Table, Text

from eventspine.tables import add_spine_tables

metadata = MetaData()
add_spine_tables(metadata)

digest = Table(
    "digest",
    metadata,
    Column("status", Text, primary_key=True),
    Column("letters", BigInteger, nullable=False),
)
