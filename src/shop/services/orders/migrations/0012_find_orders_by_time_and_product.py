"""Indexes for `GET /orders` by time and by product."""

from alembic import op

revision = "orders_0012"
down_revision = "orders_0011"


def upgrade() -> None:
    # Not CONCURRENTLY, which no transaction allows: writes wait while they are made.
    op.execute(
        """
        CREATE INDEX orders_by_time ON orders (placed_at, id);
        CREATE INDEX orders_of_product ON orders (product COLLATE "C", placed_at, id)
        """
    )
