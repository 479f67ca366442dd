"""Who asks, on whose trace, until when: one value that travels with a request and with its events.

    route ─▶ batcher ─▶ transaction ─▶ outbox ─▶ log ─▶ handler
      Context ═══════════════▶ event headers ═══════▶ Context

It is stored in the outbox by the transaction that publishes, and never added later by the relay: by
then the request is over. Of the headers, `traceparent` and `tracestate` are W3C Trace Context, as
OpenTelemetry writes them on Kafka; `ce_authtype` and `ce_authid` are the CloudEvents extension
"Auth Context" (https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/authcontext.md).
"""

from collections.abc import Mapping
from hashlib import sha256
from math import inf
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from eventspine.idempotency import Key

Command = TypeVar("Command")

_AUTH_TYPE, _AUTH_ID, _KEY_HASH = "ce_authtype", "ce_authid", "ce_idempotencykeyhash"


class Context(NamedTuple):
    """Every part may be missing. `NOBODY` has none."""

    traceparent: str | None = None
    tracestate: str | None = None
    caller: str | None = None
    """Who asks, as `type:id`: `user:17`, `service_account:billing`. Only what has been authenticated; None for
    anybody."""
    key_hash: str | None = None
    """SHA-256 of the idempotency key, in hex. Events carry it, and not the key."""
    idempotency_key: str | None = None
    """The key itself. It goes no further than the transaction."""
    deadline: float = inf
    """By the event loop's clock: what is not begun by then is not begun. It ends with the request."""

    def headers(self) -> dict[str, str] | None:
        """What an event that this causes carries; None for nothing."""
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
"""The context of what no request asked for."""


class Request(NamedTuple, Generic[Command]):
    """A command, and whose it is. Actions take these by the batch."""

    command: Command
    context: Context = NOBODY
    key: "Key | None" = None
    """With one, it is done once, however often it is sent."""


def from_headers(headers: Mapping[str, str]) -> Context:
    """The context of the request that caused an event, as far as events carry it."""
    traceparent = headers.get("traceparent")
    caller = headers.get(_AUTH_ID)
    return Context(
        traceparent,
        headers.get("tracestate") if traceparent is not None else None,
        None if caller is None else f"{headers.get(_AUTH_TYPE, 'unknown')}:{caller}",
        headers.get(_KEY_HASH),
    )
