"""A connection between two requests: how long it stays, and when it is closed."""

import select
from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LINGER = 2.0  # seconds for a refused client to read the reason; an immediate close could lose it


class KeepAlive(HttpToolsProtocol):
    """The part of `HttpProtocol` that waits for the next request."""

    # uvicorn declares narrower types and starts with None.
    scope: Any
    cycle: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.idle_since = 0.0
        """When the last answer was written, by the event loop's clock."""
        self._head_timer: TimerHandle | None = None
        self._refused = False

    def _is_busy(self) -> bool:
        """Whether an earlier request is still being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if its time is over, unless a request has just arrived that is not read yet.

        After a close, the client could not know whether that request is executed.
        """
        self.timeout_keep_alive_task = None
        if not self._is_idle():
            return  # the next answer sets it again
        left = self.idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            if not self._has_arrived():
                self.transport.close()
                return
            left = LINGER
        self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)

    def _is_idle(self) -> bool:
        """Whether it has answered, and waits for the next request."""
        if self.cycle is None or self._is_busy() or self._refused:
            return False
        return self._head_timer is None and not self.transport.is_closing()

    def idle_until(self) -> float | None:
        # Unread data would keep it open.
        if not self._is_idle() or self.transport.get_write_buffer_size():
            return None
        return self.idle_since + self.timeout_keep_alive

    def close_idle(self) -> bool:
        if self._has_arrived():
            return False
        self.connections.discard(self)
        self.transport.close()
        return True

    def shutdown(self) -> None:
        """The process is about to stop. Requests that have arrived are still answered."""
        amid_a_head = self.scope is not None and "method" not in self.scope
        if not self._is_busy() and (amid_a_head or self._has_arrived()):
            self.loop.call_later(LINGER, super().shutdown)
        else:
            super().shutdown()

    def _has_arrived(self) -> bool:
        """Whether there is data to read that the event loop has not read yet."""
        if self.transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))
