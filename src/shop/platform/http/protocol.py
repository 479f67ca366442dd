"""HTTP/1.1 as uvicorn speaks it, but that an offer to upgrade is declined, and that there are limits.

A server may ignore `Upgrade` and answer as if it were not there (RFC 9110, 7.8). The parser takes up
every offer all the same: it says that the message ends with its head, and stops. So the body reaches
nobody; or, when it comes in a segment of its own, it is taken for the next request, and whoever fills
in another's body could make requests in their name. Java's HttpClient offers `h2c` with every first
request in clear text.

uvicorn takes heads of any size, waits for their end for ever, and holds any number of connections, and
on each any number of requests. Here a head has a size and a time, trailers are dropped, an answer has a
time to be read in, and there is a connection too many, and a request. What an ordinary request costs of
that is to see that its head came whole.
"""

import re
import select
from asyncio import BaseTransport, TimerHandle, Transport
from collections.abc import Callable, Sized
from typing import Any, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shop.platform.http.crowd import Crowd
from shop.platform.problems import (
    HeadTooLarge,
    MalformedRequest,
    Problem,
    RequestTooSlow,
    TemporarilyUnavailable,
)

BROKEN_OFF = "shop.broken_off"
"""Stands in the scope of a request whose body has no end: what came of it may look whole."""

MAX_AHEAD = 16
"""Requests that may wait behind the one being answered. Hardly any client sends ahead: curl, when it
did, 5 at most; 16 is what benchmarks do. Each that waits takes some 3 kB, and may be of 20 bytes."""
MAX_HEAD = 64 * 1024  # bytes
_PART = 16 * 1024  # bytes parsed at a time: what the count of a head may be wrong by
_HEAD_WITHIN = 10.0  # seconds, from the connection or from the first byte
_READ_WITHIN = 10.0  # seconds in which a client must read what fills our buffer
_LINGER = 2.0  # seconds in which a refused client may read why; closed at once, it might not
_DRAIN = 1024 * 1024  # bytes of such a client that are still read


class _Refused(Exception):
    """Raised to make the parser stop."""


def _path(target: bytes) -> bytes:
    """Of a target that may be a whole URL, as proxies are sent (RFC 9112, 3.2.2); uvicorn takes one
    without a path for no HTTP.
    """
    whole = re.match(rb"https?://[^/?#]*", target, re.IGNORECASE)
    if whole is None:
        return target
    rest = target[whole.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


class _Flow(FlowControl):
    """Reads no more while requests wait; uvicorn would, after each answer and for each body."""

    def __init__(self, transport: Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class _Lingering(NamedTuple):
    """What the last cycle writes to. Its client may still be sending: closed at once, it would be
    reset, and might not see the answer (RFC 9112, 9.6).
    """

    write: Callable[[bytes], None]
    is_closing: Callable[[], bool]
    close: Callable[[], None]


class HttpProtocol(HttpToolsProtocol):
    """A head with an offer is parsed again without it, by a parser that goes on with what follows."""

    # uvicorn says what they are, and begins with None.
    scope: Any
    cycle: Any

    def __init__(self, crowd: Crowd, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._crowd = crowd
        self._head_timer: TimerHandle | None = None
        self._read_timer: TimerHandle | None = None
        self._unread = 0
        """Bytes that have come and gone nowhere: of a head, or of a body's frame."""
        self._refused = False
        self._has_ended = False
        self._why = MalformedRequest()
        self._running: Any = None
        """The cycle that is answered now. `cycle` is the newest, and may wait for it."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.flow = _Flow(self.transport, self.pipeline)
        self._head_timer = self.loop.call_later(_HEAD_WITHIN, self._head_is_late)
        surplus = self._crowd.surplus(self.connections)  # type: ignore[arg-type]
        if surplus > self._crowd.told:
            self.transport.abort()
        elif surplus > 0:
            self._refuse(TemporarilyUnavailable("too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._read_timer):
            if timer is not None:
                timer.cancel()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn tells the newest only
        self.pipeline.clear()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """It will send no more, and may still wait for answers (RFC 9112, 9.6); uvicorn would close,
        and what it accepted would be done and never answered.
        """
        self._has_ended = True
        if not self._is_busy():
            return False
        if not self._refused:
            self._refuse(self._why)
        return True

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if len(data) <= _PART:
            self._take(memoryview(data))
            return
        whole = memoryview(data)
        for start in range(0, len(data), _PART):
            self._take(whole[start : start + _PART])

    def _take(self, part: memoryview) -> None:
        if self._refused:
            self._unread += len(part)
            if self._unread > _DRAIN:
                self.flow.pause_reading()
            return
        try:
            self._parse(part)
        except HttpParserError:
            # Or a request too many. There are others before it, so nothing is said of it.
            self._refuse(self._why)
            return
        # uvicorn writes `method` into the scope when the head is whole.
        if self.scope is None or "method" not in self.scope or self.cycle.response_complete:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(_HEAD_WITHIN, self._head_is_late)
            self._goes_nowhere(len(part))
            return
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
            self._unread = 0
        if self.cycle.more_body:
            self._goes_nowhere(len(part))

    def _parse(self, rest: memoryview) -> None:
        while rest:
            try:
                self.parser.feed_data(rest)
            except HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
                if not self._offers():
                    self.cycle.keep_alive = False  # CONNECT: what follows it is no request
                    return
                head = self._head_without_offer()
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)
            else:
                return

    def _goes_nowhere(self, size: int) -> None:
        self._unread += size
        if self._unread > MAX_HEAD + _PART:
            self._refuse(HeadTooLarge(f"At most {MAX_HEAD} bytes are taken"))

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_busy():
            self._head_timer = self.loop.call_later(_HEAD_WITHIN, self._head_is_late)
        elif self.scope is None or "method" in self.scope:
            self.transport.close()  # nothing has been asked
        else:
            self._refuse(RequestTooSlow(f"The head must arrive within {_HEAD_WITHIN:g} s"))

    def _is_busy(self) -> bool:
        """Whether a request before it is still being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _is_amid_a_body(self) -> bool:
        """Whether what comes next belongs to the body of the newest request."""
        return self.cycle is not None and self.cycle.scope is self.scope and self.cycle.more_body

    def _refuse(self, problem: Problem) -> None:
        """Read no more, and say why unless a client could take it for another request's answer."""
        self._refused = True
        if self._head_timer is not None:
            self._head_timer.cancel()
        if self.transport.is_closing():
            return
        if self._is_busy():
            self._answer_what_was_accepted()
            return
        if not self._is_amid_a_body():  # or it has been answered
            self._write(problem)
        self._linger()

    def _linger(self) -> None:
        if self._has_ended:
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write_eof()
            self.loop.call_later(_LINGER, self.transport.close)

    def _answer_what_was_accepted(self) -> None:
        """And then close: the last answer says so, and its client knows that no other will come."""
        if self._is_amid_a_body():
            self.cycle.scope[BROKEN_OFF] = True
            self.cycle.more_body = False
            self.cycle.message_event.set()
        self.cycle.keep_alive = False
        transport = self.transport
        self.cycle.transport = _Lingering(transport.write, transport.is_closing, self._linger)

    def _write(self, problem: Problem) -> None:
        answer = problem.answer()
        headers = dict(answer.headers) | {
            "content-length": str(len(answer.body)),
            "connection": "close",
        }
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        own = [header for header in self.server_state.default_headers if header[0] != b"connection"]
        lines = [b"%s: %s\r\n" % header for header in own + named]
        self.transport.write(b"".join([STATUS_LINE[answer.status], *lines, b"\r\n", answer.body]))

    def timeout_keep_alive_handler(self) -> None:
        """Nothing has been asked for long; but it may have been just now, and not been read yet. Closed,
        its client could not know whether it is done.
        """
        if self._has_arrived():
            self.timeout_keep_alive_task = self.loop.call_later(
                _LINGER, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    def idle_until(self) -> float | None:
        timer = self.timeout_keep_alive_task
        if timer is None or self._head_timer is not None or self.transport.is_closing():
            return None
        # What is still to be read would keep it open.
        return None if self.transport.get_write_buffer_size() else timer.when()

    def close_idle(self) -> bool:
        if self._has_arrived():
            return False
        self.connections.discard(self)
        self.transport.close()
        return True

    def shutdown(self) -> None:
        """The process is about to stop. What has been asked is answered, also if it has only arrived."""
        amid_a_head = self.scope is not None and "method" not in self.scope
        if not self._is_busy() and (amid_a_head or self._has_arrived()):
            self.loop.call_later(_LINGER, super().shutdown)
        else:
            super().shutdown()

    def _has_arrived(self) -> bool:
        """Whether there is something to read that the event loop has not come to."""
        if self.transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def pause_writing(self) -> None:
        """The client does not read what it is sent."""
        super().pause_writing()
        self._read_timer = self.loop.call_later(_READ_WITHIN, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_AHEAD:
            raise _Refused
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer stands here too, and must not be taken for a header (RFC 9110, 6.5.1).
        if "method" not in self.scope:
            super().on_header(name, value)

    def _offers(self) -> bool:
        """Whether this head will be parsed again; a CONNECT without an offer stops the parser too."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_without_offer(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (
            self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        )]  # fmt: skip
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        if self._offers():
            return  # to be parsed again
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):
            # RFC 9112, 3.2. Whoever stands in front of us may have gone by the other one.
            self._why = MalformedRequest(f"It names {hosts} hosts: send one Host header")
            raise _Refused
        if not self.url.startswith(b"/"):
            self.url = _path(self.url)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._offers():
            super().on_message_complete()
