"""The request context: caller, trace, deadline and idempotency key, in one value.

It travels with a request and with the events that the request causes.

    route ─▶ batcher ─▶ transaction ─▶ outbox ─▶ log ─▶ handler
      Context ═══════════════▶ event headers ═══════▶ Context

The transaction that publishes stores it in the outbox. The relay can't add it later, because the
request has ended by then. The headers `traceparent` and `tracestate` are W3C Trace Context, as
OpenTelemetry writes them on Kafka. `ce_authtype` and `ce_authid` are the CloudEvents extension
"Auth Context" (https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/authcontext.md).
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from math import inf
from typing import Generic, NamedTuple, TypeVar

from eventspine.answers import Key

Command = TypeVar("Command")

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_AUTH_TYPE, _AUTH_ID, _KEY_HASH = "ce_authtype", "ce_authid", "ce_idempotencykeyhash"


class Context(NamedTuple):
    """Every field may be missing. `NOBODY` has none."""

    traceparent: str | None = None
    tracestate: str | None = None
    caller: str | None = None
    """The authenticated caller, as `type:id`: `user:17`, `service_account:billing`. None without
    authentication."""
    key_hash: str | None = None
    """SHA-256 of the idempotency key, in hex. Events carry this hash and not the key."""
    idempotency_key: str | None = None
    """The key itself. Only the transaction uses it; it is in no event."""
    deadline: float = inf
    """The latest start of the work, by the event loop's clock. Events do not carry it."""

    def headers(self) -> dict[str, str] | None:
        """The headers of an event that this request causes; None if there are no headers."""
        traceparent, tracestate, caller, key_hash, key, _ = self
        if traceparent is None and caller is None and key is None and key_hash is None:
            return None
        headers = {}
        if traceparent is not None:
            headers["traceparent"] = traceparent
            if tracestate is not None:
                headers["tracestate"] = tracestate
        if caller is not None:
            headers[_AUTH_TYPE], _, headers[_AUTH_ID] = caller.partition(":")
        if key is not None:
            key_hash = sha256(key.encode()).hexdigest()
        if key_hash is not None:
            headers[_KEY_HASH] = key_hash
        return headers


NOBODY = Context()
"""The context of work that no request caused."""


class Request(NamedTuple, Generic[Command]):
    """A command with its context. Actions get batches of these."""

    command: Command
    context: Context = NOBODY
    key: Key | None = None
    """With a key, the command is executed once, however often it is sent."""


def trace_id(traceparent: str | None) -> str | None:
    """The id of the trace: 32 hexadecimal digits. None for a header that is malformed."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return None if found is None else found[1]


def from_headers(headers: Mapping[str, str]) -> Context:
    """The context of the request that caused an event, as far as headers carry it."""
    traceparent = headers.get("traceparent")
    caller = headers.get(_AUTH_ID)
    return Context(
        traceparent,
        headers.get("tracestate") if traceparent is not None else None,
        None if caller is None else f"{headers.get(_AUTH_TYPE, 'unknown')}:{caller}",
        headers.get(_KEY_HASH),
    )
