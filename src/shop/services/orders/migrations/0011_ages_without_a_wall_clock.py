"""The ages of keys and parked records no longer depend on a wall clock."""

revision = "orders_0011"
down_revision = "orders_0010"
spine = "spine_0010"


def upgrade() -> None:
    pass
