"""Checkpoints and the relay's position say which log they are places in."""

revision = "users_0010"
down_revision = "users_0009"
spine = "spine_0009"


def upgrade() -> None:
    pass
