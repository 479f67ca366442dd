"""The seam of a fast route: code around every request, in one ordered chain.

The first interceptor of a chain is the outermost. Without interceptors, a request costs one more comparison.

    async def timed(exchange: Exchange, proceed: Proceed) -> Answer:
        began = perf_counter()
        answer = await proceed()
        print(exchange.method, exchange.route, answer.status, perf_counter() - began)
        return answer

An interceptor refuses a request by raising a `Problem`. The interceptors outside of it see the answer that
the client gets.

Two lighter forms are outside of all interceptors. A `Choose` decides which requests get an interceptor of its own, as traces do; an
`Observe` sees each answer, as metrics do. A call around each request would cost several times as much.
"""

from collections.abc import Awaitable, Callable

from starlette.types import Scope

from eventspine.answers import Answer
from eventspine.context import Context
from shop.platform.http.context import HEADERS, trace_of


class Exchange:
    """One request."""

    __slots__ = ("_context", "route", "scope")

    def __init__(self, scope: Scope, route: str) -> None:
        self.scope = scope
        """The ASGI scope: headers, path, client. `HEADERS` in it are the headers as a mapping."""
        self.route = route
        """The path's template, like `/orders/{order_id}`. The number of templates is fixed, so it is safe as a
        metric label. Empty for a path without a route, and until another than a fast route has answered.
        """
        self._context: Context | None = None

    @property
    def method(self) -> str:
        method: str = self.scope["method"]
        return method

    @property
    def context(self) -> Context:
        """The context, at first with the trace only. An interceptor may replace it (`_replace`), to add the caller
        or a span for the events. The idempotency key and the deadline are added later.
        """
        if self._context is None:
            self._context = trace_of(self.scope[HEADERS])
        return self._context

    @context.setter
    def context(self, context: Context) -> None:
        self._context = context


Proceed = Callable[[], Awaitable[Answer]]

RouteInterceptor = Callable[[Exchange, Proceed], Awaitable[Answer]]

Choose = Callable[[Scope], RouteInterceptor | None]
"""Called with each request, before it is read. It returns the interceptor for this one, if it needs one. It must not wait or raise."""

Observe = Callable[[Scope, str, Answer, float], None]
"""Called after each answer, with the request's scope, its route's template, the answer, and the seconds that it took. It must not wait
or raise. `TRACEPARENT` in the scope is the trace of its context, if it has one."""
