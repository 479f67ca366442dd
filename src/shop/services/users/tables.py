"""The user service's tables."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    func,
    text,
)

from eventspine.tables import add_spine_tables
from shop.platform.auth.tables import add_identity_tables
from shop.services.users.identity.tables import add_issuing_tables

metadata = MetaData()
add_spine_tables(metadata)
add_identity_tables(metadata)
add_issuing_tables(metadata)

LETTERS = "pg_c_utf8"
"""An address's collation says what upper and lower case are: Unicode's rules, one letter for one letter.
The database's own would be those of its locale, and in Turkish INFO is not info."""

users = Table(
    "users",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    # An erased user keeps its row, without the person in it: a late event can't bring it back.
    Column("email", Text(collation=LETTERS)),
    Column("name", Text),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("erased_at", DateTime(timezone=True)),
    CheckConstraint(
        "(erased_at IS NULL) = (email IS NOT NULL) AND (erased_at IS NULL) = (name IS NOT NULL)",
        name="users_are_whole_or_erased",
    ),
)
Index("users_email_key", func.lower(users.c.email), unique=True)

orders = Table(
    # The order service's orders, as its events tell of them.
    "orders",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", BigInteger, nullable=False),
    Column("product", Text, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("total_price", Numeric(12, 2), nullable=False),
    Column("status", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("placed_at", DateTime(timezone=True), nullable=False),
)
Index("orders_of_user", orders.c.user_id, orders.c.id)
