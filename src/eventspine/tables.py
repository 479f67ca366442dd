"""The spine's tables, in every service's database, beside the service's own."""

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from eventspine.migrations import PUBLISH_EVENTS, RUNNING_MS


def add_spine_tables(metadata: MetaData) -> None:
    """Declare them in a service's metadata. A service must not use their names for its own tables."""
    Table(
        "outbox_head",
        metadata,
        # Always one row. Its lock orders the commits; its number is the last position given out.
        Column("only_row", SmallInteger, primary_key=True, server_default=text("1")),
        Column("position", BigInteger, nullable=False),
        CheckConstraint("only_row = 1", name="outbox_head_has_one_row"),
    )
    Table(
        "outbox",
        metadata,
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("topic", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("type", Text, nullable=False),
        Column("schema_version", Integer, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("time", DateTime(timezone=True), nullable=False),
        Column("data", JSONB, nullable=False),
        Column("headers", JSONB),
    )
    Table(
        "relay",
        metadata,
        Column("source", Text, primary_key=True),
        Column("position", BigInteger, nullable=False),
        # Rises with every new leader. A leader that finds another number here has lost leadership.
        Column("epoch", BigInteger, nullable=False),
        # The identity of the log that the position belongs to; empty until a leader has stored it.
        Column("log", Text, nullable=False, server_default=text("''")),
        # Under change data capture: the position up to which the topic has everything. The relay ignores it.
        Column("captured", BigInteger, nullable=False, server_default=text("0")),
    )
    Table(
        "earlier_relay",
        metadata,
        # For each log that is not fed now, the position up to which it holds everything.
        Column("source", Text, primary_key=True),
        Column("log", Text, primary_key=True),
        Column("position", BigInteger, nullable=False),
    )
    Table(
        "idempotency_keys",
        metadata,
        Column("key_hash", LargeBinary, primary_key=True),
        # A hash of the request, salted with the key. Only the client knows the key.
        Column("fingerprint", LargeBinary, nullable=False),
        Column("status", Integer, nullable=False),
        Column("headers", JSONB, nullable=False),
        # Text and not jsonb, so that repeats get the same bytes.
        Column("body", Text, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        # The person whose data the answer holds, so that an erasure can find it.
        Column("about", Text),
        _running_ms(),
        Index("idempotency_keys_by_age", "running_ms"),
        Index("idempotency_keys_about", "about", postgresql_where=text("about IS NOT NULL")),
    )
    Table(
        "parked",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("topic", Text, primary_key=True),
        Column("partition", Integer, primary_key=True, autoincrement=False),
        Column("offset", BigInteger, primary_key=True, autoincrement=False),
        # 0 for a foreign record. It is part of the primary key: after a log lost its end and was
        # fed again, it may hold other events at the offsets of parked ones.
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("key", Text),
        Column("headers", JSONB, nullable=False),
        Column("value", LargeBinary),
        # A failed event blocks later events of its key; a foreign record does not.
        Column("holds_key", Boolean, nullable=False),
        Column("cause", Text, nullable=False),
        Column("error", Text, nullable=False),
        Column("attempts", Integer, nullable=False, server_default=text("1")),
        Column("parked_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        _running_ms(),
        Index(
            "parked_held_keys",
            "consumer",
            "topic",
            text("coalesce(hashtextextended(key, 0), 0)"),
            postgresql_where=text("holds_key"),
        ),
        Index(
            "parked_by_key",
            "consumer",
            "topic",
            text("coalesce(hashtextextended(key, 0), 0)"),
            "position",
            "partition",
            "offset",
        ),
        Index("parked_strangers_by_age", "running_ms", postgresql_where=text("NOT holds_key")),
    )
    Table(
        "cursors",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("topic", Text, primary_key=True),
        Column("partition", Integer, primary_key=True, autoincrement=False),
        Column("next_offset", BigInteger, nullable=False),
        Column("last_position", BigInteger, nullable=False),
        # The identity of the log that the checkpoint belongs to; empty until a consumer has stored
        # it. Then how that log spreads keys over partitions: a reader of another log needs it.
        Column("log", Text, nullable=False, server_default=text("''")),
        Column("partitions", Integer, nullable=False, server_default=text("0")),
        Column("rule", Text, nullable=False, server_default=text("''")),
    )
    Table(
        "earlier_cursors",
        metadata,
        # The checkpoints in logs that are not read now.
        Column("consumer", Text, primary_key=True),
        Column("topic", Text, primary_key=True),
        Column("log", Text, primary_key=True),
        Column("partition", Integer, primary_key=True, autoincrement=False),
        Column("next_offset", BigInteger, nullable=False),
        Column("last_position", BigInteger, nullable=False),
        Column("partitions", Integer, nullable=False),
        Column("rule", Text, nullable=False),
    )
    Table(
        "running_time",
        metadata,
        # Always one row: how long workers have run, in milliseconds. It never decreases.
        Column("only_row", SmallInteger, primary_key=True, server_default=text("1")),
        Column("ms", BigInteger, nullable=False),
        CheckConstraint("only_row = 1", name="running_time_has_one_row"),
    )
    Table(
        "outbox_marks",
        metadata,
        # The outbox's last position at several running times.
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("running_ms", BigInteger, nullable=False),
    )
    for when, function in (("before_create", RUNNING_MS), ("after_create", PUBLISH_EVENTS)):
        # DDL uses "%" for its placeholders.
        event.listen(metadata, when, DDL(function.replace("%", "%%")))  # type: ignore[no-untyped-call]


def _running_ms() -> Column[int]:
    """The running time when the row was stored. The row's age follows from it, without a wall clock."""
    return Column("running_ms", BigInteger, nullable=False, server_default=text("running_ms()"))
