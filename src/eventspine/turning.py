"""Changes a relay from one log to another, if it can feed the new one without a gap.

It starts after what the new log is known to have: nothing, if the log is new; what was relayed to it, if it was fed
before; or what was copied into it (`log_copy.py`). The next positions must be in the outbox.
"""

from typing import NamedTuple

import structlog

from eventspine.database import Connection, execute
from eventspine.errors import SpineError

_LOG = structlog.get_logger("eventspine.relay")

# The position up to which the log holds everything; then the first position in the outbox, or, if that is
# empty, the next one to be given out.
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
UPDATE relay SET log = %(log)s, position = %(position)s, captured = 0 FROM was WHERE relay.source = was.source
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
    """The new log lacks events that have been pruned from the outbox."""


class Fed(NamedTuple):
    """The service whose events are fed, the log, and the leader's epoch."""

    source: str
    log: str
    epoch: int


async def turn_to(connection: Connection, fed: Fed, *, known: str, saved: int) -> int:
    """Returns the position after which feeding starts. If it raises `NotInOutbox`, nothing has changed."""
    if not known:
        # The identity was not stored by an earlier release, or nothing has been relayed yet.
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
    """The position up to which a log that is not fed now holds everything, and the outbox's first position."""
    row = await (await execute(connection, _BEGINS, {"source": source, "log": log})).fetchone()
    assert row is not None
    return row[0], row[1]


async def holds(connection: Connection, source: str, log: str, position: int) -> None:
    """Store that the log holds everything up to this position. A relay that feeds it starts after it."""
    await execute(connection, _HOLDS, {"source": source, "log": log, "position": position})


def missing_sentence(source: str, first: int, last: int) -> str:
    span = (
        f"position {first} of {source} is"
        if first == last
        else f"positions {first} to {last} of {source} are"
    )
    return (
        f"the log has changed, and {span} no longer in the outbox: the new log gets no events until they "
        "are copied from the earlier log (`shop log copy`, or `shop up` with --copy-log-from), or given "
        "up (`shop log accept`); see docs/operations.md, 'Another log'"
    )
