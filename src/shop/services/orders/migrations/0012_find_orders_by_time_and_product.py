"""Indexes for `GET /orders` by time and by product; products are compared and sorted by bytes."""

from alembic import op

revision = "orders_0012"
down_revision = "orders_0011"


def upgrade() -> None:
    # Not CONCURRENTLY, which is not possible in a transaction. Writes wait while the indexes are built.
    op.execute(
        """
        ALTER TABLE orders ALTER COLUMN product TYPE TEXT COLLATE "C";
        CREATE INDEX orders_by_time ON orders (placed_at, id);
        CREATE INDEX orders_of_product ON orders (product, placed_at, id)
        """
    )
