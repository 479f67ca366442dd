"""An index for the few orders with another status than "placed", for `GET /orders?status=`."""

from alembic import op

revision = "orders_0002"
down_revision = "orders_0001"


def upgrade() -> None:
    # Not CONCURRENTLY: the index has few rows, so one scan of the table builds it.
    op.execute("CREATE INDEX orders_not_placed ON orders (id) WHERE status <> 'placed'")
