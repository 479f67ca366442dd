"""An index for the few orders that are not placed ones, for `GET /orders?status=`."""

from alembic import op

revision = "orders_0002"
down_revision = "orders_0001"


def upgrade() -> None:
    # Not CONCURRENTLY: the index is empty until orders are cancelled, and so is made in one scan.
    op.execute("CREATE INDEX orders_not_placed ON orders (id) WHERE status <> 'placed'")
