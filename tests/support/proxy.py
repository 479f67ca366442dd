"""A network that fails: between a client and a server, connections are cut, delayed, held, half shut.

All traffic of a storm goes through, so it has an event loop and a thread of its own, and does little
for each piece of data.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Literal, Self, TypeVar, cast

import uvloop

Target = tuple[str, int] | str | Path
"""A TCP address, or the path of a Unix socket."""

Side = Literal["client", "server"]

Found = TypeVar("Found")

_RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST and not FIN
_JITTER = (0.5, 1.5)
_MOST_WAITING = 1024 * 1024  # bytes, in one direction of a connection


class Proxy:
    """Listens on 127.0.0.1, on a `port` that stays the same, and forwards to `target`.

    A target that is away is a connection that is reset; one that comes back is used again. What a
    client sent before it died still arrives, as it would from a network.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.moved = 0
        """Bytes forwarded so far, both ways."""
        self._mode: Literal["", "hold", "refuse"] = ""
        self._delay = 0.0
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    @property
    def live(self) -> int:
        """Connections at this moment."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection. New ones are none the worse for it."""
        self._do(self._cut)

    def half_close(self, towards: Side) -> None:
        """Tell one side of every connection that the other has ended; what it sends still arrives.

        Towards the client it leaves a server that does not know that it has lost its client.
        """

        def half_close() -> None:
            for link in list(self._links):
                link.half_close(towards)

        self._do(half_close)

    def delay(self, seconds: float) -> None:
        """Everything arrives later by so much, each way, more or less; in its order."""
        self._do(lambda: self._set("", seconds))

    def hold(self) -> None:
        """Nothing moves, nothing is closed, and new connections are taken, until `heal`."""
        self._do(lambda: self._set("hold", 0.0))

    def refuse(self) -> None:
        """New connections are reset until `heal`; those there are go on."""
        self._do(lambda: self._set("refuse", 0.0))

    def heal(self) -> None:
        """What was held or delayed goes on its way."""
        self._do(lambda: self._set("", 0.0))

    def close(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # In the loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, deed: Callable[[], Found]) -> Found:
        """Done, in the loop's thread, when this returns."""

        async def do() -> Found:
            return deed()

        return asyncio.run_coroutine_threadsafe(do(), self._loop).result(10)

    async def _listen(self) -> int:
        server = await self._loop.create_server(lambda: _Side(self), "127.0.0.1", 0, backlog=1024)
        # uvloop's has them too.
        self._server = cast("asyncio.Server", server)
        return int(self._server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        self._server.close()
        self._cut()
        for task in self._tasks:
            task.cancel()

    def _set(self, mode: Literal["", "hold", "refuse"], delay: float) -> None:
        self._mode = mode
        self._delay = delay
        for link in list(self._links):
            link.go_on()

    def _cut(self) -> None:
        for link in list(self._links):
            link.reset()

    def accepted(self, client: "_Side") -> None:
        if self._mode == "refuse":
            client.reset()
            return
        link = _Link(self, client)
        self._links.add(link)
        # Kept, because the event loop itself holds tasks only weakly.
        task = self._loop.create_task(self._connect(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, link: "_Link") -> None:
        target = self.target
        server = link.server
        try:
            if isinstance(target, tuple):
                await self._loop.create_connection(lambda: server, *target)
            else:
                await self._loop.create_unix_connection(lambda: server, str(target))
        except OSError:
            link.reset()

    def gone(self, link: "_Link") -> None:
        self._links.discard(link)

    @property
    def holds(self) -> bool:
        return self._mode == "hold"

    @property
    def delays(self) -> bool:
        return self._delay > 0

    def lateness(self) -> float:
        return self._delay * random.uniform(*_JITTER) if self._delay else 0.0

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        self._loop.call_later(seconds, do)

    def now(self) -> float:
        return self._loop.time()


class _News(Enum):
    """What is told to a side instead of data: that the other sends no more, or broke."""

    END = 1
    LOST = 2


_Parcel = bytes | _News


class _Side(asyncio.Protocol):
    """One end of a connection, and what is on its way to it."""

    def __init__(self, proxy: Proxy, link: "_Link | None" = None) -> None:
        self._proxy = proxy
        self.link = link
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self.ended = False
        """It has said that it sends no more, or is lost."""
        self._shut = False
        """It has been told that it is sent no more."""
        self._waiting: deque[tuple[float, _Parcel]] = deque()
        self._waiting_bytes = 0
        self._last_due = 0.0
        self._timed = False
        self._slow = False

    # What happens to it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.link is None:
            self._proxy.accepted(self)
        elif self.link.is_reset:
            self.reset()
        else:
            self.go_on()

    def data_received(self, data: bytes) -> None:
        if self.link is not None:
            self._proxy.moved += len(data)
            self.link.other(self).send(data)

    def eof_received(self) -> bool:
        self._has_ended(_News.END)
        return True  # the other direction goes on

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._has_ended(_News.END if error is None else _News.LOST)
        if self.link is not None:
            self.link.side_lost()

    def pause_writing(self) -> None:
        self._slow = True
        self._adjust_flow()

    def resume_writing(self) -> None:
        self._slow = False
        self._adjust_flow()

    def _has_ended(self, how: _Parcel) -> None:
        if self.link is not None and (not self.ended or how is _News.LOST):
            self.ended = True
            self.link.other(self).send(how)
            self._close_if_over()

    # What is sent to it

    def send(self, parcel: _Parcel) -> None:
        late = self._proxy.lateness()
        if not (late or self._waiting or self._proxy.holds or self.transport is None):
            self._deliver(parcel)
            return
        self._last_due = max(self._last_due, self._proxy.now() + late)
        self._waiting.append((self._last_due, parcel))
        self._waiting_bytes += _size(parcel)
        self._adjust_flow()
        self.go_on()

    def go_on(self) -> None:
        """Send what is due."""
        while self._waiting and self.transport and not self._proxy.holds:
            due, parcel = self._waiting[0]
            wait = due - self._proxy.now() if self._proxy.delays else 0.0
            if wait > 0:
                if not self._timed:
                    self._timed = True
                    self._proxy.later(wait, self._time_has_come)
                break
            self._waiting.popleft()
            self._waiting_bytes -= _size(parcel)
            self._deliver(parcel)
        self._adjust_flow()

    def half_close(self) -> None:
        if self.transport is not None:
            self._waiting.clear()
            self._waiting_bytes = 0
            self._deliver(_News.END)

    def reset(self) -> None:
        self._shut = True
        self._waiting.clear()
        if self.transport is not None and not self.lost:
            connection = self.transport.get_extra_info("socket")
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def _time_has_come(self) -> None:
        self._timed = False
        self.go_on()

    def _deliver(self, parcel: _Parcel) -> None:
        # One that is lost hears nothing any more, whether or not we have been told yet.
        if self.transport is None or self._shut or self.transport.is_closing():
            return
        if parcel is _News.LOST:
            self.reset()
        elif parcel is _News.END:
            self._shut = True
            self.transport.write_eof()
            self._close_if_over()
        else:
            self.transport.write(parcel)

    def _close_if_over(self) -> None:
        if self.transport is not None and self.ended and self._shut:
            self.transport.close()

    def _adjust_flow(self) -> None:
        """Read from the other side only as fast as this one takes it."""
        other = self.link.other(self).transport if self.link is not None else None
        if other is None or other.is_closing():
            return
        if self._slow or self._waiting_bytes > _MOST_WAITING:
            other.pause_reading()
        elif not other.is_reading():
            other.resume_reading()


def _size(parcel: _Parcel) -> int:
    return len(parcel) if isinstance(parcel, bytes) else 0


class _Link:
    """A client's connection and the one to the server that stands for it."""

    def __init__(self, proxy: Proxy, client: _Side) -> None:
        self._proxy = proxy
        self.is_reset = False
        self.client = client
        self.server = _Side(proxy, self)
        client.link = self

    def other(self, side: _Side) -> _Side:
        return self.server if side is self.client else self.client

    def reset(self) -> None:
        self.is_reset = True
        self.client.reset()
        self.server.reset()
        self._proxy.gone(self)

    def half_close(self, towards: Side) -> None:
        (self.client if towards == "client" else self.server).half_close()

    def go_on(self) -> None:
        self.client.go_on()
        self.server.go_on()

    def side_lost(self) -> None:
        if self.client.lost and (self.server.lost or self.server.transport is None):
            self._proxy.gone(self)
