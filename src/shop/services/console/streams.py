"""Server-sent events: what a page shows next, without being asked."""

import time
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import StreamingResponse

from shop.platform.problems import Problem
from shop.services.console.access import NotAllowed, NotLoggedIn

_CHECK_S = 10.0
"""So often a stream looks whether its viewer may still look."""


def stream(request: Request, messages: AsyncIterator[str]) -> StreamingResponse:
    """The messages as they come, until the browser leaves or the console is asked to stop.

    The stream must yield at least every few seconds, because only then is it noticed that the console stops.
    """

    async def sent() -> AsyncIterator[str]:
        checked = time.monotonic()
        # What comes before the first message, so that the browser knows at once that it is connected.
        yield ": connected\n\n"
        async for message in messages:
            if request.app.stopping:
                return
            if time.monotonic() - checked > _CHECK_S:
                checked = time.monotonic()
                try:
                    await request.app.access.viewer(request)
                except (NotLoggedIn, NotAllowed, Problem):
                    return
            yield message

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(sent(), media_type="text/event-stream", headers=headers)


def message(data: str, event: str = "") -> str:
    """One message. htmx shows one without a name; one with a name is an event for a script."""
    name = f"event: {event}\n" if event else ""
    return name + "".join(f"data: {line}\n" for line in data.splitlines()) + "\n"


BEAT = ": still here\n\n"
"""A comment, for a stream that has nothing to show."""
