"""The seam of a fast route: code around every request, in one ordered chain.

Authorization, metrics and traces are interceptors. The first of a chain is the outermost. Without any, a
request pays for one comparison.

    async def timed(exchange: Exchange, proceed: Proceed) -> Answer:
        began = perf_counter()
        answer = await proceed()
        SECONDS.labels(exchange.method, exchange.route, answer.status).observe(perf_counter() - began)
        return answer

An interceptor refuses a request by raising a `Problem`; those around it see the answer that the
client gets.
"""

from collections.abc import Awaitable, Callable

from starlette.types import Scope

from eventspine.context import Context
from eventspine.idempotency import Answer


class Exchange:
    """One request that a fast route answers."""

    __slots__ = ("context", "method", "route", "scope")

    def __init__(self, scope: Scope, route: str, context: Context) -> None:
        self.scope = scope
        """ASGI's: headers, path, client."""
        self.method: str = scope["method"]
        self.route = route
        """The path's template, like `/orders/{order_id}`: there are few, and a client can't add any."""
        self.context = context
        """Its trace. An interceptor that knows more puts another in its place (`_replace`): the caller, or the
        span that the events are to belong to. The idempotency key and the deadline come later."""


Proceed = Callable[[], Awaitable[Answer]]

RouteInterceptor = Callable[[Exchange, Proceed], Awaitable[Answer]]
