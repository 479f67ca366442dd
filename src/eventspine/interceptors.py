"""Interceptors: code around a step of the pipeline, without a change to it.

Metrics, traces and the chaos test's failpoints are interceptors. Each overrides the steps that it needs. The
first of a chain is the outermost. A step that no interceptor of a process overrides costs one comparison.

    class Timed(Interceptor):
        async def commit(self, tx, proceed):
            began = perf_counter()
            await proceed()
            COMMITS.observe(perf_counter() - began)

An interceptor that raises fails the step. One that does not call `proceed` skips the step, which is rarely
right: a skipped append is a lost event.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from eventspine.backlog import Batch
from eventspine.context import Context
from eventspine.dead_letters import Park
from eventspine.event import Event
from eventspine.log import Record
from eventspine.outbox import Transaction
from eventspine.received import Received
from eventspine.steps import Around, Publish, Steps

Proceed = Callable[[], Awaitable[None]]


class Interceptor:
    """The base class: it does nothing. Override the steps that you need."""

    def publish(self, event: Event, context: Context) -> Context:
        """An event is published. Returns the context that is stored with it. It must not block."""
        return context

    async def commit(self, tx: Transaction, proceed: Proceed) -> None:
        """A transaction of an API or a consumer commits, and publishes `tx.published` events."""
        await proceed()

    async def append(self, batch: Batch, proceed: Proceed) -> None:
        """The relay appends a batch of the outbox to the log, until the log has confirmed it."""
        await proceed()

    async def save(self, position: int, proceed: Proceed) -> None:
        """The relay saves the position up to which the log holds everything."""
        await proceed()

    async def receive(self, records: Sequence[Record], proceed: Proceed) -> None:
        """A consumer processes records: it drops repeats, applies the others, and commits. Also a parked record that is
        retried, alone, in a transaction that has not committed yet. `steps.GROUP` has the consumer's name.
        """
        await proceed()

    async def apply(
        self, tx: Transaction, received: Sequence[Received[Any]], proceed: Proceed
    ) -> None:
        """Handlers apply events, in a transaction that has not committed yet."""
        await proceed()

    async def park(self, tx: Transaction, parks: Sequence[Park], proceed: Proceed) -> None:
        """Records that can't be applied are parked, in a transaction that has not committed yet."""
        await proceed()


def chained(interceptors: Sequence[Interceptor]) -> Steps:
    """Build the chain, once. A step that no interceptor overrides is None."""
    return Steps(
        publish=_publish(_overriding(interceptors, "publish")),
        commit=_around(interceptors, "commit"),
        append=_around(interceptors, "append"),
        save=_around(interceptors, "save"),
        receive=_around(interceptors, "receive"),
        apply=_around(interceptors, "apply"),
        park=_around(interceptors, "park"),
    )


def _overriding(interceptors: Sequence[Interceptor], step: str) -> list[Callable[..., Any]]:
    plain = getattr(Interceptor, step)
    return [getattr(one, step) for one in interceptors if getattr(type(one), step) is not plain]


def _publish(chain: Sequence[Callable[..., Context]]) -> Publish | None:
    if len(chain) <= 1:
        return chain[0] if chain else None

    def publish(event: Event, context: Context) -> Context:
        for one in chain:
            context = one(event, context)
        return context

    return publish


def _around(interceptors: Sequence[Interceptor], step: str) -> Around | None:
    """The chain for one step, called as `around(*what, proceed)`. The first interceptor is the outermost."""
    around: Around | None = None
    for one in reversed(_overriding(interceptors, step)):
        around = one if around is None else partial(_nested, one, around)
    return around


async def _nested(outer: Around, inner: Around, *given: Any) -> None:
    *what, proceed = given
    await outer(*what, partial(inner, *what, proceed))
