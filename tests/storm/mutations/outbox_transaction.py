"""The outbox is written in a transaction of its own, after the commit of what the events are about.

Whatever ends a process or a session between the two brings it to light: the order is there, and its
event is not.
"""

from eventspine import outbox
from tests.storm import failpoints
from tests.storm.mutations import rewrite

FAULTS = ("committed", "terminate")


def apply() -> None:
    failpoints.move("committed")
    rewrite(
        outbox.Transaction,
        "_commit",
        """
        await AsyncClientCursor(connection).execute(message.encode(), params)
""",
        """
        if self._events:
            await AsyncClientCursor(connection).execute(b"COMMIT")
            await passes("committed")
            message = f"BEGIN; {message}"
        await AsyncClientCursor(connection).execute(message.encode(), params)
""",
        passes=failpoints.passes,
    )
