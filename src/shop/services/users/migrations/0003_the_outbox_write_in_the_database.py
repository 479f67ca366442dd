"""The outbox write as a function, parsed and planned once a session."""

revision = "users_0003"
down_revision = "users_0002"
spine = "spine_0003"


def upgrade() -> None:
    pass
