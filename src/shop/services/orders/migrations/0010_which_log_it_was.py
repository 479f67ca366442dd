"""Checkpoints and the relay's position store the identity of their log."""

revision = "orders_0010"
down_revision = "orders_0009"
spine = "spine_0009"


def upgrade() -> None:
    pass
