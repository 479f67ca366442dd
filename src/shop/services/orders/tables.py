"""The order service's tables."""

from sqlalchemy import (
    BigInteger,
    Boolean,
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

metadata = MetaData()
add_spine_tables(metadata)
add_identity_tables(metadata)

orders = Table(
    "orders",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    # No foreign key. A customer's row is never deleted, and the statement that places an order joins it. A
    # foreign key would lock the customer's row for every order.
    Column("user_id", BigInteger, nullable=False),
    # Compared by bytes: a locale's sort order may change with the system, and break the index.
    Column("product", Text(collation="C"), nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("total_price", Numeric(12, 2), nullable=False),
    Column("status", Text, nullable=False, server_default=text("'placed'")),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    Column("placed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("quantity > 0", name="orders_quantity_is_positive"),
    CheckConstraint("total_price >= 0", name="orders_total_price_is_not_negative"),
    CheckConstraint("status IN ('placed', 'cancelled')", name="orders_status_is_known"),
)
Index("orders_of_user", orders.c.user_id, orders.c.id)
# Nearly all orders have the status "placed". They are not in this index, and are found by id.
Index("orders_not_placed", orders.c.id, postgresql_where=orders.c.status != text("'placed'"))
# The indexes for lists by time and by product.
Index("orders_by_time", orders.c.placed_at, orders.c.id)
Index("orders_of_product", orders.c.product, orders.c.placed_at, orders.c.id)

customers = Table(
    # Copies of the user service's users, from its events.
    "customers",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("email", Text),
    Column("name", Text),
    Column("version", BigInteger, nullable=False),
    # The row of an erased customer stays, so that a late event can't restore the person's data.
    Column("erased", Boolean, nullable=False),
)
