"""Many callers, one transaction.

Callers hand in one command each; while a batch is being committed, the next one gathers. There is
no timer: an idle batcher runs a single command at once, a busy one runs as many together as came
while it was busy. Load makes batches bigger, and bigger batches make each command cheaper.
(The idea is group commit; see Gray and Reuter, "Transaction Processing", 1993, chapter 9.)
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from eventspine.database import Database
from eventspine.errors import Overloaded, SpineError, Unavailable
from eventspine.outbox import Transaction, transaction

Command = TypeVar("Command")
Result = TypeVar("Result")

Run = Callable[[Sequence[Command]], Awaitable[Sequence[Result | Exception]]]
"""Does all commands, in their order, and answers one result for each. A command that is refused
is a *value*, an exception among the results, and is raised for its own caller only."""


class Batcher(Generic[Command, Result]):
    """Gathers commands and runs them in batches of at most `max_batch`, in `lanes` at a time.

    More lanes keep several transactions in flight; for commands that take the same locks one is
    best. At most `max_waiting` callers wait; one more is refused with `Overloaded` at once, as is
    one whose turn has not come after `patience` seconds: it has given up by then, or will.
    """

    def __init__(
        self,
        run: Run[Command, Result],
        *,
        max_batch: int = 256,
        max_waiting: int = 1024,
        patience: float = 10.0,
        lanes: int = 1,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._patience = patience
        self.lanes = lanes
        self._idle_lanes = lanes
        self._waiting: deque[tuple[Command, asyncio.Future[Result], float]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def submit(self, command: Command) -> Result:
        """The command's own result, once its transaction has committed.

        Raises what the command was refused with, `Overloaded`, or whatever the batch failed of:
        `Unavailable` (not done), `OutcomeUnknown` (nobody knows), or the command's own fault.
        """
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{len(self._waiting)} callers are waiting already")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((command, future, loop.time()))
        if self._timer is None:
            self._timer = loop.call_later(self._patience, self._refuse_late)
        if self._idle_lanes:
            self._idle_lanes -= 1
            # Kept, because the event loop itself holds tasks only weakly.
            task = asyncio.create_task(self._lane())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def close(self) -> None:
        """Finish what was accepted."""
        while self._tasks:
            # Not `gather`: were whoever closes cancelled, it would cancel the work as well.
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
            self._idle_lanes += 1

    def _next_batch(self) -> list[tuple[Command, asyncio.Future[Result]]]:
        batch = []
        for _ in range(min(len(self._waiting), self._max_batch)):
            command, future, _ = self._waiting.popleft()
            # A caller who has gone away before the work began need not have it done.
            if not future.done():
                batch.append((command, future))
        return batch

    def _refuse_late(self) -> None:
        """One timer for all: it looks after the one who has waited longest, then after the next."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._waiting:
            _, future, since = self._waiting[0]
            if since + self._patience > loop.time():
                self._timer = loop.call_at(since + self._patience, self._refuse_late)
                return
            self._waiting.popleft()
            if not future.done():
                future.set_exception(Overloaded(f"no turn came in {self._patience:g} s"))

    async def _settle(self, batch: Sequence[tuple[Command, asyncio.Future[Result]]]) -> None:
        commands = [command for command, _ in batch]
        try:
            try:
                results = await self._run(commands)
            except Unavailable:
                # A deadlock, a terminated backend: certainly not done, and mostly over by now.
                results = await self._run(commands)
        except Exception as error:  # noqa: BLE001 - it goes to the callers
            if len(batch) > 1 and _is_one_commands_fault(error):
                # One command takes its neighbours down. Halve until it stands alone.
                middle = len(batch) // 2
                await self._settle(batch[:middle])
                await self._settle(batch[middle:])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        if len(results) != len(batch):
            # Done all the same, so it must not be run again; nor may a caller wait for ever.
            wrong = RuntimeError(f"{len(batch)} commands were given {len(results)} results")
            results = [wrong] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def _is_one_commands_fault(error: Exception) -> bool:
    """The spine's own errors are about the database, and hit every command alike."""
    return not isinstance(error, SpineError)


def in_transaction(
    database: Database,
    action: Callable[[Transaction, Sequence[Command]], Awaitable[Sequence[Result | Exception]]],
) -> Run[Command, Result]:
    """An action as something a batcher can run: each batch in one transaction, which publishes."""

    async def run(commands: Sequence[Command]) -> Sequence[Result | Exception]:
        async with transaction(database) as tx:
            # Leaving the block commits; only then are callers told.
            return await action(tx, commands)

    return run
