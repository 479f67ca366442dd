"""The span of a request."""

from collections.abc import Awaitable
from http import HTTPMethod
from random import getrandbits
from typing import TYPE_CHECKING

from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from eventspine.answers import Answer
from shop.platform.log_ids import TRACEPARENT
from shop.platform.telemetry.traces import SAMPLED, Traces, traceparent_of

if TYPE_CHECKING:
    from shop.platform.http.interceptors import Exchange, Proceed, RouteInterceptor

_METHODS = frozenset(HTTPMethod)


def traced(traces: Traces) -> "RouteInterceptor":
    """An interceptor that gives a request a span, if its trace is recorded."""
    below = traces.below

    # Not a coroutine of its own, which would cost each request that is not traced a quarter of a microsecond.
    def intercept(exchange: "Exchange", proceed: "Proceed") -> Awaitable[Answer]:
        traceparent = exchange.context.traceparent
        trace = 0
        if traceparent is None:
            trace = getrandbits(64)
            if trace >= below:
                return proceed()
            trace |= (getrandbits(64) or 1) << 64
        elif traceparent[-1] not in SAMPLED:
            return proceed()
        return _in_span(traces, exchange, proceed, trace) if traces.admits() else proceed()

    return intercept


async def _in_span(
    traces: Traces, exchange: "Exchange", proceed: "Proceed", new_trace: int
) -> Answer:
    context, scope = exchange.context, exchange.scope
    parent = context if context.traceparent is not None else None
    method = exchange.method if exchange.method in _METHODS else "_OTHER"
    attributes: dict[str, str | int] = {
        "http.request.method": method,
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
    }
    if scope.get("server"):
        attributes["server.address"], attributes["server.port"] = scope["server"]
    span = traces.start(method, SpanKind.SERVER, parent, attributes, new_trace=new_trace)
    traceparent = traceparent_of(span, context.traceparent)
    exchange.context = context._replace(traceparent=traceparent)
    scope[TRACEPARENT] = traceparent
    try:
        answer = await proceed()
    except BaseException as error:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
        raise
    else:
        span.set_attribute("http.response.status_code", answer.status)
        if answer.status >= 500:  # noqa: PLR2004
            span.set_attribute("error.type", str(answer.status))
            span.set_status(Status(StatusCode.ERROR))
        return answer
    finally:
        _name(span, "HTTP" if method == "_OTHER" else method, exchange)
        span.end()


def _name(span: Span, method: str, exchange: "Exchange") -> None:
    """Name the span by the route. A path that belongs to no route may have anything in it, and is left out."""
    route = exchange.route
    if not route:
        return
    span.update_name(f"{method} {route}")
    span.set_attribute("http.route", route)
    path: str = exchange.scope["path"]
    # The ids in a path are numbers. Whatever else a client has put there is not kept.
    templates, given = route.split("/"), path.split("/")
    if len(templates) == len(given):
        span.set_attribute(
            "url.path",
            "/".join(
                text if text == template or text.isdecimal() else template
                for template, text in zip(templates, given, strict=True)
            ),
        )
