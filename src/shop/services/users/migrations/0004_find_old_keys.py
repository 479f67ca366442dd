"""Old idempotency keys are found for ever, not only while the table is young."""

revision = "users_0004"
down_revision = "users_0003"
spine = "spine_0004"


def upgrade() -> None:
    pass
