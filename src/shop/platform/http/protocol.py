"""uvicorn's HTTP/1.1 protocol, which ignores offers to upgrade, and with limits.

A server may ignore `Upgrade` and answer as if the header were absent (RFC 9110, 7.8). But uvicorn's parser
accepts every offer: it ends the message after its head, and stops. Then the body is lost. If the body arrives
in a later segment, it is even parsed as the next request. So a person who controls part of another client's
body could send requests as that client. Java's HttpClient offers `h2c` with every first unencrypted request.

uvicorn accepts heads of any size, waits for their end without a limit, and holds any number of connections and
of pipelined requests. Here a head has a largest size and a time limit, trailers are dropped, clients must read
answers in time, and the numbers of connections and of pipelined requests are limited. The only cost for an
ordinary request is a check that its head is complete.
"""

from asyncio import BaseTransport, Future, Task, TimerHandle
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
)

from shop.platform.http.crowd import Crowd
from shop.platform.http.cycle import ARRIVED, BROKEN_OFF, Cycle, Flow, Lingering, path_of
from shop.platform.http.keep_alive import LINGER, KeepAlive
from shop.platform.problems import (
    HeadTooLarge,
    MalformedRequest,
    Problem,
    RequestTooSlow,
    TemporarilyUnavailable,
)

MAX_AHEAD = 16
"""Pipelined requests that may wait behind the one being answered. Hardly any client pipelines: curl sent 5 at
most, when it still did; benchmarks use 16. A waiting request takes about 3 kB of memory, and may have only 20
bytes."""
MAX_HEAD = 64 * 1024  # bytes
_PART = 16 * 1024  # bytes parsed at a time; the counted size of a head may be wrong by this
_HEAD_WITHIN = 10.0  # seconds, from the connection or from the first byte
_READ_WITHIN = 10.0  # seconds within which a client must read if the write buffer is full
_DRAIN = 1024 * 1024  # bytes from a refused client that are still read


class _Refused(Exception):
    """Raised to stop the parser."""


class HttpProtocol(KeepAlive):
    """The protocol. A head with an upgrade offer is parsed again without the offer, by a new parser."""

    def __init__(self, crowd: Crowd, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._crowd = crowd
        self._read_timer: TimerHandle | None = None
        self._unread = 0
        """Bytes that were received but not passed on: of a head, or of the framing of a body."""
        self._has_ended = False
        self._why = MalformedRequest()
        self._running: Any = None
        """The cycle that is being answered. `cycle` is the newest one, and may wait for it."""
        self._answering: Task[None] | None = None
        self._turn: Future[None] | None = None
        """What `_answering` waits for, after the last answer and before the next request."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.flow = Flow(self.transport, self.pipeline)
        self._head_timer = self.loop.call_later(_HEAD_WITHIN, self._head_is_late)
        surplus = self._crowd.surplus(self.connections)  # type: ignore[arg-type]
        if surplus > self._crowd.told:
            self.transport.abort()
        elif surplus > 0:
            self._refuse(TemporarilyUnavailable("too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._read_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True  # uvicorn tells only the newest
        self.pipeline.clear()
        if self._turn is not None:
            self._turn.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more, but may still wait for answers (RFC 9112, 9.6).

        uvicorn would close the connection, and accepted requests would be executed without an answer.
        """
        self._has_ended = True
        if not self._is_busy():
            return False
        if not self._refused:
            self._refuse(self._why)
        return True

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        cycle.__class__ = Cycle  # uvicorn names its own class where it makes one
        self._running = cycle
        if self._answering is None or self._answering.done():
            self._answering = self.loop.create_task(self._answer_in_turn(app))
        elif self._turn is not None:
            self._turn.set_result(None)
            self._turn = None
        self.tasks.add(self._answering)

    async def _answer_in_turn(self, app: Any) -> None:
        """Answer the requests of this connection. A task for each of them would cost 2.5 µs more."""
        while True:
            cycle = self._running
            await cycle.run_asgi(app)
            if self._running is cycle:  # otherwise the next one has been waiting
                self.tasks.discard(self._answering)
                if self.transport.is_closing():
                    return
                self._turn = self.loop.create_future()
                await self._turn

    def data_received(self, data: bytes) -> None:
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
            # Or one request too many. Others are before it, so it gets no answer.
            self._refuse(self._why)
            return
        # uvicorn writes `method` into the scope when the head is complete.
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
                    self.cycle.keep_alive = False  # CONNECT: the bytes after it are no request
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
            self._refuse(HeadTooLarge(f"At most {MAX_HEAD} bytes are accepted"))

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_busy():
            self._head_timer = self.loop.call_later(_HEAD_WITHIN, self._head_is_late)
        elif self.scope is None or "method" in self.scope:
            self.transport.close()  # there was no request
        else:
            self._refuse(RequestTooSlow(f"The head must arrive within {_HEAD_WITHIN:g} s"))

    def _is_amid_a_body(self) -> bool:
        """Whether the next bytes belong to the body of the newest request."""
        return self.cycle is not None and self.cycle.scope is self.scope and self.cycle.more_body

    def _refuse(self, problem: Problem) -> None:
        """Stop reading, and send the reason, unless the client could take it for the answer to another request."""
        self._refused = True
        if self._head_timer is not None:
            self._head_timer.cancel()
        if self.transport.is_closing():
            return
        if self._is_busy():
            self._answer_what_was_accepted()
            return
        if not self._is_amid_a_body():  # otherwise it has been answered
            self._write(problem)
        self._linger()

    def _linger(self) -> None:
        if self._has_ended:
            self.transport.close()
        elif not self.transport.is_closing():
            self.transport.write_eof()
            self.loop.call_later(LINGER, self.transport.close)

    def _answer_what_was_accepted(self) -> None:
        """Answer all accepted requests and then close. The last answer announces the close."""
        if self._is_amid_a_body():
            self.cycle.scope[BROKEN_OFF] = True
            self.cycle.more_body = False
            self.cycle.message_event.set()
        self.cycle.keep_alive = False
        transport = self.transport
        self.cycle.transport = Lingering(transport.write, transport.is_closing, self._linger)

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

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.idle_since = self.loop.time()
        # One timer for many requests. uvicorn makes one for each.
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """The client does not read its answers."""
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
        # A trailer arrives here too, and must not be treated as a header (RFC 9110, 6.5.1).
        if "method" not in self.scope:
            HttpToolsProtocol.on_header(self, name, value)

    def _offers(self) -> bool:
        """Whether this head will be parsed again. A CONNECT without an offer stops the parser too."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_without_offer(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (
            self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        )]  # fmt: skip
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        if self._offers():
            return  # it will be parsed again
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):
            # RFC 9112, 3.2. A proxy in front may have used the other one.
            self._why = MalformedRequest(f"The request names {hosts} hosts: send one Host header")
            raise _Refused
        if not self.url.startswith(b"/"):
            self.url = path_of(self.url)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if self._offers() or cycle.response_complete:
            return
        cycle.more_body = False
        cycle.message_event.set()
        cycle.scope[ARRIVED] = self.loop.time()
