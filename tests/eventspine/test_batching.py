"""Many callers, one transaction: who gets which answer, and when."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventspine.batching import Batcher
from eventspine.errors import Conflict, OutcomeUnknown, Overloaded, Unavailable


class Fault(Exception):
    """What a batch raises because of one command."""


class Refusal(Exception):
    """A command's own answer."""


class Work:
    """Doubles numbers; keeps the batches it was given, and can be made to wait or to fail."""

    def __init__(self, fail: Callable[[Sequence[int]], None] = lambda commands: None) -> None:
        self.batches: list[list[int]] = []
        self.done: list[int] = []
        self.go = asyncio.Event()
        self.go.set()
        self._fail = fail

    async def __call__(self, commands: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(commands))
        await self.go.wait()
        self._fail(commands)
        self.done += commands
        return [Refusal(n) if n < 0 else 2 * n for n in commands]


def submit_all(batcher: Batcher[int, int], commands: Sequence[int]) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(command)) for command in commands]


async def outcomes(tasks: Sequence[asyncio.Task[int]]) -> list[object]:
    async with asyncio.timeout(30):
        return [
            result if isinstance(result, int) else type(result)
            for result in await asyncio.gather(*tasks, return_exceptions=True)
        ]


async def turns(count: int = 20) -> None:
    """Let everything run that can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_single_command_on_an_idle_batcher_runs_at_once() -> None:
    """Within a few turns of the event loop: no timer is waited for."""
    work = Work()
    (task,) = submit_all(Batcher(work), [1])
    await turns(6)
    assert task.done()
    assert task.result() == 2


async def test_commands_gather_while_a_batch_runs_and_keep_their_order() -> None:
    work = Work()
    batcher = Batcher(work, max_batch=3)
    work.go.clear()
    tasks = submit_all(batcher, [1])
    await turns()
    tasks += submit_all(batcher, range(2, 10))
    await turns()
    assert work.batches == [[1]]
    work.go.set()
    assert await outcomes(tasks) == [2 * n for n in range(1, 10)]
    assert work.batches == [[1], [2, 3, 4], [5, 6, 7], [8, 9]]


async def test_a_refusal_is_its_own_callers_only() -> None:
    work = Work()
    tasks = submit_all(Batcher(work), [1, -2, 3])
    assert await outcomes(tasks) == [2, Refusal, 6]
    assert work.batches == [[1, -2, 3]]


@given(
    culprits=st.sets(st.integers(1, 40), max_size=6),
    count=st.integers(1, 40),
    max_batch=st.integers(1, 50),
)
async def test_commands_that_fail_are_found_by_halving_and_the_rest_are_done_once(
    culprits: set[int], count: int, max_batch: int
) -> None:
    def fail(commands: Sequence[int]) -> None:
        if culprits & set(commands):
            raise Fault

    work = Work(fail)
    commands = list(range(1, count + 1))
    results = await outcomes(submit_all(Batcher(work, max_batch=max_batch), commands))
    assert results == [Fault if n in culprits else 2 * n for n in commands]
    assert work.done == [n for n in commands if n not in culprits]


@pytest.mark.parametrize("error", [Unavailable, OutcomeUnknown])
async def test_trouble_with_the_database_fails_the_whole_batch_and_halves_nothing(
    error: type[Exception],
) -> None:
    """What is certainly not done is run again once; what may have been done, never."""

    def fail(commands: Sequence[int]) -> None:
        raise error

    work = Work(fail)
    assert await outcomes(submit_all(Batcher(work), [1, 2, 3])) == [error] * 3
    assert work.batches == [[1, 2, 3]] * (2 if error is Unavailable else 1)


async def test_a_passing_trouble_reaches_no_caller() -> None:
    def fail(commands: Sequence[int]) -> None:
        if len(work.batches) == 1:
            raise Unavailable

    work = Work(fail)
    assert await outcomes(submit_all(Batcher(work), [1, 2, 3])) == [2, 4, 6]
    assert work.batches == [[1, 2, 3]] * 2


async def test_an_outcome_unknown_of_one_half_is_not_the_other_halfs() -> None:
    def fail(commands: Sequence[int]) -> None:
        if len(commands) == 4:
            raise Fault
        if 1 in commands:
            raise OutcomeUnknown

    work = Work(fail)
    results = await outcomes(submit_all(Batcher(work), [1, 2, 3, 4]))
    assert results == [OutcomeUnknown, OutcomeUnknown, 6, 8]
    assert work.batches == [[1, 2, 3, 4], [1, 2], [3, 4]]


async def test_a_command_whose_turn_does_not_come_in_time_is_refused() -> None:
    work = Work()
    batcher = Batcher(work, timeout=2)
    work.go.clear()
    tasks = submit_all(batcher, [1])
    await turns()
    tasks += submit_all(batcher, [2, 3])
    assert await outcomes(tasks[1:]) == [Overloaded, Overloaded]
    assert not tasks[0].done()
    # A later command has the whole time to wait.
    tasks = [tasks[0], *submit_all(batcher, [4])]
    await asyncio.sleep(0.05)
    work.go.set()
    assert await outcomes(tasks) == [2, 8]
    assert work.batches == [[1], [4]]
    await batcher.close()
    assert batcher._timer is None


async def test_a_failed_command_is_not_begun_again_after_its_deadline() -> None:
    def fail(commands: Sequence[int]) -> None:
        if len(work.batches) == 1:
            raise Unavailable

    work = Work(fail)
    batcher = Batcher(work, timeout=60)
    work.go.clear()
    soon = asyncio.get_running_loop().time() + 0.05
    late, other = (
        asyncio.create_task(batcher.submit(1, soon)),
        asyncio.create_task(batcher.submit(2)),
    )
    await turns()
    while asyncio.get_running_loop().time() <= soon:
        await asyncio.sleep(0.01)
    work.go.set()
    assert await outcomes([late, other]) == [Unavailable, 4]
    assert work.batches == [[1, 2], [2]]


async def test_a_batch_is_not_halved_for_commands_past_their_deadline() -> None:
    def fail(commands: Sequence[int]) -> None:
        if 3 in commands:
            raise Fault

    work = Work(fail)
    batcher = Batcher(work, timeout=60)
    work.go.clear()
    soon = asyncio.get_running_loop().time() + 0.05
    tasks = [asyncio.create_task(batcher.submit(1, soon)), *submit_all(batcher, [2, 3, 4])]
    await turns()
    while asyncio.get_running_loop().time() <= soon:
        await asyncio.sleep(0.01)
    work.go.set()
    assert await outcomes(tasks) == [Overloaded, 4, Fault, 8]
    assert work.done == [2, 4]


async def test_an_early_deadline_is_kept_behind_later_ones() -> None:
    work = Work()
    batcher = Batcher(work, timeout=60)
    work.go.clear()
    tasks = submit_all(batcher, [1])
    await turns()
    tasks += submit_all(batcher, [2])
    await turns()
    early = asyncio.create_task(batcher.submit(3, asyncio.get_running_loop().time() + 0.05))
    assert await outcomes([early]) == [Overloaded]
    work.go.set()
    assert await outcomes(tasks) == [2, 4]
    await batcher.close()


async def test_a_batch_that_loses_a_race_runs_again_and_again() -> None:
    def fail(commands: Sequence[int]) -> None:
        if len(work.batches) < 5:
            raise Conflict

    work = Work(fail)
    assert await outcomes(submit_all(Batcher(work), [1])) == [2]


async def test_one_caller_too_many_is_refused_at_once() -> None:
    work = Work()
    batcher = Batcher(work, max_waiting=2)
    work.go.clear()
    tasks = submit_all(batcher, [1])
    await turns()
    tasks += submit_all(batcher, [2, 3, 4])
    await turns()
    assert tasks[3].done()
    work.go.set()
    assert await outcomes(tasks) == [2, 4, 6, Overloaded]
    assert await outcomes(submit_all(batcher, [5])) == [10]


async def test_as_many_batches_run_at_a_time_as_there_are_lanes() -> None:
    work = Work()
    batcher = Batcher(work, concurrency=2)
    work.go.clear()
    tasks = []
    for n in range(1, 7):
        tasks += submit_all(batcher, [n])
        await turns()
    assert work.batches == [[1], [2]]
    work.go.set()
    assert await outcomes(tasks) == [2, 4, 6, 8, 10, 12]
    assert work.batches == [[1], [2], [3, 4, 5, 6]]
    await turns()
    assert batcher._idle == 2


async def test_a_caller_who_gave_up_before_the_work_began_has_nothing_done() -> None:
    work = Work()
    batcher = Batcher(work)
    work.go.clear()
    tasks = submit_all(batcher, [1])
    await turns()
    tasks += submit_all(batcher, [2, 3])
    await turns()
    tasks[0].cancel()  # begun: it is finished, for nobody
    tasks[1].cancel()
    await turns()
    work.go.set()
    assert await outcomes(tasks) == [asyncio.CancelledError, asyncio.CancelledError, 6]
    assert work.done == [1, 3]


async def test_a_caller_who_gave_up_may_be_the_culprit() -> None:
    def fail(commands: Sequence[int]) -> None:
        if 2 in commands:
            raise Fault

    work = Work(fail)
    batcher = Batcher(work)
    work.go.clear()
    tasks = submit_all(batcher, [1, 2, 3])
    await turns()
    tasks[1].cancel()
    await turns()
    work.go.set()
    assert await outcomes(tasks) == [2, asyncio.CancelledError, 6]


async def test_closing_finishes_what_was_accepted() -> None:
    work = Work()
    batcher = Batcher(work, max_batch=2, concurrency=2)
    work.go.clear()
    tasks = submit_all(batcher, range(1, 11))
    await turns()
    closing = asyncio.create_task(batcher.close())
    await turns()
    assert not closing.done()
    work.go.set()
    await closing
    await turns(3)
    assert all(task.done() for task in tasks)
    assert sorted(work.done) == list(range(1, 11))


async def test_a_close_that_is_cancelled_ends_no_work() -> None:
    work = Work()
    batcher = Batcher(work)
    work.go.clear()
    tasks = submit_all(batcher, [1])
    await turns()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(batcher.close(), 0.01)
    work.go.set()
    assert await outcomes(tasks) == [2]


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
async def test_a_wrong_number_of_results_fails_every_command_and_repeats_no_work(
    results: list[int],
) -> None:
    runs = 0

    async def miscount(commands: Sequence[int]) -> Sequence[int | Exception]:
        nonlocal runs
        runs += 1
        return results

    batcher: Batcher[int, int] = Batcher(miscount)
    assert await outcomes(submit_all(batcher, [1, 2])) == [RuntimeError] * 2
    assert runs == 1
