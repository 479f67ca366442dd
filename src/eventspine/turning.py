"""A relay changes from one log to another, if it can feed the other without a gap.

It starts after what the new log is known to have: nothing, if the log is new; what was relayed to it, if it was fed
before; or what was copied into it (`log_copy.py`). The next positions must be in the outbox.
"""

from typing import NamedTuple

import structlog

from eventspine.database import Connection, execute
from eventspine.errors import SpineError

_LOG = structlog.get_logger("eventspine.relay")

# How far the log holds everything; the first position that the outbox holds, or will be given out.
_BEGINS = """
SELECT coalesce((
        SELECT position FROM earlier_relay WHERE source = %(source)s AND log = %(log)s
    ), 0),
    coalesce((SELECT min(position) FROM outbox), (SELECT position + 1 FROM outbox_head))
"""

_TURN = """
WITH was AS (
    SELECT source, log, position FROM relay
    WHERE source = %(source)s AND epoch = %(epoch)s FOR UPDATE
), aside AS (
    INSERT INTO earlier_relay (source, log, position)
    SELECT source, log, position FROM was WHERE log <> ''
    ON CONFLICT (source, log) DO UPDATE SET position = excluded.position
), back AS (
    DELETE FROM earlier_relay USING was
    WHERE earlier_relay.source = was.source AND earlier_relay.log = %(log)s
)
UPDATE relay SET log = %(log)s, position = %(position)s FROM was WHERE relay.source = was.source
"""

_HOLDS = """
WITH fed AS (
    UPDATE relay SET position = greatest(position, %(position)s)
    WHERE source = %(source)s AND log = %(log)s RETURNING source
)
INSERT INTO earlier_relay (source, log, position)
SELECT %(source)s, %(log)s, %(position)s WHERE NOT EXISTS (SELECT FROM fed)
ON CONFLICT (source, log) DO UPDATE
SET position = greatest(earlier_relay.position, excluded.position)
"""


class NotInOutbox(SpineError):
    """A log is to be fed that lacks what the outbox has been pruned of."""


class Fed(NamedTuple):
    """Whose events, to which log, and in which term of office."""

    source: str
    log: str
    epoch: int


async def turn_to(connection: Connection, fed: Fed, *, known: str, saved: int) -> int:
    """Gives the position after which that log is to be fed. Raises `NotInOutbox`, and changes nothing."""
    if not known:
        # From before it was remembered, or nothing was ever relayed.
        position = saved
    else:
        position, first = await begins(connection, fed.source, fed.log)
        if first > position + 1:
            raise NotInOutbox(missing_sentence(fed.source, position + 1, first - 1))
        _LOG.warning(
            "relay.log_changed",
            source=fed.source, log=fed.log, before=known, from_position=position + 1,
        )  # fmt: skip
    await execute(connection, _TURN, {**fed._asdict(), "position": position})
    return position


async def begins(connection: Connection, source: str, log: str) -> tuple[int, int]:
    """How far a log that is not fed now holds everything, and where the outbox begins."""
    row = await (await execute(connection, _BEGINS, {"source": source, "log": log})).fetchone()
    assert row is not None
    return row[0], row[1]


async def holds(connection: Connection, source: str, log: str, position: int) -> None:
    """Note that the log holds everything up to this position: a relay that feeds it begins behind it."""
    await execute(connection, _HOLDS, {"source": source, "log": log, "position": position})


def missing_sentence(source: str, first: int, last: int) -> str:
    span = (
        f"position {first} of {source} is"
        if first == last
        else f"positions {first} to {last} of {source} are"
    )
    return (
        f"the log is another one than before, and {span} not in the outbox any more: nothing is fed to "
        "it until they are copied from the log before (`shop log copy`, or `shop up` with "
        "--copy-log-from), or given up (`shop log accept`); see docs/operations.md, 'Another log'"
    )
