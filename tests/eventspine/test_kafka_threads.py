"""Work that librdkafka does in a thread, and the event loop that waits for it."""

import asyncio
import threading
from contextlib import suppress

from eventspine.kafka_log.client import in_thread


def test_whoever_is_cancelled_again_and_again_waits_until_the_thread_has_ended() -> None:
    async def scenario() -> None:
        inside, let_go = threading.Event(), threading.Event()
        ended = False

        def work(stop: threading.Event) -> None:
            nonlocal ended
            inside.set()
            assert stop.wait(10)
            assert let_go.wait(10)
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

    asyncio.run(scenario())
