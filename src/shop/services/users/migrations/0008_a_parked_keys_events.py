"""A key's parked events are found without reading the others'."""

revision = "users_0008"
down_revision = "users_0007"
spine = "spine_0008"


def upgrade() -> None:
    pass
