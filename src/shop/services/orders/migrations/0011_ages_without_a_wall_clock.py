"""How old keys and parked records are, no wall clock says."""

revision = "orders_0011"
down_revision = "orders_0010"
spine = "spine_0010"


def upgrade() -> None:
    pass
