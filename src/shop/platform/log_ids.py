"""The ids in each line of the log about a request: its trace's, and the one that a gateway has given it.

Many requests are answered without a line. So a request only notes its scope, and the ids are looked up when a
line is written.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextvars import ContextVar
from typing import Any

from eventspine.context import trace_id

TRACEPARENT = "shop.traceparent"
"""Set in the scope of a request: the `traceparent` of its span, or else of its context."""

# A client without a gateway can send anything, and it would be in the log.
_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")

App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]

_request: ContextVar[MutableMapping[str, Any] | None] = ContextVar("request", default=None)


def note_request(scope: MutableMapping[str, Any]) -> None:
    """From here on, the lines of this task are about the request with this ASGI scope."""
    _request.set(scope)


def noting(app: App) -> App:
    """An ASGI app that does not note its requests itself, so that its lines have ids too."""

    async def noted(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            note_request(scope)
        await app(scope, receive, send)

    return noted


def add_ids(_logger: object, _method: str, line: MutableMapping[str, Any]) -> Any:
    """A processor of structlog. Fields that the line has already stay."""
    scope = _request.get()
    if scope is not None:
        for name, value in _ids(scope):
            line.setdefault(name, value)
    return line


def _ids(scope: MutableMapping[str, Any]) -> Iterable[tuple[str, str]]:
    given: dict[bytes, bytes] = dict(scope["headers"])
    request_id = given.get(b"x-request-id", b"")
    if _ID.fullmatch(request_id):
        yield "request_id", request_id.decode()
    traceparent = scope.get(TRACEPARENT) or given.get(b"traceparent", b"").decode("latin-1")
    if found := trace_id(traceparent):
        yield "trace_id", found
