"""Many callers, one transaction.

Each caller submits one command. While a batch is being committed, the next one gathers. There is no timer: an
idle batcher runs a single command at once, and a busy one runs together all commands that arrived meanwhile.
So load makes batches larger, and larger batches make each command cheaper.
(The idea is group commit; see Gray and Reuter, "Transaction Processing", 1993, chapter 9.)
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from math import inf
from typing import Generic, NamedTuple, TypeVar

from eventspine.context import Request
from eventspine.database import Database
from eventspine.errors import Conflict, Overloaded, SpineError, Unavailable
from eventspine.outbox import Transaction, transaction

Command = TypeVar("Command")
Result = TypeVar("Result")

Run = Callable[[Sequence[Command]], Awaitable[Sequence[Result | Exception]]]
"""Executes all commands in their order, and returns one result for each. The result of a refused command
is an exception *as a value*. It is raised for the caller of that command only."""

Action = Callable[
    [Transaction, Sequence[Request[Command]]], Awaitable[Sequence[Result | Exception]]
]
"""A service's work on a batch of requests, in one transaction. `Run` describes the results."""

_TRIES = 2
_TRIES_IN_A_RACE = 5


class _Submitted(NamedTuple, Generic[Command, Result]):
    command: Command
    future: asyncio.Future[Result]
    deadline: float
    """The latest start of the command, by the event loop's clock."""


class Batcher(Generic[Command, Result]):
    """Gathers commands and runs them in batches of at most `max_batch`, `concurrency` batches at a time.

    The event loop does nothing else while a batch is answered. So `max_batch` has a limit: a batch of
    twice the size makes a command hardly cheaper, and delays other answers, such as refusals, twice as
    long.

    With a `concurrency` above 1, several transactions run at the same time. Use 1 for commands that
    take the same locks. At most `max_waiting` callers wait; the next one gets `Overloaded` at once. A
    command's deadline is `timeout` seconds after it is submitted. It is not started or retried
    later, because its caller gives up at about that time.
    """

    def __init__(
        self,
        run: Run[Command, Result],
        *,
        max_batch: int = 128,
        max_waiting: int = 1024,
        timeout: float = 10.0,
        concurrency: int = 1,
        name: str = "other",
    ) -> None:
        self.name = name
        """For metrics. Batchers that share a name are shown together."""
        self.sizes = [0] * (max_batch + 1)
        """How many batches have been begun, by their number of commands."""
        self.refused_full = 0
        """Commands that were refused because too many waited already."""
        self.refused_late = 0
        """Commands that were refused because no turn came in time."""
        self._run = run
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._timeout = timeout
        self.concurrency = concurrency
        self._idle = concurrency
        self._waiting: deque[_Submitted[Command, Result]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        """Kept, because before Python 3.12 each question for it is a system call."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._own = copy_context()
        """What the tasks of batches run in. Otherwise a batch would have the context variables of one of its
        callers, and its log lines that request's ids."""

    @property
    def waiting(self) -> int:
        """How many commands wait for their batch."""
        return len(self._waiting)

    def deadline(self) -> float:
        """The deadline of a command submitted now, for callers that submit several for one request."""
        return asyncio.get_running_loop().time() + self._timeout

    def admit(self) -> None:
        """Raises `Overloaded` if a command submitted now would be refused."""
        if len(self._waiting) >= self._max_waiting:
            self.refused_full += 1
            raise Overloaded(f"{len(self._waiting)} callers are waiting already")

    async def submit(self, command: Command, deadline: float = inf) -> Result:
        """The command's own result, after its transaction has committed.

        Raises the command's refusal, `Overloaded`, or the error of the batch: `Unavailable` (not
        done), `OutcomeUnknown` (done once or not at all), or the command's own error.
        """
        self.admit()
        loop = self._loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        deadline = min(deadline, loop.time() + self._timeout)
        self._waiting.append(_Submitted(command, future, deadline))
        if self._timer is None or deadline < self._timer_at:
            self._look_again(deadline)
        if self._idle:
            self._idle -= 1
            # Keep the task, because the event loop has only a weak reference to it.
            task = loop.create_task(self._lane(), context=self._own.copy())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def close(self) -> None:
        """Wait until all accepted commands are done."""
        while self._tasks:
            # `gather` would cancel the work if the closing task were cancelled.
            await asyncio.wait(self._tasks)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _lane(self) -> None:
        try:
            while self._waiting:
                if batch := self._next_batch():
                    self.sizes[len(batch)] += 1
                    await self._settle(batch)
        finally:
            self._idle += 1

    def _next_batch(self) -> list[_Submitted[Command, Result]]:
        batch = []
        for _ in range(min(len(self._waiting), self._max_batch)):
            submitted = self._waiting.popleft()
            # Skip the command if its caller has left before the work began.
            if not submitted.future.done():
                batch.append(submitted)
        return batch

    def _look_again(self, at: float) -> None:
        """Set the one timer for all commands to the next deadline."""
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
        """The commands that may still start. The others are refused, with `why` if it is given."""
        now = asyncio.get_running_loop().time()
        in_time = []
        for each in submitted:
            if each.deadline > now:
                in_time.append(each)
            else:
                self.refused_late += why is None
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
            # For example a deadlock or a terminated backend: not done, and usually over by now.
            if tries < (_TRIES_IN_A_RACE if isinstance(error, Conflict) else _TRIES):
                await self._settle(batch, tries + 1, error)
                return
            _answer_all(batch, [error] * len(batch))
        except Exception as error:  # noqa: BLE001 - it goes to the callers
            if len(batch) > 1 and _is_one_commands_fault(error):
                # One command makes the whole batch fail. Halve the batch until that command is alone.
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
        # The transaction has committed, so do not run it again. Every caller needs an answer.
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
    """Whether one command may have caused it. The spine's own errors affect all commands of a batch."""
    return not isinstance(error, SpineError)


def in_transaction(
    database: Database, action: Action[Command, Result]
) -> Run[Request[Command], Result]:
    """Make an action into a batcher's `run`: each batch in one transaction that can publish."""

    async def run(requests: Sequence[Request[Command]]) -> Sequence[Result | Exception]:
        async with transaction(database) as tx:
            # The commit happens when the block ends; callers get their results after it.
            return await action(tx, requests)

    return run
