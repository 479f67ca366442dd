"""The letter service's tables."""

from sqlalchemy import BigInteger, Column, Identity, MetaData, Table, Text

from eventspine.tables import add_spine_tables

metadata = MetaData()
add_spine_tables(metadata)

letters = Table(
    "letters",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("address", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
)
