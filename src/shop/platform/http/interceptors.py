"""The seam of a fast route: code around every request, in one ordered chain.

Authorization, metrics and traces are interceptors. The first of a chain is the outermost. Without
interceptors, a request costs one more comparison.

    async def timed(exchange: Exchange, proceed: Proceed) -> Answer:
        began = perf_counter()
        answer = await proceed()
        SECONDS.labels(exchange.method, exchange.route, answer.status).observe(perf_counter() - began)
        return answer

An interceptor refuses a request by raising a `Problem`. The interceptors outside of it see the answer that
the client gets.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.types import Scope

from eventspine.answers import Answer
from eventspine.context import Context
from shop.platform.http.context import trace_in, trace_of


class Exchange:
    """One request."""

    __slots__ = ("_context", "method", "route", "scope")

    def __init__(self, scope: Scope, route: str) -> None:
        self.scope = scope
        """The ASGI scope: headers, path, client."""
        self.method: str = scope["method"]
        self.route = route
        """The path's template, like `/orders/{order_id}`. The number of templates is fixed, so it is safe as a
        metric label. Empty for a path without a route, and until another than a fast route has answered.
        """
        self._context: Context | None = None

    @property
    def context(self) -> Context:
        """The context, at first with the trace only. An interceptor may replace it (`_replace`), to add the caller
        or a span for the events. The idempotency key and the deadline are added later.
        """
        if self._context is None:
            self._context = trace_in(self.scope["headers"])
        return self._context

    @context.setter
    def context(self, context: Context) -> None:
        self._context = context

    @property
    def known_trace(self) -> str | None:
        """The `traceparent`, if the request has one and something has read it already. Costs no parsing."""
        return None if self._context is None else self._context.traceparent

    def context_from(self, headers: Mapping[bytes, bytes]) -> Context:
        """The context, for a caller that has the headers as a mapping."""
        if self._context is None:
            self._context = trace_of(headers)
        return self._context


Proceed = Callable[[], Awaitable[Answer]]

RouteInterceptor = Callable[[Exchange, Proceed], Awaitable[Answer]]
