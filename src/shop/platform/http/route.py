"""A FastAPI route that answers in raw ASGI.

It is declared like any other route, and the OpenAPI document lists it in the same way. Only the processing of
a request differs. One call into Rust turns the body's bytes into a model (`TypeAdapter.validate_json`), and
another call turns the answer into bytes. Nothing else is built: no Request, no exit stacks, no dependencies.
It serves more than three times the requests per second of an ordinary route (`docs/decisions/0001`).

In exchange, an endpoint can only have path, query and header parameters and one JSON body. It gets the objects
of its service by closure (see a service's `api.py`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import structlog
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from starlette.types import Receive, Scope, Send

from eventspine.answers import Answer
from eventspine.backoff import Backoff
from eventspine.context import Context
from eventspine.errors import OutcomeUnknown, Overloaded, SpineError, Unavailable
from eventspine.idempotency import KeyReused
from shop.platform.auth.caller import Caller, who_asks
from shop.platform.http.body import body_in_time, model_of, read_json_body
from shop.platform.http.context import HEADERS, asked, headers_of, trace_of
from shop.platform.http.cycle import ARRIVED, Cycle
from shop.platform.http.interceptors import (
    Choose,
    Exchange,
    Observe,
    Proceed,
    RouteInterceptor,
)
from shop.platform.http.parameters import header, parameters, validated
from shop.platform.http.surplus import Surplus
from shop.platform.log_ids import TRACEPARENT
from shop.platform.problems import (
    IdempotencyKeyReused,
    InternalError,
    Invalid,
    Problem,
    TemporarilyUnavailable,
    UnknownOutcome,
)

if TYPE_CHECKING:
    # It loads what verifies tokens: ten megabytes, where none are required.
    from shop.platform.auth.gate import Guard

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_LOG = structlog.get_logger("shop.web")

_JSON = ("content-type", "application/json")


class Reply(NamedTuple):
    """The answer of an endpoint, if a model alone is not enough."""

    body: BaseModel | bytes | None
    status: int = 200
    etag: int | None = None
    location: str | None = None
    about: int | None = None
    """The user whose personal data the answer holds."""

    def answer(self) -> Answer:
        """The answer, byte for byte. The ETag, if there is one, is the first header."""
        headers = []
        if self.etag is not None:
            headers.append(("etag", f'"{self.etag}"'))
        if self.location is not None:
            headers.append(("location", self.location))
        if self.body is None:
            return Answer(self.status, tuple(headers), b"")
        headers.append(_JSON)
        body = self.body
        if not isinstance(body, bytes):
            body = body.__pydantic_serializer__.to_json(body)
        about = None if self.about is None else str(self.about)
        return Answer(self.status, tuple(headers), body, about)


def admitted_by(admit: Callable[[], None]) -> Callable[[Endpoint], Endpoint]:
    """A decorator: if `admit` raises, the endpoint is not called, and the body is not even read.

    So a refusal costs almost nothing. Under overload, most requests are refused.
    """

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.admit = admit  # type: ignore[attr-defined]
        return endpoint

    return mark


class FastRoute(APIRoute):
    """A fast route, as the module describes it. Raises `TypeError` at its declaration for an endpoint that it
    can't call.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        takes = self.dependant
        known = [each for each in takes.dependencies if each.call is asked]
        callers = [each for each in takes.dependencies if each.call is who_asks]
        if (
            len(known) + len(callers) != len(takes.dependencies)
            or takes.cookie_params
            or len(takes.body_params) > 1
        ):
            raise TypeError(f"{self.name}: a fast route has no dependencies, cookies or forms")
        self._context_name = known[0].name if known else None
        self._caller_name = callers[0].name if callers else None
        self.request_timeout = inf
        """Seconds from a request's arrival, with its whole body, to its deadline."""
        self.interceptors: Sequence[RouteInterceptor] = ()
        self.choosers: Sequence[Choose] = ()
        self.observers: Sequence[Observe] = ()
        self.guard: Guard | None = None
        """Verifies the token of each request, before anything else. None if no token is required."""
        self._backoff = backoff_at(f"{'|'.join(sorted(self.methods or ()))} {self.path}")
        self._surplus = Surplus()
        self._admit: Callable[[], None] | None = getattr(endpoint, "admit", None)
        self._path = parameters(takes.path_params)
        self._query = {parameter.alias: parameter for parameter in parameters(takes.query_params)}
        self._headers = parameters(takes.header_params)
        self._key = [
            parameter
            for each in known
            for parameter in parameters(each.header_params)
            if parameter.name == "idempotency_key"
        ]
        self._body_name = takes.body_params[0].name if takes.body_params else None
        self._body: TypeAdapter[Any] | None = (
            TypeAdapter(takes.body_params[0].field_info.annotation)  # type: ignore[arg-type]
            if takes.body_params
            else None
        )
        self._answer: TypeAdapter[Any] | None = (
            TypeAdapter(self.response_model) if self.response_model else None
        )
        self._status = self.status_code or 200

    @property
    def answers_to(self) -> set[str]:
        """Its methods, and HEAD if it supports GET (RFC 9110, 9.3.2). The server omits the body then.

        HEAD is not in `methods`, because it would become an operation in the OpenAPI document.
        """
        methods = set(self.methods or ())
        return methods | {"HEAD"} if "GET" in methods else methods

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by FastAPI's own routing."""
        if scope["method"] not in self.answers_to:
            await super().handle(scope, receive, send)  # 405
            return
        await self.answer(scope, receive, send, scope["path_params"])

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, path_params: Mapping[str, str]
    ) -> None:
        """Answer one request: with the endpoint's result, or with one problem."""
        began = perf_counter()
        scope[HEADERS] = headers_of(scope["headers"])
        interceptors = self.interceptors
        for choose in self.choosers:
            if (chosen := choose(scope)) is not None:
                interceptors = (chosen, *interceptors)
        if not interceptors:
            answer = await self._respond(scope, receive, path_params, None)
        else:
            exchange = Exchange(scope, self.path_format)
            proceed = partial(self._respond, scope, receive, path_params, exchange)
            for interceptor in interceptors[:0:-1]:
                proceed = partial(self._intercepted, interceptor, exchange, proceed)
            try:
                answer = await interceptors[0](exchange, proceed)
            except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
                answer = self._refusal(scope, error)
        for observe in self.observers:
            observe(scope, self.path_format, answer, perf_counter() - began)
        await send_answer(send, answer)

    async def _intercepted(
        self, interceptor: RouteInterceptor, exchange: Exchange, proceed: Proceed
    ) -> Answer:
        try:
            return await interceptor(exchange, proceed)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            return self._refusal(exchange.scope, error)

    async def _respond(
        self,
        scope: Scope,
        receive: Receive,
        path_params: Mapping[str, str],
        exchange: Exchange | None,
    ) -> Answer:
        try:
            caller = None if self.guard is None else self.guard(scope)
            if self._admit is not None:
                self._admit()
            arguments = await self._arguments(scope, receive, path_params, exchange, caller)
            if self._caller_name is not None:
                arguments[self._caller_name] = caller
            result = await self.endpoint(**arguments)
            answer = self._rendered(scope, result)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            return self._refusal(scope, error)
        self._backoff.over()
        return answer

    def _refusal(self, scope: Scope, error: Exception) -> Answer:
        """The answer for an error."""
        match error:
            case Problem():
                return error.answer()
            case KeyReused():
                return IdempotencyKeyReused(str(error)).answer()
            case Overloaded():
                return self._surplus.answer(str(error))
            case Unavailable():
                return not_done(error, self._backoff).answer()
            case OutcomeUnknown():
                self._backoff.pause(error)
                return UnknownOutcome(
                    "The request may have been executed. Check before you send it again."
                ).answer()
        _LOG.error("api.request_failed", method=scope["method"], path=scope["path"], exc_info=error)
        return InternalError().answer()

    async def _arguments(
        self,
        scope: Scope,
        receive: Receive,
        path_params: Mapping[str, str],
        exchange: Exchange | None,
        caller: Caller | None,
    ) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for parameter in self._path:
            arguments[parameter.name] = validated(parameter, path_params[parameter.alias], "path")
        self._take_query(scope["query_string"], arguments)
        given = scope[HEADERS]
        for parameter in self._headers:
            arguments[parameter.name] = header(parameter, given)
        if self._body is not None and self._body_name is not None:
            read = read_json_body if ARRIVED in scope else body_in_time
            arguments[self._body_name] = model_of(
                await read(scope, receive), self._body, scope["headers"]
            )
        if self._context_name is not None:
            trace = trace_of(given) if exchange is None else exchange.context
            if trace.traceparent is not None:
                scope[TRACEPARENT] = trace.traceparent
            arguments[self._context_name] = Context(
                trace.traceparent,
                trace.tracestate,
                trace.caller if caller is None else caller.subject,
                trace.key_hash,
                header(self._key[0], given),
                # It starts when the body is there, because reading it has its own time limit.
                (scope.get(ARRIVED) or asyncio.get_running_loop().time()) + self.request_timeout,
            )
        return arguments

    def _take_query(self, query_string: bytes, arguments: dict[str, Any]) -> None:
        if not query_string and not self._query:
            return
        given: dict[str, str] = {}
        for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
            if name not in self._query:
                raise Invalid.field("query", name[:200], "There is no such parameter")
            if name in given:
                raise Invalid.field("query", name, "Given more than once")
            given[name] = value
        for alias, parameter in self._query.items():
            if alias in given:
                arguments[parameter.name] = validated(parameter, given[alias], "query")
            elif parameter.required:
                raise Invalid.field("query", alias, "Field required")
            else:
                arguments[parameter.name] = parameter.default

    def _rendered(self, scope: Scope, result: Any) -> Answer:
        if isinstance(result, Answer):
            return result
        if not isinstance(result, Reply):
            assert self._answer is not None
            return Answer(self._status, (_JSON,), self._answer.dump_json(result))
        answer = result.answer()
        if scope["method"] in {"GET", "HEAD"} and _is_known(scope, answer):
            return Answer(304, answer.headers[:1], b"")
        return answer


def _is_known(scope: Scope, answer: Answer) -> bool:
    """Whether the client already has this version."""
    name, value = answer.headers[0]
    return name == "etag" and (b"if-none-match", value.encode()) in scope["headers"]


def backoff_at(route: str) -> Backoff:
    """Logs the reason for refused requests of this route once, and not for each request."""
    return Backoff(_LOG, "api", route=route)


def not_done(error: SpineError, backoff: Backoff) -> Problem:
    """The problem for a request that was not executed.

    The database's own message goes only to the log, because it may name tables, processes and files.
    """
    if isinstance(error, Overloaded):
        return TemporarilyUnavailable(str(error))
    backoff.pause(error)
    return TemporarilyUnavailable("The database is unavailable")


async def send_problem(send: Send, problem: Problem) -> None:
    await send_answer(send, problem.answer())


async def send_answer(send: Send, answer: Answer) -> None:
    status, named, body, _ = answer
    cycle = getattr(send, "__self__", None)
    # The server's own `send`, which nothing wraps: then two messages can be spared.
    if isinstance(cycle, Cycle) and cycle.write(status, named, body):
        return
    headers = [(name.encode(), value.encode()) for name, value in named]
    if status not in {204, 304}:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
