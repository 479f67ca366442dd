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
    """Declare them in a service's metadata. Their names are the spine's; keep off them."""
    Table(
        "outbox_head",
        metadata,
        # One row, always: its lock is the commit order, its number the last position given out.
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
        # Rises with every leader: a leader that finds another number here has lost leadership.
        Column("epoch", BigInteger, nullable=False),
        # The identity of the log that the position is one of; empty until a leader has looked.
        Column("log", Text, nullable=False, server_default=text("''")),
    )
    Table(
        "earlier_relay",
        metadata,
        # How far logs hold everything that are not fed now.
        Column("source", Text, primary_key=True),
        Column("log", Text, primary_key=True),
        Column("position", BigInteger, nullable=False),
    )
    Table(
        "idempotency_keys",
        metadata,
        Column("key_hash", LargeBinary, primary_key=True),
        # Of what was asked for, salted with the key: which only the client has.
        Column("fingerprint", LargeBinary, nullable=False),
        Column("status", Integer, nullable=False),
        Column("headers", JSONB, nullable=False),
        # Text and not jsonb: repeats are given the same bytes.
        Column("body", Text, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        # Whose personal data the answer holds, so that it can be found when they are erased.
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
        # 0 of a record that is no event of ours. A part of the key, because a log that lost its
        # end and was fed again may hold other events at the offsets of parked ones.
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("key", Text),
        Column("headers", JSONB, nullable=False),
        Column("value", LargeBinary),
        # An event that failed holds its key's later events behind it; a foreign record does not.
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
        # The identity of the log that this is a place in; empty until a consumer has looked. And how
        # it spreads keys over partitions: a reader of another log needs it later.
        Column("log", Text, nullable=False, server_default=text("''")),
        Column("partitions", Integer, nullable=False, server_default=text("0")),
        Column("rule", Text, nullable=False, server_default=text("''")),
    )
    Table(
        "earlier_cursors",
        metadata,
        # Of logs that are not read now.
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
        # One row, always: for how long workers have run, in milliseconds. It never goes back.
        Column("only_row", SmallInteger, primary_key=True, server_default=text("1")),
        Column("ms", BigInteger, nullable=False),
        CheckConstraint("only_row = 1", name="running_time_has_one_row"),
    )
    Table(
        "outbox_marks",
        metadata,
        # Up to which position the outbox had come at what running time.
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("running_ms", BigInteger, nullable=False),
    )
    for when, function in (("before_create", RUNNING_MS), ("after_create", PUBLISH_EVENTS)):
        # "%" is how DDL marks what it fills in.
        event.listen(metadata, when, DDL(function.replace("%", "%%")))  # type: ignore[no-untyped-call]


def _running_ms() -> Column[int]:
    """The running time when the row was stored: its age, whatever the wall clock says."""
    return Column("running_ms", BigInteger, nullable=False, server_default=text("running_ms()"))
