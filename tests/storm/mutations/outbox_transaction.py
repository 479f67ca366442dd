"""The outbox is written in a transaction of its own, after the commit of what the events are about.

Whatever ends a process or a session between the two brings it to light: the order is there, and its
event is not.
"""

from eventspine.interceptors import Interceptor, Proceed
from eventspine.outbox import Transaction
from tests.storm import failpoints

FAULTS = ("committed", "terminate")


def apply() -> Interceptor:
    failpoints.move("committed")
    return _OutboxLater()


class _OutboxLater(Interceptor):
    async def commit(self, tx: Transaction, proceed: Proceed) -> None:
        if not tx.published:
            await proceed()
            return
        events, tx._events = tx._events, []
        await proceed()
        await failpoints.passes("committed")
        await tx.execute("BEGIN")
        tx._events = events
        await proceed()
