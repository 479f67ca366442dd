"""The audit of the log itself: whether it is the log that a database knows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from eventspine.database import Connection, execute
from eventspine.turning import begins, missing_sentence
from eventspine.which_log import Earlier, earlier_of

_FED = """
SELECT coalesce((SELECT log FROM relay WHERE source = %(source)s), ''),
    coalesce((SELECT position FROM relay WHERE source = %(source)s AND log IN ('', %(log)s)),
        (SELECT position FROM earlier_relay WHERE source = %(source)s AND log = %(log)s), 0)
"""

_CHECKPOINTS = """
SELECT topic, partition, next_offset, last_position FROM cursors
WHERE consumer = %(consumer)s AND topic = %(topic)s AND log IN ('', %(log)s)
"""

_OTHERS = """
SELECT DISTINCT log FROM cursors
WHERE consumer = %(consumer)s AND topic = %(topic)s AND log NOT IN ('', %(log)s)
"""

_WAY_OUT = (
    "start its worker with these settings, and it changes to this log; or run this command with the settings"
    " of the other log; see docs/operations.md, 'Another log'"
)


class Feeding(NamedTuple):
    """What the service's database says about feeding this log."""

    relayed: int
    """The position up to which this log holds everything, according to the database."""
    problem: str | None
    lacks: bool
    """Whether some events are only in another log, and neither in this one nor in the outbox."""


async def feeding(connection: Connection, source: str, log: str) -> Feeding:
    [(known, relayed)] = await _all(connection, _FED, {"source": source, "log": log})
    if known in {"", log}:
        return Feeding(relayed, None, lacks=False)
    holds, first = await begins(connection, source, log)
    if first > holds + 1:
        return Feeding(relayed, missing_sentence(source, holds + 1, first - 1), lacks=True)
    problem = f"events are relayed to another log ({known}) than this one ({log}): {_WAY_OUT}"
    return Feeding(relayed, problem, lacks=False)


class Reading(NamedTuple):
    """How a service reads a topic of this log."""

    checkpoints: dict[int, tuple[int, int]]
    """For each partition, the next offset and the last position."""
    earlier: Earlier
    problem: str | None


async def reading(connection: Connection, consumer: str, topic: str, log: str) -> Reading:
    place = {"consumer": consumer, "topic": topic, "log": log}
    checkpoints = {
        partition: (next_offset, last_position)
        for _, partition, next_offset, last_position in await _all(connection, _CHECKPOINTS, place)
    }
    others = ", ".join(sorted(name for (name,) in await _all(connection, _OTHERS, place)))
    problem = (
        f"the checkpoints on topic {topic} belong to another log ({others}) than this one ({log}):"
        f" {_WAY_OUT}"
    )
    earlier = await earlier_of(connection, consumer, topic, log)
    return Reading(checkpoints, earlier, problem if others else None)


def not_there_yet(topic: str, earlier: Earlier, highest: int) -> str | None:
    """A problem if events were applied from another log and are not in this one; otherwise None."""
    if highest >= earlier.highest:
        return None
    return (
        f"events of topic {topic} up to position {earlier.highest} were applied from another log"
        f" ({', '.join(earlier.logs)}), and this one holds none above {highest}: the worker that feeds it"
        " may not be done, so audit again in a while; if that does not change, copy them from the earlier"
        " log; see docs/operations.md, 'Another log'"
    )


async def _all(connection: Connection, sql: str, params: dict[str, Any]) -> Sequence[Any]:
    return await (await execute(connection, sql, params)).fetchall()
