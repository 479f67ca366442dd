"""Idempotency keys, and events that could not be applied."""

revision = "users_0002"
down_revision = "users_0001"
spine = "spine_0002"


def upgrade() -> None:
    pass
