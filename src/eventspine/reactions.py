"""Reactions: an external provider is asked about each event, and its outcome is applied in a transaction.

    PAYMENTS = Reaction("orders.payments", {OrderPlaced: (charge, charged)})

`charge` asks the provider, outside any transaction. `charged` gets the outcome in the transaction that moves
the reaction's own checkpoint. So the database stores each outcome once. The provider may be asked more than
once: after a crash, a timeout, or a lost answer. Each time it gets the same idempotency key, and it must
answer a repeat as it answered before.

A reaction is a separate consumer. While its provider is down, it waits and tries again, and no other part
waits for it. If an event can't be sent to the provider or applied, it is parked, as for any consumer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import Any, NamedTuple

from eventspine.context import Context
from eventspine.errors import NoOutcome, Unavailable
from eventspine.event import Event
from eventspine.handlers import Handler, Handlers, topic_and_id
from eventspine.outbox import Transaction
from eventspine.received import Received

Ask = Callable[[Received[Any], str], Awaitable[Any]]
"""Takes an event and its idempotency key, and returns the outcome. A refusal is an outcome too. An `OSError`
or `NoOutcome` means that there is no outcome yet, and it is called again. Any other exception parks the
event."""

_ROUND = 30.0
"""Seconds after which known outcomes are applied before more events are asked about."""

_KEPT = 2000  # outcomes that are kept for a repeated transaction

_PASSING = (NoOutcome, Unavailable, OSError)


class Answered(NamedTuple):
    """An event and the provider's outcome."""

    received: Received[Any]
    outcome: Any

    @property
    def event(self) -> Any:
        return self.received.event

    @property
    def context(self) -> Context:
        return self.received.context


class Reaction(Handlers):
    """Handlers that first ask a provider: for each event a function that asks, and a handler of `Answered`s.

    `consumer` is the service's name, a dot, and the reaction's name. The provider has `timeout` seconds for
    each answer. It is asked about `concurrency` events at a time; events of one key follow one another.
    `batch` events are applied in a transaction. A new reaction starts at the beginning of the log; events
    before `since` are skipped. `close` is called when the worker ends.

    It keeps outcomes until they are committed, so each consumer needs its own object.
    """

    def __init__(
        self,
        consumer: str,
        steps: Mapping[type[Event], tuple[Ask, Handler]],
        *,
        timeout: float = 10.0,
        concurrency: int = 10,
        batch: int = 50,
        since: datetime | None = None,
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(consumer, {event: act for event, (_, act) in steps.items()})
        self.batch = batch
        self._asks = {event: ask for event, (ask, _) in steps.items()}
        self._timeout = timeout
        self._since = since
        self._at_once = asyncio.Semaphore(concurrency)
        self._outcomes: dict[tuple[str, int], Any] = {}
        self._close = close

    async def close(self) -> None:
        if self._close is not None:
            await self._close()

    def key_of(self, received: Received[Any]) -> str:
        """The idempotency key. It is the same for each repeat, in every log and partition."""
        return f"{self.consumer}/{received.record.topic}/{received.position}"

    async def ask(self, received: Sequence[Received[Any]]) -> None:
        """Ask about each event without an outcome. Raises `NoOutcome`, and keeps the outcomes that it got."""
        keys: dict[Hashable, list[Received[Any]]] = {}
        for one in received:
            if self._concerns(one) and _place(one) not in self._outcomes:
                keys.setdefault(topic_and_id(one), []).append(one)
        if keys:
            round_ = _Round(monotonic() + _ROUND)
            await asyncio.gather(*(self._ask_in_order(of_key, round_) for of_key in keys.values()))
            if round_.failed is not None:
                raise round_.failed

    async def _ask_in_order(self, of_key: Sequence[Received[Any]], round_: "_Round") -> None:
        for one in of_key:
            async with self._at_once:
                if round_.failed is None and monotonic() > round_.until:
                    round_.failed = NoOutcome(
                        f"{self.consumer}: the provider is slow; fewer events are taken at a time"
                    )
                if round_.failed is not None:
                    return
                try:
                    async with asyncio.timeout(self._timeout):
                        outcome = await self._asks[type(one.event)](one, self.key_of(one))
                except TimeoutError:
                    round_.failed = NoOutcome(
                        f"{self.consumer}: the provider did not answer within {self._timeout:g} s"
                    )
                    return
                except _PASSING as error:
                    round_.failed = NoOutcome(f"{self.consumer}: {type(error).__name__}: {error}")
                    return
                except Exception as error:  # noqa: BLE001 - the event is parked with it
                    self._keep(one, _Failed(error))
                    return
                self._keep(one, outcome)

    async def _apply(self, tx: Transaction, received: Sequence[Any]) -> None:
        await super()._apply(tx, [self._answered(one) for one in received if self._concerns(one)])

    def _answered(self, received: Received[Any]) -> Answered:
        place = _place(received)
        if place not in self._outcomes:
            # Its key was blocked a moment ago, so the provider was not asked.
            raise NoOutcome(
                f"{self.consumer}: position {received.position} is still to be asked about"
            )
        outcome = self._outcomes[place]
        if isinstance(outcome, _Failed):
            raise outcome.error
        return Answered(received, outcome)

    def _concerns(self, received: Received[Any]) -> bool:
        time = received.time
        return self._since is None or time is None or time >= self._since

    def _keep(self, received: Received[Any], outcome: Any) -> None:
        self._outcomes[_place(received)] = outcome
        while len(self._outcomes) > _KEPT:
            del self._outcomes[next(iter(self._outcomes))]


class _Failed(NamedTuple):
    error: Exception


class _Round:
    def __init__(self, until: float) -> None:
        self.until = until
        self.failed: NoOutcome | None = None


def _place(received: Received[Any]) -> tuple[str, int]:
    return received.record.topic, received.position
