"""Which keys are held up, and what is old and holds none, is found however much is parked."""

revision = "users_0006"
down_revision = "users_0005"
spine = "spine_0006"


def upgrade() -> None:
    pass
