"""Checkpoints and the relay's position say which log they are places in."""

revision = "orders_0010"
down_revision = "orders_0009"
spine = "spine_0009"


def upgrade() -> None:
    pass
