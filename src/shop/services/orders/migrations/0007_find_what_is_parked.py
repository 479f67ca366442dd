"""Which keys are held up, and what is old and holds none, is found however much is parked."""

revision = "orders_0007"
down_revision = "orders_0006"
spine = "spine_0006"


def upgrade() -> None:
    pass
