"""One request and its answer on a connection, and what they need of the connection."""

import re
from asyncio import Transport
from collections.abc import Callable, Sequence, Sized
from functools import lru_cache
from typing import NamedTuple

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

BROKEN_OFF = "shop.broken_off"
"""Set in the scope of a request whose body is incomplete. The received part may look complete."""

ARRIVED = "shop.arrived"
"""Set in the scope of a request whose body is complete: when, by the event loop's clock. Nothing waits then."""

_WITHOUT_BODY = {204, 304}


def path_of(target: bytes) -> bytes:
    """The path of a request target. It may be a whole URL, as for proxies (RFC 9112, 3.2.2).

    uvicorn rejects such a URL if it has no path.
    """
    whole = re.match(rb"https?://[^/?#]*", target, re.IGNORECASE)
    if whole is None:
        return target
    rest = target[whole.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


class Flow(FlowControl):
    """Stops reading while requests wait. uvicorn would resume after each answer and for each body."""

    def __init__(self, transport: Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class Lingering(NamedTuple):
    """The transport of the last answer; it closes the connection later.

    The client may still be sending. An immediate close would reset the connection, and the client might lose
    the answer (RFC 9112, 9.6).
    """

    write: Callable[[bytes], None]
    is_closing: Callable[[], bool]
    close: Callable[[], None]


class Cycle(RequestResponseCycle):
    """Can write an answer at once. uvicorn writes head and body apart, which is two system calls."""

    def write(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> bool:
        """Write the whole answer, with its length. Returns False, and does nothing, if anything is special."""
        always = _always(tuple(self.default_headers))
        if (
            always is None
            or not self.keep_alive
            or self.response_started
            or self.disconnected
            or self.flow.write_paused
            or self.access_log
            or self.scope["method"] == "HEAD"
            or status in _WITHOUT_BODY
        ):
            return False
        names, values = zip(*headers, strict=True) if headers else ((), ())
        if "connection" in names:
            return False
        if not all(map(_is_name, names)) or HEADER_VALUE_RE.search("".join(values).encode()):
            raise RuntimeError("an answer has a header that is not valid")
        self.response_started = self.response_complete = True
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        self.transport.write(
            b"%b%b%bcontent-length: %d\r\n\r\n%b"
            % (STATUS_LINE[status], always, lines.encode(), len(body), body)
        )
        self.message_event.set()
        self.on_response()
        return True


@lru_cache(256)
def _is_name(name: str) -> bool:
    return not HEADER_RE.search(name.encode())


@lru_cache(8)
def _always(headers: tuple[tuple[bytes, bytes], ...]) -> bytes | None:
    """The lines of the headers that every answer has; None if one of them says that the connection closes."""
    if any(name == b"connection" for name, _ in headers):
        return None
    return b"".join([b"%b: %b\r\n" % header for header in headers])
