"""An append returns before the log has confirmed it, and the relay saves its position.

Where nothing that was on its way arrives, the next relay sees that the log ends before its position,
and feeds it again. So what brings it to light is a loss with something behind it: on Kafka, workers
that die with messages in transit, of which some partitions get theirs; on a table, a server that
goes away and comes back.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from inspect import signature

from eventspine.kafka_log import appender
from eventspine.log import LogUnavailable, Message
from eventspine.postgres_log import PostgresLog
from tests.storm.mutations import ChangedShape, rewrite

FAULTS = ("crash-in-transit", "kill-log")


def apply() -> None:
    rewrite(
        appender.Appender,
        "_send",
        """
    while waiting := producer.flush(SLICE):
        self._check(progress, waiting, stop)
    self._check(progress, 0, stop)
""",
        """
    producer.flush(0.002)
    self._check(progress, 0, stop)
""",
    )
    _do_not_wait_for_postgres()


def _do_not_wait_for_postgres() -> None:
    if list(signature(PostgresLog.append).parameters) != ["self", "topic", "messages"]:
        raise ChangedShape(f"PostgresLog.append takes other arguments: {PostgresLog.append}")
    append = PostgresLog.append
    turns: dict[int, asyncio.Lock] = {}
    going_on: set[asyncio.Task[None]] = set()

    async def append_some_time(self: PostgresLog, topic: str, messages: Sequence[Message]) -> None:
        async def when_its_turn_comes() -> None:
            # In order, as a producer would.
            async with turns.setdefault(id(self), asyncio.Lock()):
                with suppress(LogUnavailable):
                    await append(self, topic, messages)

        task = asyncio.create_task(when_its_turn_comes())
        going_on.add(task)
        task.add_done_callback(going_on.discard)

    PostgresLog.append = append_some_time  # type: ignore[method-assign]
