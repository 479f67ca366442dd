"""The index for old idempotency keys stays fast when the table gets old."""

revision = "orders_0005"
down_revision = "orders_0004"
spine = "spine_0004"


def upgrade() -> None:
    pass
