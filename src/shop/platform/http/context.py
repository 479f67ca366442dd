"""Reads a request's context from its headers."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import Depends, Header

from eventspine.context import Context

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# The length that must be passed on (section 3.3.1.5 there).
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,512}")

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="idempotency-key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text without spaces. Use a new key for each request, and the same key to send "
        "the request again: every repeat gets the first answer. A key is kept for at least 24 hours, unless "
        "the server is configured otherwise. An answer whose data was erased is not repeated.",
    ),
]

_MALFORMED = "A malformed value is ignored, as the standard requires."


def asked(
    idempotency_key: IdempotencyKey = None,
    traceparent: Annotated[
        str | None,
        Header(
            description="W3C trace context. The events that this request causes carry it too. "
            + _MALFORMED
        ),
    ] = None,
    tracestate: Annotated[
        str | None, Header(description="Belongs to `traceparent`. " + _MALFORMED)
    ] = None,
) -> Context:
    """Declares the context's headers for the OpenAPI document. `FastRoute` builds the context without this."""
    return Context(traceparent, tracestate, idempotency_key=idempotency_key)


Asked = Annotated[Context, Depends(asked)]
"""An endpoint with a parameter of this type gets the request's context. It has a deadline, and an
idempotency key if the client sent one."""


HEADERS = "shop.headers"
"""In the scope of a request: its headers as a mapping, which is made once."""


def headers_of(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name. A repeated header is one list in two parts (RFC 9110, 5.3)."""
    given = dict(pairs)
    if len(given) < len(pairs):
        given = {}
        for name, value in pairs:
            given[name] = given[name] + b"," + value if name in given else value
    return given


def trace_of(headers: Mapping[bytes, bytes]) -> Context:
    """A context with the request's trace and nothing else. Never raises."""
    traceparent = headers.get(b"traceparent")
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return _NO_TRACE
    tracestate = headers.get(b"tracestate")
    if tracestate is not None and not _TRACESTATE.fullmatch(tracestate):
        tracestate = None
    return Context(traceparent.decode(), None if tracestate is None else tracestate.decode())


_NO_TRACE = Context()
