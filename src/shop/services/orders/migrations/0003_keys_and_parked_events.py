"""Idempotency keys, and events that could not be applied."""

revision = "orders_0003"
down_revision = "orders_0002"
spine = "spine_0002"


def upgrade() -> None:
    pass
