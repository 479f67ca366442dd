"""The outbox write as a function, parsed and planned once a session."""

revision = "orders_0004"
down_revision = "orders_0003"
spine = "spine_0003"


def upgrade() -> None:
    pass
