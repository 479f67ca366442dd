"""Routes whose endpoint needs to know from where it is asked: a login does, an order does not.

So only these routes pay for it. Within one of their endpoints `asking()` tells.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from eventspine.context import Context
from shop.platform.http.context import headers_of, trace_of
from shop.platform.http.route import FastRoute
from shop.platform.log_ids import TRACEPARENT

Network = IPv4Network | IPv6Network

_SCOPE: ContextVar[Scope] = ContextVar("scope")

_MOST_SHOWN = 200


class Asking(NamedTuple):
    peer: str
    """The address at the other end of the connection; empty if there is none."""
    headers: Mapping[bytes, bytes]
    context: Context

    def address(self, proxies: Sequence[Network]) -> str:
        """The client's: the last one in `X-Forwarded-For` that is no proxy of ours, if ours asks."""
        forwarded = self.headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        known = [self.peer, *(each.strip() for each in reversed(forwarded) if each.strip())]
        return next((each for each in known if not _is_in(each, proxies)), known[-1])

    def device(self) -> str | None:
        """What the client says of itself: one line, of characters that can be shown."""
        said = self.headers.get(b"user-agent", b"").decode("latin-1")
        shown = "".join(char for char in said if char.isprintable())[:_MOST_SHOWN]
        return shown or None


class PeerRoute(FastRoute):
    async def answer(
        self, scope: Scope, receive: Receive, send: Send, path_params: Mapping[str, str]
    ) -> None:
        token = _SCOPE.set(scope)
        try:
            await super().answer(scope, receive, send, path_params)
        finally:
            _SCOPE.reset(token)


def asking() -> Asking:
    """Of the request that is being answered. Only in an endpoint of a `PeerRoute`."""
    scope = _SCOPE.get()
    client = scope.get("client")
    headers = headers_of(scope["headers"])
    context = trace_of(headers)
    if TRACEPARENT in scope:
        context = context._replace(traceparent=scope[TRACEPARENT])
    return Asking(client[0] if client else "", headers, context)


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        known = ip_address(address)
    except ValueError:
        return False
    return any(known in network for network in networks)
