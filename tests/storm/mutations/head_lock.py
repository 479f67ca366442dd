"""Positions are numbers of a sequence, drawn before the commit and under nobody's lock.

So commits overtake each other: the relay, which reads what is above its position, steps over the one
that commits late. And a transaction that rolls back leaves a hole. Whatever stops a process between
the draw and the commit, which now are two messages, brings it to light; under load nothing need.
"""

from eventspine import migrations, outbox
from tests.storm import failpoints
from tests.storm.mutations import replace_text, rewrite

FAULTS = ("committing", "terminate")

# How far positions have been given out is still said, for whoever asks. Fails in a database whose
# `publish_events` draws from no sequence: one that was migrated without this mutation.
_COMMIT_AND_SAY = """
COMMIT;
UPDATE outbox_head SET position = greatest(position, currval('storm_positions'))
"""


def apply() -> None:
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
    rewrite(
        outbox.Transaction,
        "_commit",
        """
        await AsyncClientCursor(connection).execute(message.encode(), params)
""",
        """
        if self._events:
            await AsyncClientCursor(connection).execute(_WRITE.encode(), params)
            await passes("committing")
            message, params = COMMIT_AND_SAY, {}
        await AsyncClientCursor(connection).execute(message.encode(), params)
""",
        COMMIT_AND_SAY=_COMMIT_AND_SAY,
        passes=failpoints.passes,
    )
