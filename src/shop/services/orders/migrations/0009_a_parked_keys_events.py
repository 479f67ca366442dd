"""A key's parked events are found without reading the others'."""

revision = "orders_0009"
down_revision = "orders_0008"
spine = "spine_0008"


def upgrade() -> None:
    pass
