"""The publication and the replication slot from which change data capture reads a service's outbox.

The publication comes first: a slot decodes the write-ahead log with the publications of that moment. The slot is
dropped by PostgreSQL's limit (`max_slot_wal_keep_size`) before it fills the disk, and can be made anew at any time:
the outbox keeps what was not published.
"""

from typing import NamedTuple

from psycopg import errors

from eventspine.database import Connection, execute
from eventspine.errors import SpineError

PUBLICATION = "outbox"

HEARTBEATS = "__debezium-heartbeat."
"""Before the name of a service's connector: the topic of Debezium's heartbeats."""

CONNECT_GROUP = "eventshop-connect"
CONNECT_TOPICS = tuple(f"{CONNECT_GROUP}-{what}" for what in ("config", "offsets", "status"))
"""What several Kafka Connect processes share, as `deploy/connect/distributed.properties` names it."""

# The columns that a record is made of. `publish`: rows are pruned, and nobody needs to know.
_PUBLISH = """
CREATE PUBLICATION outbox FOR TABLE outbox (position, topic, key, type, schema_version, time, data, headers)
WITH (publish = 'insert')
"""

_PUBLISHED = """
SELECT publication.oid IS NOT NULL, tables.tablename IS NOT NULL
FROM (VALUES ('outbox')) AS wanted(name)
LEFT JOIN pg_publication AS publication ON pubname = name
LEFT JOIN pg_publication_tables AS tables ON tables.pubname = name AND tables.tablename = 'outbox'
"""

_FIND = """
SELECT active, wal_status, safe_wal_size,
    pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint,
    pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint
FROM pg_replication_slots WHERE slot_name = %(slot)s AND database = current_database()
"""

_MAKE = "SELECT pg_create_logical_replication_slot(%(slot)s, 'pgoutput')"
_DROP = "SELECT pg_drop_replication_slot(%(slot)s)"
_COPY = "SELECT pg_copy_logical_replication_slot(%(slot)s, %(copy)s, true)"
_PEEK = """
SELECT data FROM pg_logical_slot_peek_binary_changes(
    %(copy)s, NULL, 1, 'proto_version', '1', 'publication_names', 'outbox'
)
"""


class NoCapture(SpineError):
    """Change data capture is not possible here. The message says why, and what to do."""


class Slot(NamedTuple):
    """The state of a slot. Sizes are in bytes."""

    active: bool
    wal_status: str
    """`reserved`, `extended`, `unreserved` (it will be lost), or `lost`."""
    safe_wal_size: int | None
    """What may still be written before the slot is in danger; None without a limit."""
    lag: int | None
    """What has been written and is not confirmed."""
    held: int | None
    """The write-ahead log that PostgreSQL keeps for it."""

    @property
    def is_lost(self) -> bool:
        return self.wal_status == "lost"


def slot_of(service: str) -> str:
    """The name of the service's slot, and of its connector."""
    return f"{service}_outbox"


async def require_logical(connection: Connection) -> None:
    """Raises `NoCapture` unless the server writes what logical decoding needs."""
    [(level,)] = await (await execute(connection, "SHOW wal_level")).fetchall()
    if level != "logical":
        raise NoCapture(
            f"PostgreSQL has wal_level = {level}: set it to logical, restart PostgreSQL, and try again"
        )


async def publish(connection: Connection) -> None:
    """Make the publication, as the owner of the outbox."""
    [(there, complete)] = await (await execute(connection, _PUBLISHED)).fetchall()
    if there and not complete:
        await execute(connection, "DROP PUBLICATION outbox")
    if not complete:
        await execute(connection, _PUBLISH)


async def unpublish(connection: Connection) -> None:
    await execute(connection, "DROP PUBLICATION IF EXISTS outbox")


async def find(connection: Connection, slot: str) -> Slot | None:
    rows = await (await execute(connection, _FIND, {"slot": slot})).fetchall()
    return Slot(*rows[0]) if rows else None


async def make(connection: Connection, slot: str) -> None:
    """Make the slot. It has every event that is committed after this returns."""
    await _as_replicator(connection, _MAKE, slot=slot)


async def drop(connection: Connection, slot: str) -> None:
    await _as_replicator(connection, _DROP, slot=slot)


async def first_not_confirmed(connection: Connection, slot: str) -> int | None:
    """The first position in the slot that Debezium has not confirmed; None if it has confirmed all.

    The slot itself does not move. Debezium must be stopped.
    """
    copy = f"{slot}_look"
    await _as_replicator(connection, _COPY, slot=slot, copy=copy)
    try:
        rows = await (await execute(connection, _PEEK, {"copy": copy})).fetchall()
    finally:
        await _as_replicator(connection, _DROP, slot=copy)
    return next((_position(data) for (data,) in rows if data[:1] == b"I"), None)


def _position(insert: bytes) -> int:
    """The first column of an insert, as pgoutput sends it: I, relation, N, columns; t, length, text."""
    kind, length = insert[8:9], int.from_bytes(insert[9:13], "big")
    assert kind == b"t", insert
    return int(insert[13 : 13 + length])


async def _as_replicator(connection: Connection, sql: str, **names: str) -> None:
    try:
        await execute(connection, sql, names)
    except errors.InsufficientPrivilege as error:
        raise NoCapture(
            f"role {connection.info.user} may not use replication slots: make a role with REPLICATION"
            " (`shop roles --cdc`), and name it in SHOP_…__CDC_DATABASE_URL"
        ) from error
    except errors.ConfigurationLimitExceeded as error:
        raise NoCapture(f"{error.diag.message_primary}: raise max_replication_slots") from error
