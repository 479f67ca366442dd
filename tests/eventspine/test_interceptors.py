"""Interceptors see each step of the spine, in their order, and cost nothing where there are none."""

from collections.abc import Sequence
from typing import Any

import pytest

from eventspine.consumer import Consumer
from eventspine.context import NOBODY, Context
from eventspine.dead_letters import Park
from eventspine.event import Event
from eventspine.interceptors import Interceptor, Proceed, chained
from eventspine.outbox import Transaction, transaction
from eventspine.received import Received
from eventspine.steps import NO_STEPS
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.spine import opened
from tests.support.waiting import eventually

SEEN = ("publish", "commit", "append", "save", "receive", "apply", "park")


class Recorder(Interceptor):
    def __init__(self, name: str, told: list[str]) -> None:
        self._name = name
        self._told = told

    async def _around(self, step: str, proceed: Proceed) -> None:
        self._told.append(f"{self._name} {step}")
        await proceed()
        self._told.append(f"{step} {self._name}")

    def publish(self, event: Event, context: Context) -> Context:
        self._told.append(f"{self._name} publish")
        return context._replace(tracestate=f"{context.tracestate or ''}{self._name}")

    async def commit(self, tx: Transaction, proceed: Proceed) -> None:
        await self._around("commit", proceed)

    async def append(self, batch: Any, proceed: Proceed) -> None:
        await self._around("append", proceed)

    async def save(self, position: int, proceed: Proceed) -> None:
        await self._around("save", proceed)

    async def receive(self, records: Any, proceed: Proceed) -> None:
        await self._around("receive", proceed)

    async def apply(
        self, tx: Transaction, received: Sequence[Received[Any]], proceed: Proceed
    ) -> None:
        await self._around("apply", proceed)

    async def park(self, tx: Transaction, parks: Sequence[Park], proceed: Proceed) -> None:
        await self._around("park", proceed)


async def test_every_step_is_seen_and_the_first_of_a_chain_is_outermost(
    notes_url: str, copy_url: str
) -> None:
    told: list[str] = []
    steps = chained([Recorder("a", told), Recorder("b", told)])
    log = MemoryLog(1)
    async with (
        opened(notes_url, steps=steps) as database,
        opened(copy_url, steps=steps) as copy,
    ):
        async with transaction(database) as tx:
            # The second comes without its predecessor, and is parked.
            for one in (notes.event(1, 1), notes.event(2, 2)):
                tx.publish(one, Context("00-1"))
        [(state,)] = await database.fetch("SELECT DISTINCT headers->>'tracestate' FROM outbox")
        assert state == "ab"
        relay = notes.relay(notes_url, log, steps=steps)
        consumer = Consumer(copy, log, notes.handlers())
        async with notes.Running(relay.run(), consumer.run()):

            async def parked() -> bool:
                return bool(await copy.fetch("SELECT FROM parked"))

            await eventually(parked)
    assert told.index("a publish") < told.index("b publish")
    for step in SEEN[1:]:
        began = told.index(f"a {step}")
        assert began < told.index(f"b {step}", began)
        ended = told.index(f"{step} b")
        assert ended < told.index(f"{step} a", ended)


async def test_a_step_that_an_interceptor_fails_is_not_done(notes_url: str) -> None:
    class Refuses(Interceptor):
        async def commit(self, tx: Transaction, proceed: Proceed) -> None:
            raise RuntimeError("not now")

    async with opened(notes_url, steps=chained([Refuses()])) as database:
        with pytest.raises(RuntimeError, match="not now"):
            async with transaction(database) as tx:
                tx.publish(notes.event(1, 1), NOBODY)
        assert await database.fetch("SELECT FROM outbox") == []


def test_a_step_that_no_interceptor_overrides_has_nothing_around_it() -> None:
    class Saves(Interceptor):
        async def save(self, position: int, proceed: Proceed) -> None:
            await proceed()

    steps = chained([Saves(), Interceptor()])
    assert steps.save is not None
    assert [getattr(steps, step) for step in SEEN if step != "save"] == [None] * 6
    assert [getattr(NO_STEPS, step) for step in SEEN] == [None] * 7
