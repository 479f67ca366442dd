"""Positions are numbers of a sequence, drawn before the commit and under nobody's lock.

So commits overtake each other: the relay, which reads what is above its position, steps over the one
that commits late. And a transaction that rolls back leaves a hole. Whatever stops a process between
the draw and the commit, which now are two messages, brings it to light; under load nothing need.
"""

from eventspine import migrations
from eventspine.interceptors import Interceptor, Proceed
from eventspine.outbox import Transaction
from tests.storm import failpoints
from tests.storm.mutations import replace_text

FAULTS = ("committing", "terminate")

# How far positions have been given out is still said, for whoever asks. Fails in a database whose
# `publish_events` draws from no sequence: one that was migrated without this mutation.
_SAY = "UPDATE outbox_head SET position = greatest(position, currval('storm_positions'))"


def apply() -> Interceptor:
    replace_text(
        migrations,
        "PUBLISH_EVENTS",
        "UPDATE outbox_head SET position = position + count"
        " RETURNING position - count INTO STRICT base;",
        "",
    )
    replace_text(
        migrations, "PUBLISH_EVENTS", "SELECT base + e.n,", "SELECT nextval('storm_positions'),"
    )
    failpoints.move("committing")
    return _PositionsFirst()


class _PositionsFirst(Interceptor):
    async def commit(self, tx: Transaction, proceed: Proceed) -> None:
        if not tx.published:
            await proceed()
            return
        events, tx._events = tx._events, []
        written = {"count": len(events), "events": f"[{','.join(events)}]"}
        await tx.execute("SELECT publish_events(%(count)s, %(events)s)", written)
        await failpoints.passes("committing")
        await proceed()
        await tx.execute(_SAY)
