"""Work that librdkafka does in a thread, and the event loop that waits for it."""

import asyncio
import gc
import threading
from contextlib import suppress

from eventspine.kafka_log.client import in_thread


async def test_a_task_cancelled_again_and_again_waits_until_its_thread_has_ended() -> None:
    inside, let_go = threading.Event(), threading.Event()
    ended = False

    def work(stop: threading.Event) -> None:
        nonlocal ended
        inside.set()
        assert stop.wait(60)
        assert let_go.wait(60)
        ended = True

    waiting = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(inside.wait, 10)
    for _ in range(3):
        waiting.cancel()
        await asyncio.sleep(0.01)
        assert not waiting.done()
    let_go.set()
    with suppress(asyncio.CancelledError):
        await waiting
    assert ended


async def test_work_that_fails_because_it_was_cancelled_is_not_reported_as_forgotten() -> None:
    reported: list[object] = []

    def work(stop: threading.Event) -> None:
        assert stop.wait(60)
        raise RuntimeError("stopped")

    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    waiting = asyncio.create_task(in_thread(work))
    await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    del waiting
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []
