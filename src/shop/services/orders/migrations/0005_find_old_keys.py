"""Old idempotency keys are found for ever, not only while the table is young."""

revision = "orders_0005"
down_revision = "orders_0004"
spine = "spine_0004"


def upgrade() -> None:
    pass
