"""The request's context, out of its headers."""

import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Header

from eventspine.context import Context

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# As much as has to be passed on (section 3.3.1.5 there).
_TRACESTATE = re.compile(rb"[\x20-\x7e]{1,512}")

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="idempotency-key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="any text without spaces, new for each request and the same when it is sent "
        "again: every repeat is given the first answer; kept for at least 24 hours, unless it is set "
        "otherwise, but none with data that has been erased since",
    ),
]

_MALFORMED = "a malformed one is ignored, as the standard asks"


def asked(
    idempotency_key: IdempotencyKey = None,
    traceparent: Annotated[
        str | None,
        Header(
            description="W3C trace context, carried on by the events this request causes; "
            + _MALFORMED
        ),
    ] = None,
    tracestate: Annotated[
        str | None, Header(description="goes with `traceparent`; " + _MALFORMED)
    ] = None,
) -> Context:
    """What the document says of a request's context. `FastRoute` makes it without this."""
    return Context(traceparent, tracestate, idempotency_key=idempotency_key)


Asked = Annotated[Context, Depends(asked)]
"""An endpoint with such a parameter is given the context of the request: it has an idempotency key,
where the client sent one, and a deadline."""


def trace_of(headers: Mapping[bytes, bytes]) -> Context:
    """The trace that a request says it belongs to, and nothing else. Never fails."""
    traceparent = headers.get(b"traceparent")
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return _NO_TRACE
    tracestate = headers.get(b"tracestate")
    if tracestate is not None and not _TRACESTATE.fullmatch(tracestate):
        tracestate = None
    return Context(traceparent.decode(), None if tracestate is None else tracestate.decode())


_NO_TRACE = Context()
