"""Which log a service reads and feeds, and what it has applied from earlier logs.

A database stores, with each checkpoint and with the relay's position, the identity of their log. For
another log they have no meaning. They are set aside, and that log is read from its beginning, or from where it
was left if it was read before.

Applied events are not applied again. An event is a repeat if its position is not above the last position applied
from its partition, in this log or in an earlier one. The rule of the earlier log tells which of its partitions
the key was in. So the check is exact, however the logs are partitioned and wherever their readers left them
(docs/decisions/0008-a-log-has-an-identity.md).
"""

from collections.abc import Iterable
from typing import NamedTuple

from eventspine.database import Connection, Database, execute
from eventspine.log import TopicIdentity
from eventspine.outbox import transaction
from eventspine.partitions import partition_of
from eventspine.reading import Checkpoint

_FIND = """
SELECT next_offset, last_position FROM cursors
WHERE consumer = %(consumer)s AND topic = %(topic)s AND partition = %(partition)s AND log = %(log)s
"""

_EARLIER = """
SELECT log, partition, last_position, partitions, rule FROM earlier_cursors
WHERE consumer = %(consumer)s AND topic = %(topic)s AND log <> %(log)s AND last_position > 0
"""

# Until a reader has taken up a partition of the new log, its checkpoint still belongs to the earlier log.
_NOT_READ = """
SELECT log, partition, last_position, partitions, rule FROM cursors
WHERE consumer = %(consumer)s AND topic = %(topic)s AND log NOT IN ('', %(log)s)
"""

_ONE_AT_A_TIME = """
SELECT pg_advisory_xact_lock(hashtextextended(%(consumer)s || '/' || %(topic)s, 7409))
"""

# Checkpoints of a release that did not store the log's identity.
_ADOPT = """
UPDATE cursors SET log = %(log)s, partitions = %(partitions)s, rule = %(rule)s
WHERE consumer = %(consumer)s AND topic = %(topic)s AND log = ''
"""

# In one statement: DELETE waits for a consumer that is moving a checkpoint, and then returns the new values.
_SET_ASIDE = """
WITH aside AS (
    DELETE FROM cursors WHERE consumer = %(consumer)s AND topic = %(topic)s AND log <> %(log)s
    RETURNING *
)
INSERT INTO earlier_cursors
    (consumer, topic, log, partition, next_offset, last_position, partitions, rule)
SELECT consumer, topic, log, partition, next_offset, last_position, partitions, rule FROM aside
ON CONFLICT (consumer, topic, log, partition) DO UPDATE
SET next_offset = excluded.next_offset, last_position = excluded.last_position
RETURNING log
"""

_TAKE_BACK = """
WITH back AS (
    DELETE FROM earlier_cursors WHERE consumer = %(consumer)s AND topic = %(topic)s AND log = %(log)s
    RETURNING *
)
INSERT INTO cursors (consumer, topic, partition, next_offset, last_position, log, partitions, rule)
SELECT consumer, topic, partition, next_offset, last_position, log, partitions, rule FROM back
ON CONFLICT (consumer, topic, partition) DO NOTHING
"""

_BEGIN = """
INSERT INTO cursors (consumer, topic, partition, next_offset, last_position, log, partitions, rule)
VALUES (%(consumer)s, %(topic)s, %(partition)s, 0, 0, %(log)s, %(partitions)s, %(rule)s)
ON CONFLICT (consumer, topic, partition) DO NOTHING
"""


class Earlier:
    """The events of a topic that were applied from earlier logs."""

    def __init__(self, rows: Iterable[tuple[str, int, int, int, str]] = ()) -> None:
        self._logs: dict[str, tuple[int, str, dict[int, int]]] = {}
        self.highest = 0
        for log, partition, last_position, partitions, rule in rows:
            self._logs.setdefault(log, (partitions, rule, {}))[2][partition] = last_position
            self.highest = max(self.highest, last_position)

    @property
    def logs(self) -> list[str]:
        return sorted(self._logs)

    def covers(self, key: str | None, position: int) -> bool:
        if position > self.highest:
            return False
        return any(
            position <= last.get(partition_of(key or "", partitions, rule), 0)
            for partitions, rule, last in self._logs.values()
        )


NOTHING_EARLIER = Earlier()


class TakenUp(NamedTuple):
    """Where to continue in a partition, and which log was read before, if it was another one."""

    checkpoint: Checkpoint
    earlier: Earlier
    before: str | None


async def take_up(
    database: Database, consumer: str, topic: str, partition: int, identity: TopicIdentity
) -> TakenUp:
    """Take up a partition of this log, and set aside the checkpoints of the earlier log.

    A consumer that still reads the earlier log does not find its checkpoint any more, so it rolls back.
    """
    place = {
        "consumer": consumer,
        "topic": topic,
        "partition": partition,
        "log": identity.id,
        "partitions": identity.partitions,
        "rule": identity.rule,
    }
    before = None
    rows = await database.fetch(_FIND, place)
    if not rows:
        async with transaction(database) as tx:
            await tx.execute(_ONE_AT_A_TIME, place)
            await tx.execute(_ADOPT, place)
            if aside := await tx.fetch(_SET_ASIDE, place):
                before = str(aside[0][0])
            await tx.execute(_TAKE_BACK, place)
            await tx.execute(_BEGIN, place)
            rows = await tx.fetch(_FIND, place)
    earlier = Earlier(await database.fetch(_EARLIER, place))
    return TakenUp(Checkpoint(*rows[0]), earlier, before)


async def earlier_of(connection: Connection, consumer: str, topic: str, log: str) -> Earlier:
    """What was applied from other logs, also if this log has not been read yet."""
    place = {"consumer": consumer, "topic": topic, "log": log}
    rows = await (await execute(connection, _EARLIER, place)).fetchall()
    return Earlier([*rows, *await (await execute(connection, _NOT_READ, place)).fetchall()])
