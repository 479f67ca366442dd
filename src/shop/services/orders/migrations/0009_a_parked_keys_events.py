"""An index finds the parked events of one key."""

revision = "orders_0009"
down_revision = "orders_0008"
spine = "spine_0008"


def upgrade() -> None:
    pass
