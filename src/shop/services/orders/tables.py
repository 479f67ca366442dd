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
    # No foreign key: a customer's row is never deleted, an order is only placed by joining it,
    # and the check would lock the customer's row for every order.
    Column("user_id", BigInteger, nullable=False),
    # By bytes: a locale's order, in an index, would change with the system's rules.
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
# Nearly all orders are placed ones: those are found by id alone, and cost this index nothing.
Index("orders_not_placed", orders.c.id, postgresql_where=orders.c.status != text("'placed'"))
# For lists by time and by product.
Index("orders_by_time", orders.c.placed_at, orders.c.id)
Index("orders_of_product", orders.c.product, orders.c.placed_at, orders.c.id)

customers = Table(
    # The user service's users, as its events tell of them.
    "customers",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("email", Text),
    Column("name", Text),
    Column("version", BigInteger, nullable=False),
    # An erased customer keeps its row: a late event can't bring the person back.
    Column("erased", Boolean, nullable=False),
)
