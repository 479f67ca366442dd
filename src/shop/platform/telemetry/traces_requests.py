"""The span of a request."""

from functools import partial
from http import HTTPMethod
from random import getrandbits
from typing import TYPE_CHECKING

from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from eventspine.answers import Answer
from shop.platform.http.context import HEADERS, trace_of
from shop.platform.log_ids import TRACEPARENT
from shop.platform.telemetry.traces import SAMPLED, Traces, traceparent_of

if TYPE_CHECKING:
    from starlette.types import Scope

    from shop.platform.http.interceptors import Choose, Exchange, Proceed, RouteInterceptor

_METHODS = frozenset(HTTPMethod)


def choosing(traces: Traces) -> "Choose":
    """Chooses requests whose trace is recorded, and gives each a span."""
    below = traces.below

    def choose(scope: "Scope") -> "RouteInterceptor | None":
        headers = scope[HEADERS]
        traceparent = trace_of(headers).traceparent if b"traceparent" in headers else None
        trace = 0
        if traceparent is None:
            trace = getrandbits(64)
            if trace >= below:
                return None
            trace |= (getrandbits(64) or 1) << 64
        elif traceparent[-1] not in SAMPLED:
            return None
        return partial(_in_span, traces, trace) if traces.admits() else None

    return choose


async def _in_span(
    traces: Traces, new_trace: int, exchange: "Exchange", proceed: "Proceed"
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
