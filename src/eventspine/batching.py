"""Many callers, one transaction.

Each caller submits one command. While a batch is being committed, the next one gathers. There is no timer: an
idle batcher runs a single command at once, and a busy one runs together all commands that arrived meanwhile.
So load makes batches larger, and larger batches make each command cheaper.
(The idea is group commit; see Gray and Reuter, "Transaction Processing", 1993, chapter 9.)
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import Generic, NamedTuple, TypeVar

from eventspine.context import Request
from eventspine.database import Database
from eventspine.errors import Conflict, Overloaded, SpineError, Unavailable
from eventspine.outbox import Transaction, transaction

Command = TypeVar("Command")
Result = TypeVar("Result")

Run = Callable[[Sequence[Command]], Awaitable[Sequence[Result | Exception]]]
"""Does all commands, in their order, and answers one result for each. A command that is refused
is a *value*, an exception among the results, and is raised for its own caller only."""

Action = Callable[
    [Transaction, Sequence[Request[Command]]], Awaitable[Sequence[Result | Exception]]
]
"""What a service does: a batch of requests, in one transaction. See `Run` for the results."""

_TRIES = 2
_TRIES_IN_A_RACE = 5


class _Submitted(NamedTuple, Generic[Command, Result]):
    command: Command
    future: asyncio.Future[Result]
    deadline: float
    """By the loop's clock; not begun after it."""


class Batcher(Generic[Command, Result]):
    """Gathers commands and runs them in batches of at most `max_batch`, `concurrency` batches at a time.

    A batch is answered in one go, in which the event loop does nothing else: twice as many commands in
    it are hardly cheaper each, and a caller that is refused meanwhile is told twice as late.

    More than one keeps several transactions in flight; for commands that take the same locks one is
    best. At most `max_waiting` callers wait; one more is refused with `Overloaded` at once. No
    command is begun, or begun again, after its deadline, `timeout` seconds from its coming: its
    caller has given up by then, or will.
    """

    def __init__(
        self,
        run: Run[Command, Result],
        *,
        max_batch: int = 128,
        max_waiting: int = 1024,
        timeout: float = 10.0,
        concurrency: int = 1,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._timeout = timeout
        self.concurrency = concurrency
        self._idle = concurrency
        self._waiting: deque[_Submitted[Command, Result]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def deadline(self) -> float:
        """Of a command that comes now; for a caller that submits several for the same request."""
        return asyncio.get_running_loop().time() + self._timeout

    def admit(self) -> None:
        """Raises `Overloaded` if a command that came now would be one too many."""
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{len(self._waiting)} callers are waiting already")

    async def submit(self, command: Command, deadline: float = inf) -> Result:
        """The command's own result, once its transaction has committed.

        Raises what the command was refused with, `Overloaded`, or whatever the batch failed of:
        `Unavailable` (not done), `OutcomeUnknown` (done once or not at all), or the command's own fault.
        """
        self.admit()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        deadline = min(deadline, loop.time() + self._timeout)
        self._waiting.append(_Submitted(command, future, deadline))
        if self._timer is None or deadline < self._timer_at:
            self._look_again(deadline)
        if self._idle:
            self._idle -= 1
            # Kept, because the event loop itself holds tasks only weakly.
            task = asyncio.create_task(self._lane())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def close(self) -> None:
        """Finish what was accepted."""
        while self._tasks:
            # Not `gather`: if the task that closes were cancelled, it would cancel the work as well.
            await asyncio.wait(self._tasks)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _lane(self) -> None:
        try:
            while self._waiting:
                if batch := self._next_batch():
                    await self._settle(batch)
        finally:
            self._idle += 1

    def _next_batch(self) -> list[_Submitted[Command, Result]]:
        batch = []
        for _ in range(min(len(self._waiting), self._max_batch)):
            submitted = self._waiting.popleft()
            # A caller who has gone away before the work began need not have it done.
            if not submitted.future.done():
                batch.append(submitted)
        return batch

    def _look_again(self, at: float) -> None:
        """One timer for all: for the one whose deadline is next."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._refuse_late)

    def _refuse_late(self) -> None:
        self._timer = None
        self._waiting = deque(self._in_time(self._waiting, None))
        if self._waiting:
            self._look_again(min(submitted.deadline for submitted in self._waiting))

    def _in_time(
        self, submitted: Iterable[_Submitted[Command, Result]], why: Exception | None
    ) -> list[_Submitted[Command, Result]]:
        """Those that may still be begun; the others are refused: with `why`, if there is a reason."""
        now = asyncio.get_running_loop().time()
        in_time = []
        for each in submitted:
            if each.deadline > now:
                in_time.append(each)
            else:
                _answer(each.future, why or Overloaded(f"no turn came in {self._timeout:g} s"))
        return in_time

    async def _settle(
        self,
        batch: Sequence[_Submitted[Command, Result]],
        tries: int = 1,
        why: Exception | None = None,
    ) -> None:
        batch = self._in_time(batch, why)
        if not batch:
            return
        try:
            results = await self._run([submitted.command for submitted in batch])
        except Unavailable as error:
            # A deadlock, a terminated backend: certainly not done, and mostly over by now.
            if tries < (_TRIES_IN_A_RACE if isinstance(error, Conflict) else _TRIES):
                await self._settle(batch, tries + 1, error)
                return
            _answer_all(batch, [error] * len(batch))
        except Exception as error:  # noqa: BLE001 - it goes to the callers
            if len(batch) > 1 and _is_one_commands_fault(error):
                # One command takes its neighbours down. Halve until it stands alone.
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
                return
            _answer_all(batch, [error] * len(batch))
        else:
            _answer_all(batch, results)


def _answer_all(
    batch: Sequence[_Submitted[Command, Result]], results: Sequence[Result | Exception]
) -> None:
    if len(results) != len(batch):
        # Done all the same, so it must not be run again; nor may a caller wait for ever.
        wrong = RuntimeError(f"{len(batch)} commands were given {len(results)} results")
        results = [wrong] * len(batch)
    for submitted, result in zip(batch, results, strict=True):
        _answer(submitted.future, result)


def _answer(future: asyncio.Future[Result], outcome: Result | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _is_one_commands_fault(error: Exception) -> bool:
    """The spine's own errors are about the database, and hit every command alike."""
    return not isinstance(error, SpineError)


def in_transaction(
    database: Database, action: Action[Command, Result]
) -> Run[Request[Command], Result]:
    """An action as something a batcher can run: each batch in one transaction, which publishes."""

    async def run(requests: Sequence[Request[Command]]) -> Sequence[Result | Exception]:
        async with transaction(database) as tx:
            # Leaving the block commits; only then are callers told.
            return await action(tx, requests)

    return run
